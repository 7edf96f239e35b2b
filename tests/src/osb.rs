//! A platform: what a client of the Open Service Broker API sends, and what it may expect of every answer.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Client, Method, RequestBuilder, Url, header::HeaderMap};
use serde_json::{Value, json};

use crate::wait::eventually;

/// The user and password of the example configuration.
pub const USER: &str = "starkandwayne";
/// The service of the example configuration.
pub const SERVICE: &str = "0f5c1670-6dc3-11e5-bc08-6c4008a663f0";
/// Its plan with asynchronous replicas.
pub const PLAN: &str = "1545e30e-6dc3-11e5-826a-6c4008a663f0";
/// Its plan with a synchronous replica.
pub const OTHER_PLAN: &str = "4209767d-c2cb-41de-988b-2970e80d5f3e";

/// How long an operation may take on a machine that does much else.
pub const OPERATION: Duration = Duration::from_secs(180);

/// A client with the right credentials and a version that is spoken.
#[derive(Debug, Clone)]
pub struct Osb {
    base: Url,
    client: Client,
}

/// What a broker answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub text: String,
    /// The body, which is always JSON.
    pub body: Value,
}

impl Osb {
    /// A client of the broker at this URL.
    ///
    /// # Panics
    /// When it is no URL.
    #[must_use]
    pub fn new(base: &str) -> Self {
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(400));
        Self {
            base: base.parse().unwrap(),
            client: client.build().unwrap(),
        }
    }

    /// Where the broker listens.
    ///
    /// # Panics
    /// When the URL does not hold an address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let authority = self.base.authority();
        authority.parse().unwrap()
    }

    /// The headers of a good request, for [`crate::raw`].
    #[must_use]
    pub fn raw_headers(&self) -> [(&'static str, String); 3] {
        let credentials = BASE64_STANDARD.encode(format!("{USER}:{USER}"));
        [
            ("authorization", format!("Basic {credentials}")),
            ("x-broker-api-version", "2.17".to_owned()),
            ("content-type", "application/json".to_owned()),
        ]
    }

    /// A request without credentials and version.
    ///
    /// # Panics
    /// When the path cannot be in a URL.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.base.join(path).unwrap())
    }

    /// A request with credentials and version.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path)
            .basic_auth(USER, Some(USER))
            .header("X-Broker-API-Version", "2.17")
    }

    /// `GET /v2/catalog`.
    pub async fn catalog(&self) -> Answer {
        send(self.request(Method::GET, "/v2/catalog")).await
    }

    /// An asynchronous `PUT` of an instance.
    pub async fn provision(&self, instance: &str, body: &Value) -> Answer {
        let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true");
        send(self.request(Method::PUT, &path).json(body)).await
    }

    /// A `PUT` of an instance that waits for its end (lenient posture).
    pub async fn provision_and_wait(&self, instance: &str, body: &Value) -> Answer {
        let path = format!("/v2/service_instances/{instance}");
        send(self.request(Method::PUT, &path).json(body)).await
    }

    /// An asynchronous `PATCH` of an instance.
    pub async fn update(&self, instance: &str, body: &Value) -> Answer {
        let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true");
        send(self.request(Method::PATCH, &path).json(body)).await
    }

    /// An asynchronous `DELETE` of an instance.
    pub async fn deprovision(&self, instance: &str) -> Answer {
        let ids = format!("service_id={SERVICE}&plan_id={PLAN}");
        let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true&{ids}");
        send(self.request(Method::DELETE, &path)).await
    }

    /// `GET` of an instance's last operation.
    pub async fn last_operation(&self, instance: &str) -> Answer {
        let path = format!("/v2/service_instances/{instance}/last_operation");
        send(self.request(Method::GET, &path)).await
    }

    /// `PUT` of a binding.
    pub async fn bind(&self, instance: &str, binding: &str) -> Answer {
        let body = json!({"service_id": SERVICE, "plan_id": PLAN});
        self.bind_with(instance, binding, &body).await
    }

    /// `PUT` of a binding with another body.
    pub async fn bind_with(&self, instance: &str, binding: &str, body: &Value) -> Answer {
        let path = format!("/v2/service_instances/{instance}/service_bindings/{binding}");
        send(self.request(Method::PUT, &path).json(body)).await
    }

    /// `DELETE` of a binding.
    pub async fn unbind(&self, instance: &str, binding: &str) -> Answer {
        let ids = format!("service_id={SERVICE}&plan_id={PLAN}");
        let path = format!("/v2/service_instances/{instance}/service_bindings/{binding}?{ids}");
        send(self.request(Method::DELETE, &path)).await
    }

    /// Polls until the latest operation has succeeded; answers all different descriptions that were shown.
    ///
    /// # Panics
    /// When it fails, or does not end.
    pub async fn succeeded(&self, instance: &str) -> Vec<String> {
        let mut shown: Vec<String> = Vec::new();
        eventually(&format!("the operation of {instance}"), OPERATION, async || {
            let answer = self.last_operation(instance).await;
            answer.expect(200);
            let description = answer.body["description"].as_str().unwrap_or_default();
            if shown.last().is_none_or(|last| last != description) {
                shown.push(description.to_owned());
            }
            match answer.body["state"].as_str() {
                Some("succeeded") => Some(()),
                Some("in progress") => None,
                _ => panic!("{}", answer.text),
            }
        })
        .await;
        shown
    }

    /// Makes an instance and waits until it stands.
    ///
    /// # Panics
    /// When that does not succeed.
    pub async fn make(&self, instance: &str, body: &Value) {
        self.provision(instance, body).await.expect(202);
        self.succeeded(instance).await;
    }

    /// Takes an instance away and waits until it is gone.
    ///
    /// # Panics
    /// When that does not succeed.
    pub async fn unmake(&self, instance: &str) {
        let answer = self.deprovision(instance).await;
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        self.succeeded(instance).await;
    }
}

impl Answer {
    /// An answer.
    ///
    /// # Panics
    /// When no client could read it: every answer is JSON and ends the line that it is shown on.
    #[must_use]
    pub fn new(status: u16, headers: HeaderMap, text: String) -> Self {
        let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {text:?}: {error}"));
        assert!(text.ends_with('\n'), "{text:?} does not end its line");
        assert_eq!(headers["content-type"], "application/json", "{text}");
        Self {
            status,
            headers,
            text,
            body,
        }
    }

    /// The same answer, provided that it has this status.
    ///
    /// # Panics
    /// When it has another one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// The text for people.
    #[must_use]
    pub fn description(&self) -> &str {
        self.body["description"].as_str().unwrap_or_default()
    }

    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Sends a request.
///
/// # Panics
/// When there is no answer, or one that no client could read.
pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer of the broker");
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await.expect("the whole answer of the broker");
    Answer::new(status, headers, text)
}

/// The body of a provision of so many nodes.
#[must_use]
pub fn nodes(count: u32) -> Value {
    json!({
        "service_id": SERVICE,
        "plan_id": PLAN,
        "organization_guid": "org",
        "space_guid": "space",
        "parameters": {"node-count": count},
    })
}

/// An id that no other test uses.
#[must_use]
pub fn fresh_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
