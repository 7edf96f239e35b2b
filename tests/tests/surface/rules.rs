//! What holds for every answer (osb-reference.md, 1).

use serde_json::Value;

use crate::{
    answer::Answer,
    request::{IDENTITY, Request},
};

/// Fields of an error; all are optional, and no text is empty.
const FIELDS: [&str; 4] = ["error", "description", "instance_usable", "update_repeatable"];

/// What no answer may hold: addresses of the inside (cells are called `c1` and so on), and what only a log should say.
const INSIDE: [&str; 9] = [
    "127.0.0.1",
    "http://c",
    ":8008",
    ":8889",
    "/serviceinstances",
    "/routing",
    "panicked",
    ".rs:",
    "simulated",
];

/// Which rules an answer breaks. `changed`: whether anything is different since the request came.
pub(crate) fn broken(request: &Request, answer: &Answer, changed: bool) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |holds: bool, text: &str| {
        if !holds {
            broken.push(text.to_owned());
        }
    };
    if answer.status == 304 {
        rule(answer.text.is_empty(), "304 has no body");
    } else {
        rule(answer.text.ends_with('\n'), "an answer ends its line");
        rule(
            answer.header("content-type") == Some("application/json"),
            "an answer is JSON by its Content-Type",
        );
        rule(
            answer.body.as_ref().is_some_and(Value::is_object),
            "an answer is a JSON object",
        );
    }
    let asked = request.headers.get("x-broker-api-request-identity");
    let identity = asked.map(|_| IDENTITY);
    rule(
        answer.header("x-broker-api-request-identity") == identity,
        "an answer repeats the request identity",
    );
    rule(
        !INSIDE.iter().any(|inside| answer.text.contains(inside)),
        "an answer shows nothing of the inside",
    );
    let client_error = (400..500).contains(&answer.status);
    rule(!(client_error && changed), "a refused request changes nothing");
    if answer.status >= 400 {
        let body = answer.body.as_ref().and_then(Value::as_object);
        let fields = body.into_iter().flatten();
        for (name, value) in fields {
            rule(
                FIELDS.contains(&name.as_str()),
                "an error has the specified fields only",
            );
            rule(*value != "", "texts are not empty");
        }
        let described = body.is_some_and(|body| body.contains_key("description"));
        rule(described || answer.status == 410, "an error says why");
    }
    broken
}
