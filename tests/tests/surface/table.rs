//! Reads `table.md`.

use std::{collections::BTreeMap, fmt};

use crate::{
    answer::{Answer, Expected},
    openapi::Document,
    request::Request,
    rules,
};

const TEXT: &str = include_str!("table.md");

/// One row: what is answered to a request in a situation.
pub(crate) struct Row {
    pub(crate) situation: String,
    pub(crate) request: Request,
    pub(crate) expected: Expected,
    written: String,
}

/// The whole table.
pub(crate) struct Table {
    /// How each situation comes about: its steps.
    pub(crate) situations: BTreeMap<String, Vec<String>>,
    pub(crate) rows: Vec<Row>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Row {
    /// What is wrong with an answer, if anything is. `operation` is the one that was begun before; `changed` says whether the
    /// request has changed what is stored.
    pub(crate) fn failure(
        &self,
        document: &Document,
        answer: &Answer,
        operation: Option<&str>,
        changed: bool,
    ) -> Option<String> {
        let mut wrong = self.expected.differences(answer, operation);
        wrong.extend(rules::broken(&self.request, answer, changed));
        wrong.extend(document.objections(&self.request, answer));
        let text = answer.text.trim();
        (!wrong.is_empty()).then(|| format!("{self}\n  {}\n  {text}", wrong.join("\n  ")))
    }
}

impl Table {
    pub(crate) fn load() -> Self {
        let mut table = Self {
            situations: BTreeMap::new(),
            rows: Vec::new(),
        };
        let lines = TEXT.lines().filter(|line| line.starts_with('|'));
        for line in lines {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            match cells[..] {
                ["situation", ..] => {}
                [first, ..] if first.starts_with("---") => {}
                [situation, steps] => table.situation(situation, steps),
                [situation, request, status, answer] => table.rows.push(Row {
                    situation: situation.to_owned(),
                    request: Request::parse(request),
                    expected: Expected::parse(status, answer),
                    written: format!("{situation} | {request} | {status} | {answer}"),
                }),
                _ => panic!("neither a situation nor a row: {line}"),
            }
        }
        table
    }

    fn situation(&mut self, name: &str, steps: &str) {
        let steps = steps.split(';').map(str::trim).filter(|step| !step.is_empty());
        let before = self
            .situations
            .insert(name.to_owned(), steps.map(str::to_owned).collect());
        assert!(before.is_none(), "two situations {name}");
    }
}

/// Words apart at spaces, except within quotes of both kinds, braces and brackets.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut depth, mut quote) = (0, None);
    for c in text.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth -= 1,
            (None, ' ') if depth == 0 => {
                words.push(String::new());
                continue;
            }
            _ => {}
        }
        words.last_mut().unwrap().push(c);
    }
    words.retain(|word| !word.is_empty());
    words
}
