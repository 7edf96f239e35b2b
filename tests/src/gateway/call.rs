//! A request as a gateway hands it to a function, and what the function answers.

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName},
};
use serde_json::{Map, Value, json};

use crate::{
    osb::{Answer, USER},
    runtime_api::Function,
};

/// The name of the stage, where there is one.
const STAGE: &str = "prod";

/// How a gateway writes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A REST API under a stage: payload format 1.0. Ids stay as they are in the URL.
    Rest,
    /// An HTTP API: payload format 2.0. Ids are decoded.
    Http,
    /// The same, with the body in base64, as for types that the gateway takes for binary.
    HttpInBase64,
    /// An HTTP API under a named stage, which is in its paths, and that leaves ids as they are in the URL.
    HttpInStage,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rest, Self::Http, Self::HttpInBase64, Self::HttpInStage];

    /// Whether percent signs in ids are the function's business.
    pub(super) fn keeps_ids_encoded(self) -> bool {
        matches!(self, Self::Rest | Self::HttpInStage)
    }
}

/// A request as it came to the gateway, and the route that it took.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: String,
    /// The route's path, with parameters in braces.
    pub route: String,
    /// The parameters in the path, as the function gets them.
    pub parameters: Vec<(String, String)>,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Call {
    /// A request with good credentials and version, and a body of JSON (if any).
    #[must_use]
    pub fn new(method: &str, route: &str) -> Self {
        let credentials = BASE64_STANDARD.encode(format!("{USER}:{USER}"));
        let call = Self {
            method: method.to_owned(),
            route: route.to_owned(),
            parameters: Vec::new(),
            query: Vec::new(),
            headers: Vec::new(),
            body: String::new(),
        };
        call.header("authorization", &format!("Basic {credentials}"))
            .header("content-type", "application/json")
            .header("x-broker-api-version", "2.17")
    }

    /// With a parameter in the path.
    #[must_use]
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a parameter in the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another value of a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// Sends the request through the gateway to a function.
    ///
    /// # Panics
    /// When what the function answers is not for a gateway, or the function fails.
    pub async fn to(&self, function: &Function, format: Format) -> Answer {
        let (status, headers, text) = self.response(function, format).await;
        Answer::new(status, headers, text)
    }

    /// As [`Self::to`], with an answer that need not be JSON: status, headers and body.
    ///
    /// # Panics
    /// As [`Self::to`].
    pub async fn response(&self, function: &Function, format: Format) -> (u16, HeaderMap, String) {
        let outcome = function.invoke(self.event(format)).await;
        parts(&outcome.unwrap_or_else(|error| panic!("the function failed: {error}")))
    }

    /// The request as an event.
    #[must_use]
    pub fn event(&self, format: Format) -> Value {
        let path = self
            .parameters
            .iter()
            .fold(self.route.to_owned(), |path, (name, value)| {
                path.replace(&format!("{{{name}}}"), value)
            });
        let in_base64 = format == Format::HttpInBase64;
        let body = match (self.body.as_str(), in_base64) {
            ("", _) => Value::Null,
            (body, false) => body.into(),
            (body, true) => BASE64_STANDARD.encode(body).into(),
        };
        if format == Format::Rest {
            return json!({
                "resource": self.route,
                "path": path,
                "httpMethod": self.method,
                "headers": object(&self.headers),
                "multiValueHeaders": lists(&self.headers),
                "queryStringParameters": object(&self.query),
                "multiValueQueryStringParameters": lists(&self.query),
                "pathParameters": object(&self.parameters),
                "stageVariables": null,
                "requestContext": {
                    "resourceId": "r", "resourcePath": self.route, "httpMethod": self.method,
                    "path": format!("/{STAGE}{path}"), "accountId": "000000000000", "protocol": "HTTP/1.1",
                    "stage": STAGE, "domainPrefix": "broker", "requestId": "q", "apiId": "a",
                    "domainName": "broker.example.com", "identity": {"sourceIp": "192.0.2.1"},
                },
                "body": body,
                "isBase64Encoded": in_base64,
            });
        }
        let (stage, path) = match format {
            Format::HttpInStage => (STAGE, format!("/{STAGE}{path}")),
            _ => ("$default", path),
        };
        let route = format!("{} {}", self.method, self.route);
        json!({
            "version": "2.0",
            "routeKey": route,
            "rawPath": path,
            "rawQueryString": self.raw_query(),
            "headers": object(&self.headers),
            "queryStringParameters": object(&self.query),
            "pathParameters": object(&self.parameters),
            "requestContext": {
                "accountId": "000000000000", "apiId": "a", "domainName": "broker.example.com",
                "domainPrefix": "broker", "requestId": "q", "routeKey": route, "stage": stage,
                "time": "01/Jan/2026:00:00:00 +0000", "timeEpoch": 1_767_225_600_000_u64,
                "http": {
                    "method": self.method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1",
                    "userAgent": "test",
                },
            },
            "body": body,
            "isBase64Encoded": in_base64,
        })
    }

    fn raw_query(&self) -> String {
        // Whose query it is does not matter.
        let url = Url::parse_with_params("http://localhost", &self.query).unwrap();
        url.query().unwrap_or_default().to_owned()
    }
}

/// An empty one is `null`, as from the gateway.
fn object(pairs: &[(String, String)]) -> Value {
    let map: Map<_, _> = pairs
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
        .collect();
    if map.is_empty() { Value::Null } else { map.into() }
}

fn lists(pairs: &[(String, String)]) -> Value {
    let map: Map<_, _> = pairs
        .iter()
        .map(|(name, value)| (name.clone(), json!([value])))
        .collect();
    if map.is_empty() { Value::Null } else { map.into() }
}

fn parts(response: &Value) -> (u16, HeaderMap, String) {
    let mut headers = HeaderMap::new();
    let mut set = |name: &str, value: &Value| {
        let name: HeaderName = name.parse().unwrap();
        headers.insert(name, value.as_str().unwrap().parse().unwrap());
    };
    for (name, value) in response["headers"].as_object().into_iter().flatten() {
        set(name, value);
    }
    for (name, values) in response["multiValueHeaders"].as_object().into_iter().flatten() {
        set(name, &values[0]);
    }
    assert_ne!(response["isBase64Encoded"], true, "JSON is text: {response}");
    let status = response["statusCode"].as_u64().unwrap_or_default();
    let text = response["body"].as_str().unwrap_or_default().to_owned();
    (u16::try_from(status).unwrap(), headers, text)
}
