//! Metrics of functions, in their logs: CloudWatch's embedded metric format, a line of JSON for each event.
//!
//! **Assumes.** A function handles one event at a time, so that what its client of etcd has sent meanwhile was for that event.

use std::{
    io::{self, Write},
    time::Instant,
};

use serde_json::{Map, Value, json};

use crate::app::App;

const NAMESPACE: &str = "PatroniBroker";

/// An event that is being handled.
pub(crate) struct Measurement<'a> {
    app: &'a App,
    function: &'static str,
    began: Instant,
    etcd_requests: u64,
    etcd_failures: u64,
}

impl<'a> Measurement<'a> {
    /// The clock starts.
    pub(crate) fn begin(app: &'a App, function: &'static str) -> Self {
        let traffic = app.etcd.traffic();
        Self {
            app,
            function,
            began: Instant::now(),
            etcd_requests: traffic.requests,
            etcd_failures: traffic.failures,
        }
    }

    /// Writes the line, with further counts of this event, and properties that are not metrics.
    pub(crate) fn end(self, failed: bool, counts: &[(&str, usize)], properties: Map<String, Value>) {
        let traffic = self.app.etcd.traffic();
        let milliseconds = self.began.elapsed().as_micros() as f64 / 1000.0;
        let count = |value: u64| (json!(value), "Count");
        let mut metrics = vec![
            ("requests", count(1)),
            ("errors", count(u64::from(failed))),
            ("duration", (json!(milliseconds), "Milliseconds")),
            ("etcd_requests", count(traffic.requests - self.etcd_requests)),
            ("etcd_failures", count(traffic.failures - self.etcd_failures)),
        ];
        metrics.extend(counts.iter().map(|(name, value)| (*name, count(*value as u64))));
        let timestamp = self.app.broker.clock.now().as_millisecond();
        let line = line(self.function, timestamp, metrics, properties);
        // A function whose output is closed has nobody to tell.
        let _ = writeln!(io::stdout().lock(), "{line}");
    }
}

/// `timestamp` in milliseconds since 1970. Metrics by name, each with its value and unit; the function is the dimension.
fn line(
    function: &str,
    timestamp: i64,
    metrics: Vec<(&str, (Value, &str))>,
    properties: Map<String, Value>,
) -> Value {
    let definitions: Vec<Value> = metrics
        .iter()
        .map(|(name, (_, unit))| json!({ "Name": name, "Unit": unit }))
        .collect();
    let mut line = Map::new();
    line.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": timestamp,
            "CloudWatchMetrics": [{
                "Namespace": NAMESPACE, "Dimensions": [["function"]], "Metrics": definitions,
            }],
        }),
    );
    line.insert("function".to_owned(), function.into());
    line.extend(properties);
    line.extend(
        metrics
            .into_iter()
            .map(|(name, (value, _))| (name.to_owned(), value)),
    );
    line.into()
}
