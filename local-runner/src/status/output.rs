//! Printing a sheet of rows.

use std::io::{IsTerminal, Write, stdout};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Map, Value};

use super::Output;

/// Rows under headings, and the original's form of each row.
pub(super) struct Sheet {
    /// The names of the columns, also the keys in JSON.
    pub(super) headings: &'static [&'static str],
    /// The rows, sorted.
    pub(super) rows: Vec<Row>,
}

/// One row.
pub(super) struct Row {
    /// As the original printed it; `None` for what it did not print.
    pub(super) line: Option<String>,
    /// A value for each heading; null for what is not known.
    pub(super) values: Vec<Value>,
}

/// Clears the screen and goes to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn print(sheet: &Sheet, form: Output, again: bool) -> Result<(), std::io::Error> {
    let text = match form {
        Output::Lines => sheet
            .rows
            .iter()
            .filter_map(|row| row.line.as_ref())
            .map(|line| format!("{line}\n"))
            .collect(),
        Output::Json => json(sheet),
        Output::Table => table(sheet),
    };
    let mut out = stdout().lock();
    let (before, after) = match (again, out.is_terminal()) {
        (true, true) => (CLEAR, ""),
        // Whoever reads it line by line sees where a look ends.
        (true, false) => ("", "\n"),
        (false, _) => ("", ""),
    };
    let text = format!("{before}{text}{after}");
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough: `service-status | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn json(sheet: &Sheet) -> String {
    let rows: Vec<Value> = sheet
        .rows
        .iter()
        .map(|row| {
            let fields = sheet.headings.iter().zip(&row.values);
            Value::Object(
                fields
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect::<Map<_, _>>(),
            )
        })
        .collect();
    // Texts and numbers only: serde_json cannot fail on them.
    let text = serde_json::to_string_pretty(&rows).unwrap_or_default();
    format!("{text}\n")
}

fn table(sheet: &Sheet) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(sheet.headings);
    for row in &sheet.rows {
        table.add_row(row.values.iter().map(cell));
    }
    format!("{table}\n")
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_each_value_by_its_heading() {
        let row = Row {
            line: None,
            values: vec!["f1".into(), Value::Null, 3.into()],
        };
        let sheet = Sheet {
            headings: &["id", "lag", "port"],
            rows: vec![row],
        };
        let read: Value = serde_json::from_str(&json(&sheet)).unwrap();
        assert_eq!(read, serde_json::json!([{"id": "f1", "lag": null, "port": 3}]));
        assert!(table(&sheet).contains("│ f1 ┆ -   ┆ 3    │"), "{}", table(&sheet));
    }
}
