//! Counts what the log tells of operations and of drift.
//!
//! **Guarantees.** Log and metrics cannot differ: a line is counted where it is written. The library and the functions need
//! to know nothing of metrics for it.

use std::{fmt, time::Duration};

use shared::{
    reconcile::mend,
    transition::{self, Milestone, Step},
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// The layer that counts.
pub(crate) struct FromLog;

impl<S: Subscriber> Layer<S> for FromLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let count: fn(&Fields) = match event.metadata().target() {
            transition::OPERATION => operation,
            transition::PROVISION => milestone,
            mend::TARGET => |fields| super::mended(fields.kind.clone()),
            _ => return,
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        count(&fields);
    }
}

fn operation(fields: &Fields) {
    let counted = [Step::Started, Step::Succeeded, Step::Failed];
    if let Some(step) = counted.into_iter().find(|step| step.as_str() == fields.state) {
        super::operation(fields.kind.clone(), step, fields.duration);
    }
}

fn milestone(fields: &Fields) {
    let mut all = [
        Milestone::Port,
        Milestone::Leader,
        Milestone::Nodes,
        Milestone::Whole,
    ]
    .into_iter();
    if let Some(milestone) = all.find(|milestone| milestone.as_str() == fields.phase) {
        super::milestone(milestone, fields.duration);
    }
}

/// The fields that are counted.
#[derive(Default)]
struct Fields {
    kind: String,
    state: String,
    phase: String,
    duration: Duration,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let field = match field.name() {
            "kind" => &mut self.kind,
            "state" => &mut self.state,
            "phase" => &mut self.phase,
            _ => return,
        };
        value.clone_into(field);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "duration_ms" {
            self.duration = Duration::from_millis(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
