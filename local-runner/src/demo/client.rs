//! Calling the broker as a platform does: over HTTP, by the Open Service Broker API.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::failure::Failure;
use crate::up::{Example, Facts};

/// The instance that the demo makes.
pub(super) const INSTANCE: &str = "demo";
const BINDING: &str = "demo-binding";
const ASYNCHRONOUS: (&str, &str) = ("accepts_incomplete", "true");
/// For one request. Longer than a gateway would wait.
const REQUEST: Duration = Duration::from_secs(60);

/// A platform.
pub(super) struct BrokerClient {
    http: Client,
    url: String,
    username: String,
    password: String,
    service_id: String,
    plan_id: String,
}

/// What `last_operation` says.
pub(super) struct Progress {
    /// `in progress`, `succeeded` or `failed`; `gone` for an instance that is no more.
    pub(super) state: String,
    /// In words.
    pub(super) description: String,
}

impl BrokerClient {
    pub(super) fn new(facts: &Facts) -> Result<Self, Failure> {
        let expected = || Failure::new("a broker with users and a catalog", "one without");
        let credentials = facts.credentials.as_ref().ok_or_else(expected)?;
        let Example {
            service_id, plan_id, ..
        } = facts.example.clone().ok_or_else(expected)?;
        let http = Client::builder().no_proxy().timeout(REQUEST).build();
        Ok(Self {
            http: http.map_err(Failure::instead_of("an HTTP client"))?,
            url: facts.broker_url(),
            username: credentials.username.clone(),
            password: credentials.password.expose_secret().to_owned(),
            service_id,
            plan_id,
        })
    }

    /// Asks for an instance with so many nodes; answers the operation to poll for.
    pub(super) async fn provision(&self, nodes: u32) -> Result<String, Failure> {
        let body = json!({
            "service_id": self.service_id,
            "plan_id": self.plan_id,
            "organization_guid": "demo-organization",
            "space_guid": "demo-space",
            "parameters": { "node-count": nodes },
        });
        let request = self.request(Method::PUT, INSTANCE, &[ASYNCHRONOUS])?.json(&body);
        let answer = ask(request, "PUT of the instance", StatusCode::ACCEPTED).await?;
        operation(&answer)
    }

    /// Asks for another number of nodes; answers the operation to poll for.
    pub(super) async fn update(&self, nodes: u32) -> Result<String, Failure> {
        let body = json!({ "service_id": self.service_id, "parameters": { "node-count": nodes } });
        let request = self
            .request(Method::PATCH, INSTANCE, &[ASYNCHRONOUS])?
            .json(&body);
        let answer = ask(request, "PATCH of the instance", StatusCode::ACCEPTED).await?;
        operation(&answer)
    }

    /// How far an operation is.
    pub(super) async fn last_operation(&self, operation: &str) -> Result<Progress, Failure> {
        let path = format!("{INSTANCE}/last_operation");
        let request = self.request(Method::GET, &path, &self.ids(&[("operation", operation)]))?;
        let (status, answer) = send(request, "GET last_operation").await?;
        let text = |key: &str| {
            answer
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        match status {
            StatusCode::OK => Ok(Progress {
                state: text("state"),
                description: text("description"),
            }),
            StatusCode::GONE => Ok(Progress {
                state: "gone".to_owned(),
                description: String::new(),
            }),
            _ => Err(unexpected("GET last_operation", "200", status, &answer)),
        }
    }

    /// Makes a binding; answers its credentials.
    pub(super) async fn bind(&self) -> Result<String, Failure> {
        let body = json!({ "service_id": self.service_id, "plan_id": self.plan_id });
        let request = self.request(Method::PUT, &binding(), &[])?.json(&body);
        let answer = ask(request, "PUT of the binding", StatusCode::CREATED).await?;
        let uri = answer.pointer("/credentials/uri").and_then(Value::as_str);
        uri.map(str::to_owned)
            .ok_or_else(|| Failure::new("credentials with a 'uri'", "an answer without"))
    }

    /// Takes the binding away.
    pub(super) async fn unbind(&self) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, &binding(), &self.ids(&[]))?;
        ask(request, "DELETE of the binding", StatusCode::OK)
            .await
            .map(drop)
    }

    /// Takes the instance away; answers the operation to poll for.
    pub(super) async fn deprovision(&self) -> Result<String, Failure> {
        let request = self.request(Method::DELETE, INSTANCE, &self.ids(&[ASYNCHRONOUS]))?;
        let answer = ask(request, "DELETE of the instance", StatusCode::ACCEPTED).await?;
        operation(&answer)
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Result<RequestBuilder, Failure> {
        let url = format!("{}/v2/service_instances/{path}", self.url);
        let url = Url::parse_with_params(&url, query).map_err(Failure::instead_of("a URL"))?;
        let request = self.http.request(method, url);
        Ok(request
            .basic_auth(&self.username, Some(&self.password))
            .header("X-Broker-API-Version", "2.17"))
    }

    fn ids<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut query = vec![
            ("service_id", self.service_id.as_str()),
            ("plan_id", self.plan_id.as_str()),
        ];
        query.extend(more);
        query
    }
}

fn binding() -> String {
    format!("{INSTANCE}/service_bindings/{BINDING}")
}

fn operation(answer: &Value) -> Result<String, Failure> {
    let operation = answer.get("operation").and_then(Value::as_str);
    operation
        .map(str::to_owned)
        .ok_or_else(|| Failure::new("an answer with an 'operation'", answer.to_string()))
}

async fn ask(request: RequestBuilder, what: &str, expected: StatusCode) -> Result<Value, Failure> {
    let (status, answer) = send(request, what).await?;
    if status == expected {
        return Ok(answer);
    }
    Err(unexpected(what, expected.as_str(), status, &answer))
}

async fn send(request: RequestBuilder, what: &str) -> Result<(StatusCode, Value), Failure> {
    let expected = format!("{what}: an answer in JSON");
    let answered = async {
        let response = request.send().await?;
        Ok::<_, reqwest::Error>((response.status(), response.json().await?))
    };
    answered.await.map_err(Failure::instead_of(expected))
}

fn unexpected(what: &str, expected: &str, status: StatusCode, answer: &Value) -> Failure {
    Failure::new(
        format!("{what}: {expected}"),
        format!("{} {answer}", status.as_u16()),
    )
}
