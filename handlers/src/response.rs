//! Answers: JSON with a newline at the end, so that a shell's prompt is where it belongs.

use lambda_http::{
    Body, Response,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
};
use serde_json::{Value, json};
use shared::{
    error::Error,
    record::{AfterFailure, OperationState},
};

/// Seconds after which a poll may find something new. A bootstrap takes about 3 s.
const POLL_AFTER: u32 = 2;

/// Clients of this minor version and later know `instance_usable` and `update_repeatable` (osb-reference.md, 14).
const AFTER_FAILURE: u16 = 16;

/// A successful answer: its status, body and headers of its own.
#[derive(Debug)]
pub struct Success {
    status: StatusCode,
    /// `None`: the client has it already.
    body: Option<Value>,
    headers: HeaderMap,
}

impl Success {
    fn new(status: StatusCode, body: Option<Value>) -> Self {
        Self {
            status,
            body,
            headers: HeaderMap::new(),
        }
    }

    /// 200 with this body.
    #[must_use]
    pub fn ok(body: Value) -> Self {
        Self::new(StatusCode::OK, Some(body))
    }

    /// 201 with this body.
    #[must_use]
    pub fn created(body: Value) -> Self {
        Self::new(StatusCode::CREATED, Some(body))
    }

    /// 202 with the operation to poll for.
    #[must_use]
    pub fn accepted(operation: &str) -> Self {
        Self::new(StatusCode::ACCEPTED, Some(json!({ "operation": operation })))
    }

    /// 304.
    #[must_use]
    pub fn not_modified() -> Self {
        Self::new(StatusCode::NOT_MODIFIED, None)
    }

    /// The same with a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same, with when to ask again while this is the state of an operation.
    #[must_use]
    pub fn to_be_polled(self, state: OperationState) -> Self {
        match state {
            OperationState::InProgress => self.with(header::RETRY_AFTER, POLL_AFTER.into()),
            OperationState::Succeeded | OperationState::Failed => self,
        }
    }

    /// The operation that the client is told to poll for.
    #[must_use]
    pub fn operation(&self) -> Option<&str> {
        let body = self.body.as_ref()?;
        body.get("operation")?.as_str()
    }

    /// As it is sent.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let mut response = match &self.body {
            Some(body) => json_response(self.status, body),
            None => {
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = self.status;
                response
            }
        };
        response.headers_mut().extend(self.headers.clone());
        response
    }
}

/// The answer to a request that was not done (osb-reference.md, 1, Error body), for a client of version 2.`minor`.
#[must_use]
pub fn of_error(error: &Error, minor: u16) -> Response<Body> {
    let answer = error.answer();
    let mut body = json!({ "description": error.to_string() });
    if let Some(word) = answer.word {
        body["error"] = word.into();
    }
    add_after_failure(&mut body, error.after_failure(), minor);
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // "Gone" means to a platform that all is as it wants it; the specification gives it an empty object.
    let mut response = if status == StatusCode::GONE {
        json_response(status, &json!({}))
    } else {
        json_response(status, &body)
    };
    let headers = response.headers_mut();
    if let Some(seconds) = answer.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"broker\""),
        );
    }
    response
}

/// Adds what a failure means for the instance, for a client that knows these fields.
pub(crate) fn add_after_failure(body: &mut Value, after: Option<AfterFailure>, minor: u16) {
    let Some(after) = after.filter(|_| minor >= AFTER_FAILURE) else {
        return;
    };
    body["instance_usable"] = after.instance_usable.into();
    if let Some(repeatable) = after.update_repeatable {
        body["update_repeatable"] = repeatable.into();
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::Text(text(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body as it is sent.
pub(crate) fn text(body: &Value) -> String {
    format!("{body}\n")
}
