//! How long it all took.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::steps::time;

/// Times, in the order in which they were taken.
#[derive(Debug, Default)]
pub(super) struct Timings(Vec<(&'static str, Duration)>);

impl Timings {
    /// Adds one.
    pub(super) fn add(&mut self, what: &'static str, took: Duration) {
        self.0.push((what, took));
    }

    /// A table of all.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["step", "time"]);
        for (what, took) in &self.0 {
            table.add_row([(*what).to_owned(), time(*took)]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}
