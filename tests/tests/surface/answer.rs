//! An answer, and what a row expects of it.

use lambda_http::http::HeaderMap;
use serde_json::Value;

use crate::table::words;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// The text as JSON; `None` when it is none.
    pub(crate) body: Option<Value>,
}

impl Answer {
    pub(crate) fn new(status: u16, headers: HeaderMap, text: String) -> Self {
        let body = serde_json::from_str(&text).ok();
        Self {
            status,
            headers,
            text,
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A part of the body by its path: `services.0.name`.
    fn part(&self, path: &str) -> Option<&Value> {
        self.body
            .as_ref()?
            .pointer(&format!("/{}", path.replace('.', "/")))
    }
}

/// What is expected.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) status: u16,
    words: Vec<String>,
}

impl Expected {
    pub(crate) fn parse(status: &str, answer: &str) -> Self {
        let status = status.parse().unwrap_or_else(|_| panic!("no status: {status}"));
        Self {
            status,
            words: words(answer),
        }
    }

    /// What is not as expected. `operation` is the one that the last request before had begun.
    pub(crate) fn differences(&self, answer: &Answer, operation: Option<&str>) -> Vec<String> {
        let mut wrong = Vec::new();
        if answer.status != self.status {
            wrong.push(format!("the status is {}", answer.status));
        }
        let missed = self.words.iter().filter(|word| !holds(word, answer, operation));
        wrong.extend(missed.map(|word| format!("not so: {word}")));
        wrong
    }
}

fn holds(word: &str, answer: &Answer, operation: Option<&str>) -> bool {
    let text = |value: &str| value.trim_matches('"').to_owned();
    let begun = || answer.part("operation").and_then(Value::as_str);
    if word == "same-operation" {
        return begun().is_some() && begun() == operation;
    }
    if word == "new-operation" {
        return begun().is_some() && begun() != operation;
    }
    if word == "{}" {
        return answer.text == "{}\n";
    }
    if let Some(part) = word.strip_prefix('~') {
        let description = answer.part("description").and_then(Value::as_str);
        return description.is_some_and(|description| description.contains(&text(part)));
    }
    if let Some(path) = word.strip_prefix('!') {
        return match path.strip_prefix('@') {
            Some(name) => answer.header(name).is_none(),
            None => answer.part(path).is_none(),
        };
    }
    if let Some(header) = word.strip_prefix('@') {
        return match header.split_once('=') {
            Some((name, value)) => answer.header(name) == Some(value),
            None => answer.header(header).is_some(),
        };
    }
    match word.split_once('=') {
        Some((path, value)) => {
            let value: Value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            answer.part(path) == Some(&value)
        }
        None => answer.part(word).is_some(),
    }
}
