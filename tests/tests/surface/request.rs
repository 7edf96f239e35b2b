//! A request as a row writes it.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use tests::osb::{PLAN, SERVICE, USER};

use crate::table::words;

const INSTANCE: &str = "/v2/service_instances/{instance_id}";
const INSTANCE_LAST: &str = "/v2/service_instances/{instance_id}/last_operation";
const BINDING: &str = "/v2/service_instances/{instance_id}/service_bindings/{binding_id}";
const BINDING_LAST: &str = "/v2/service_instances/{instance_id}/service_bindings/{binding_id}/last_operation";

/// What every request is known by; every answer must repeat it.
pub(crate) const IDENTITY: &str = "e26cee84-6b38-4456-b34e-d1a9f002c956";

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The endpoint's method and path, if there is such an endpoint.
    pub(crate) route: Option<(&'static str, &'static str)>,
    pub(crate) method: String,
    /// The path with its parameters filled in.
    pub(crate) path: String,
    pub(crate) parameters: BTreeMap<&'static str, String>,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// Whether it goes to a lenient broker.
    pub(crate) lenient: bool,
}

impl Request {
    /// `<endpoint> <word>...`, or `<METHOD> <path> <word>...`. See `table.md`.
    pub(crate) fn parse(text: &str) -> Self {
        let words = words(text);
        let (first, rest) = words.split_first().unwrap();
        let instance = json!({"service_id": SERVICE, "plan_id": PLAN, "organization_guid": "o", "space_guid": "s",
            "parameters": {"node-count": 2}});
        let ids = json!({"service_id": SERVICE, "plan_id": PLAN});
        let (route, body, has_ids) = match first.as_str() {
            "catalog" => (("GET", "/v2/catalog"), None, false),
            "provision" => (("PUT", INSTANCE), Some(instance), false),
            "fetch" => (("GET", INSTANCE), None, false),
            "update" => (("PATCH", INSTANCE), Some(json!({"service_id": SERVICE})), false),
            "deprovision" => (("DELETE", INSTANCE), None, true),
            "poll" => (("GET", INSTANCE_LAST), None, false),
            "bind" => (("PUT", BINDING), Some(ids), false),
            "fetch-binding" => (("GET", BINDING), None, false),
            "unbind" => (("DELETE", BINDING), None, true),
            "poll-binding" => (("GET", BINDING_LAST), None, false),
            method => return Self::elsewhere(method, rest),
        };
        let mut draft = Draft::new(route.0, body);
        if has_ids {
            draft.query.insert("service_id".to_owned(), SERVICE.to_owned());
            draft.query.insert("plan_id".to_owned(), PLAN.to_owned());
        }
        draft.apply(rest);
        draft.finish(Some(route), route.1)
    }

    fn elsewhere(method: &str, words: &[String]) -> Self {
        let (path, rest) = words.split_first().unwrap();
        let mut draft = Draft::new(method, None);
        draft.apply(rest);
        draft.finish(None, path)
    }
}

/// A request that is being put together.
struct Draft {
    method: String,
    ids: BTreeMap<&'static str, String>,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Option<Map<String, Value>>,
    raw: Option<String>,
    lenient: bool,
}

impl Draft {
    fn new(method: &str, body: Option<Value>) -> Self {
        let headers = [
            ("authorization", basic(USER, USER)),
            ("content-type", "application/json".to_owned()),
            ("x-broker-api-version", "2.17".to_owned()),
            ("x-broker-api-request-identity", IDENTITY.to_owned()),
        ];
        Self {
            method: method.to_owned(),
            ids: BTreeMap::from([("instance_id", "i1".to_owned()), ("binding_id", "b1".to_owned())]),
            query: BTreeMap::new(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            body: body.map(|body| body.as_object().unwrap().clone()),
            raw: None,
            lenient: false,
        }
    }

    fn apply(&mut self, words: &[String]) {
        for word in words {
            self.apply_word(word);
        }
    }

    fn apply_word(&mut self, word: &str) {
        let pair = word.split_once('=');
        match (word, pair) {
            ("async", _) => self.set_query("accepts_incomplete", "true"),
            ("lenient", _) => self.lenient = true,
            (_, Some(("instance", id))) => drop(self.ids.insert("instance_id", id.to_owned())),
            (_, Some(("binding", id))) => drop(self.ids.insert("binding_id", id.to_owned())),
            (_, Some(("version", version))) => self.set_header("x-broker-api-version", version),
            (_, Some(("user", pair))) => {
                let (user, password) = pair.split_once(':').unwrap();
                self.set_header("authorization", &basic(user, password));
            }
            (_, Some(("body", text))) => self.raw = Some(text.trim_matches('\'').to_owned()),
            _ => self.apply_change(word),
        }
    }

    /// `?name=value` sets a query parameter, `@name=value` a header, `name=json` a field of the body; `-` in front takes
    /// one away.
    fn apply_change(&mut self, word: &str) {
        if let Some(name) = word.strip_prefix("-?") {
            self.query.remove(name).unwrap();
        } else if let Some(name) = word.strip_prefix("-@") {
            self.headers.remove(name).unwrap();
        } else if let Some(name) = word.strip_prefix('-') {
            self.body.as_mut().unwrap().remove(name).unwrap();
        } else if let Some((name, value)) = word.split_once('=') {
            if let Some(name) = name.strip_prefix('?') {
                self.set_query(name, value);
            } else if let Some(name) = name.strip_prefix('@') {
                self.set_header(name, value.trim_matches('\''));
            } else {
                let value = serde_json::from_str(value).unwrap_or_else(|error| panic!("{word}: {error}"));
                self.body.as_mut().unwrap().insert(name.to_owned(), value);
            }
        } else {
            panic!("no word of a request: {word}");
        }
    }

    fn set_query(&mut self, name: &str, value: &str) {
        self.query.insert(name.to_owned(), value.to_owned());
    }

    fn set_header(&mut self, name: &str, value: &str) {
        self.headers.insert(name.to_owned(), value.to_owned());
    }

    fn finish(self, route: Option<(&'static str, &'static str)>, path: &str) -> Request {
        let parameters: BTreeMap<_, _> = self
            .ids
            .into_iter()
            .filter(|(name, _)| path.contains(&format!("{{{name}}}")))
            .collect();
        let path = parameters.iter().fold(path.to_owned(), |path, (name, value)| {
            path.replace(&format!("{{{name}}}"), value)
        });
        let body = self.body.map(|body| Value::Object(body).to_string());
        Request {
            route,
            method: self.method,
            path,
            parameters,
            query: self.query,
            headers: self.headers,
            body: self.raw.or(body).unwrap_or_default(),
            lenient: self.lenient,
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    let pair = BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {pair}")
}
