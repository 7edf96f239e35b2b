//! What this process counts, as Prometheus reads it.
//!
//! **Guarantees.** Labels have few values: routes, methods and statuses that there are, kinds, names of live cells; nothing
//! that a client sends, and no instance. What etcd holds ([`Sight`]) is of one look, and a cell that is gone is not shown.
//! **Caveats.** What is counted is what this process has done; several brokers add up. Functions log theirs.

mod from_log;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use ::metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use shared::{
    etcd::Traffic,
    reconcile::mend::Mend,
    record::OperationKind,
    transition::{Milestone, Step},
};
use tokio::time::sleep;

pub(crate) use self::from_log::FromLog;
use super::lookout::Sight;

const REQUESTS: &str = "patroni_broker_http_requests_total";
const REQUEST_SECONDS: &str = "patroni_broker_http_request_duration_seconds";
const OPERATIONS: &str = "patroni_broker_operations_total";
const OPERATION_SECONDS: &str = "patroni_broker_operation_duration_seconds";
const PROVISION_SECONDS: &str = "patroni_broker_provision_phase_seconds";
const MENDED: &str = "patroni_broker_drift_mended_total";
const ETCD_REQUESTS: &str = "patroni_broker_etcd_requests_total";
const ETCD_FAILURES: &str = "patroni_broker_etcd_failures_total";
const ETCD_SENT: &str = "patroni_broker_etcd_sent_bytes_total";
const ETCD_RECEIVED: &str = "patroni_broker_etcd_received_bytes_total";
const ETCD_UP: &str = "patroni_broker_etcd_up";
const UNDER_WAY: &str = "patroni_broker_operations_in_progress";
const CELL_CAPACITY: &str = "patroni_broker_cell_capacity_nodes";
const CELL_LOAD: &str = "patroni_broker_cell_load_nodes";

/// Most answers need a few reads of etcd; those that wait for a cluster are as long as operations.
const OF_REQUESTS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];
/// A bootstrap takes about 3 s; the deadlines are minutes.
const OF_OPERATIONS: [f64; 14] = [
    0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 40.0, 90.0, 300.0, 600.0, 1800.0,
];

/// How often what was measured is put into its buckets, should nobody ask for it.
const TIDY: Duration = Duration::from_secs(5);

/// Why metrics cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct MetricsError(#[from] BuildError);

/// The metrics of this process.
#[derive(Clone)]
pub(super) struct Metrics(PrometheusHandle);

impl Metrics {
    /// Begins to count. A process has one set of metrics, also when its broker is started again.
    ///
    /// # Errors
    /// When something else in the process keeps metrics.
    pub(super) fn keep() -> Result<Self, MetricsError> {
        static KEPT: OnceLock<PrometheusHandle> = OnceLock::new();
        if let Some(handle) = KEPT.get() {
            return Ok(Self(handle.clone()));
        }
        let recorder = builder()?.build_recorder();
        let handle = recorder.handle();
        ::metrics::set_global_recorder(recorder).map_err(BuildError::from)?;
        describe();
        let handle = KEPT.get_or_init(|| handle);
        Ok(Self(handle.clone()))
    }

    /// Keeps what is measured from piling up until somebody reads it.
    pub(super) async fn keep_small(&self) {
        loop {
            sleep(TIDY).await;
            self.0.run_upkeep();
        }
    }

    /// All of it as text: what this process has done, and what etcd held at the last look, if it could be had.
    pub(super) fn text(&self, traffic: Traffic, sight: Option<&Sight>) -> String {
        counter!(ETCD_REQUESTS).absolute(traffic.requests);
        counter!(ETCD_FAILURES).absolute(traffic.failures);
        counter!(ETCD_SENT).absolute(traffic.bytes_sent);
        counter!(ETCD_RECEIVED).absolute(traffic.bytes_received);
        self.0.render() + &of_sight(sight)
    }
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(full(REQUEST_SECONDS), &OF_REQUESTS)?
        .set_buckets_for_metric(full(OPERATION_SECONDS), &OF_OPERATIONS)?
        .set_buckets_for_metric(full(PROVISION_SECONDS), &OF_OPERATIONS)
}

