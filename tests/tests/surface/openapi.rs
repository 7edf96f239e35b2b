//! `config/openapi.yaml`, and what it says of an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use jsonschema::Validator;
use serde_json::{Value, json};
use tests::binaries::repository_file;

use crate::{answer::Answer, request::Request};

/// A method in capitals and a path.
pub(crate) type Endpoint = (String, String);

/// The document.
pub(crate) struct Document {
    /// The paths that no handler serves, but local-runner itself.
    pub(crate) of_local_runner: BTreeSet<String>,
    /// What each endpoint may answer; `None` where there is no body.
    bodies: BTreeMap<(Endpoint, u16), Option<Validator>>,
}

impl Document {
    pub(crate) fn load() -> Self {
        let text = fs::read_to_string(repository_file("config/openapi.yaml")).unwrap();
        let whole: Value = serde_saphyr::from_str(&text).unwrap();
        let mut bodies = BTreeMap::new();
        let (own, paths): (Vec<_>, Vec<_>) = whole["paths"]
            .as_object()
            .unwrap()
            .iter()
            .partition(|(_, item)| item["x-served-by"] == "local-runner");
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let endpoint = (method.to_uppercase(), path.clone());
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let response = resolve(&whole, response);
                    let schema = response.pointer("/content/application~1json/schema");
                    let validator = schema.map(|schema| validator(&whole, schema));
                    bodies.insert((endpoint.clone(), status.parse().unwrap()), validator);
                }
            }
        }
        Self {
            of_local_runner: own.into_iter().map(|(path, _)| path.clone()).collect(),
            bodies,
        }
    }

    /// All endpoints.
    pub(crate) fn routes(&self) -> BTreeSet<Endpoint> {
        self.bodies.keys().map(|(endpoint, _)| endpoint.clone()).collect()
    }

    /// All endpoints with each status that they may answer.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (&Endpoint, u16)> {
        self.bodies.keys().map(|(endpoint, status)| (endpoint, *status))
    }

    /// What in an answer is not as the document says.
    pub(crate) fn objections(&self, request: &Request, answer: &Answer) -> Vec<String> {
        let Some((method, path)) = request.route else {
            return Vec::new();
        };
        let endpoint = (method.to_owned(), path.to_owned());
        match self.bodies.get(&(endpoint, answer.status)) {
            None => vec![format!("openapi.yaml knows no {} of it", answer.status)],
            Some(None) => Vec::new(),
            Some(Some(validator)) => {
                let body = answer.body.clone().unwrap_or_default();
                let errors = validator.iter_errors(&body);
                errors.map(|error| format!("openapi.yaml: {error}")).collect()
            }
        }
    }
}

/// What a reference leads to.
fn resolve<'d>(whole: &'d Value, part: &'d Value) -> &'d Value {
    match part["$ref"].as_str() {
        Some(reference) => whole.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => part,
    }
}

/// Schemas of OpenAPI 3.1 are JSON Schemas of 2020-12, and refer to each other by their place in the document.
fn validator(whole: &Value, schema: &Value) -> Validator {
    let mut schema = schema.clone();
    schema["components"] = json!({ "schemas": whole["components"]["schemas"] });
    jsonschema::draft202012::new(&schema).unwrap()
}
