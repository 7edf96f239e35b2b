//! Answers: JSON with a newline at the end, so that a shell's prompt is where it belongs.

use lambda_http::{
    Body, Response,
    http::{HeaderValue, StatusCode, header},
};
use serde::Serialize;
use serde_json::{Value, json};
use shared::error::Error;

/// A successful answer: its status and body.
#[derive(Debug)]
pub struct Success {
    status: StatusCode,
    body: Value,
}

impl Success {
    /// 200 with this body.
    #[must_use]
    pub fn ok(body: Value) -> Self {
        Self {
            status: StatusCode::OK,
            body,
        }
    }

    /// 201 with this body.
    #[must_use]
    pub fn created(body: Value) -> Self {
        Self {
            status: StatusCode::CREATED,
            body,
        }
    }

    /// 202 with the operation to poll for.
    #[must_use]
    pub fn accepted(operation: &str) -> Self {
        Self {
            status: StatusCode::ACCEPTED,
            body: json!({ "operation": operation }),
        }
    }
}

impl Success {
    /// As it is sent.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        json_response(self.status, &self.body)
    }
}

/// The answer to a request that was not done (osb-reference.md, 1, Error body).
#[must_use]
pub fn of_error(error: &Error) -> Response<Body> {
    let answer = error.answer();
    let mut body = json!({ "description": error.to_string() });
    if let Some(word) = answer.word {
        body["error"] = word.into();
    }
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

/// An answer with any JSON.
#[must_use]
pub fn json_response(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    // Bodies are made of texts, numbers and maps with text keys: serde_json cannot fail on them.
    let mut text = serde_json::to_string(body).unwrap_or_default();
    text.push('\n');
    let mut response = Response::new(Body::Text(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