/// Says what each is, and begins those at zero whose labels are known.
fn describe() {
    describe_counter!(REQUESTS, "Requests answered, by route, method and status.");
    describe_histogram!(REQUEST_SECONDS, "From the head of a request to its answer.");
    describe_counter!(
        OPERATIONS,
        "Operations that this process started, ended well or gave up."
    );
    describe_histogram!(OPERATION_SECONDS, "From the start of an operation to its end.");
    describe_histogram!(
        PROVISION_SECONDS,
        "From the start of a provision to its port, its leader, all its nodes, and the whole."
    );
    describe_counter!(MENDED, "What differed from the records and was put right.");
    describe_counter!(
        ETCD_REQUESTS,
        "Requests begun to machines of etcd, and streams of watches."
    );
    describe_counter!(
        ETCD_FAILURES,
        "Those that were not answered, or with an error of etcd."
    );
    describe_counter!(ETCD_SENT, "Bytes sent to etcd.");
    describe_counter!(ETCD_RECEIVED, "Bytes received from etcd.");
    for kind in OperationKind::ALL {
        for step in [Step::Started, Step::Succeeded, Step::Failed] {
            counter!(OPERATIONS, "kind" => kind.as_str(), "state" => step.as_str()).increment(0);
        }
    }
    for mend in Mend::ALL {
        counter!(MENDED, "kind" => mend.as_str()).increment(0);
    }
}

/// Counts a request that was answered.
pub(super) fn request(method: &'static str, route: &'static str, status: u16, took: Duration) {
    let status = status.to_string();
    counter!(REQUESTS, "method" => method, "route" => route, "status" => status).increment(1);
    histogram!(REQUEST_SECONDS, "method" => method, "route" => route).record(took.as_secs_f64());
}

fn operation(kind: String, step: Step, took: Duration) {
    counter!(OPERATIONS, "kind" => kind.clone(), "state" => step.as_str()).increment(1);
    if matches!(step, Step::Succeeded | Step::Failed) {
        histogram!(OPERATION_SECONDS, "kind" => kind, "state" => step.as_str()).record(took.as_secs_f64());
    }
}

fn milestone(milestone: Milestone, took: Duration) {
    histogram!(PROVISION_SECONDS, "phase" => milestone.as_str()).record(took.as_secs_f64());
}

fn mended(kind: String) {
    counter!(MENDED, "kind" => kind).increment(1);
}

/// What etcd held. It is written by a recorder of its own, which forgets cells that are gone.
fn of_sight(sight: Option<&Sight>) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    ::metrics::with_local_recorder(&recorder, || {
        describe_gauge!(ETCD_UP, "Whether etcd answered when it was last asked.");
        gauge!(ETCD_UP).set(f64::from(u8::from(sight.is_some())));
        let Some(sight) = sight else { return };
        describe_gauge!(UNDER_WAY, "Operations under way, whoever serves them.");
        let mut under_way = BTreeMap::from(OperationKind::ALL.map(|kind| (kind.as_str(), 0)));
        for kind in &sight.under_way {
            *under_way.entry(kind.as_str()).or_default() += 1;
        }
        for (kind, count) in under_way {
            gauge!(UNDER_WAY, "kind" => kind).set(f64::from(count));
        }
        describe_gauge!(CELL_CAPACITY, "How many nodes a live cell may hold.");
        describe_gauge!(CELL_LOAD, "How many nodes a live cell holds.");
        for cell in &sight.cells {
            if let Some(room) = cell.room {
                let labels = [
                    ("cell", cell.guid.to_string()),
                    ("availability_zone", cell.availability_zone.clone()),
                ];
                gauge!(CELL_CAPACITY, &labels).set(f64::from(room.capacity));
                gauge!(CELL_LOAD, &labels).set(f64::from(room.load));
            }
        }
    });
    recorder.handle().render()
}
