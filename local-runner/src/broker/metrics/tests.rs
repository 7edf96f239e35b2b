#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use shared::{
    decide::placement::{CellView, Room},
    reconcile::mend,
    transition,
};
use tracing::subscriber::with_default;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

/// What is rendered after `work`, which no other test takes part in.
fn counted(work: impl FnOnce()) -> Vec<String> {
    let recorder = builder().unwrap().build_recorder();
    ::metrics::with_local_recorder(&recorder, || {
        describe();
        with_default(tracing_subscriber::registry().with(FromLog), work);
    });
    let text = recorder.handle().render();
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_has(lines: &[String], line: &str) {
    assert!(
        lines.iter().any(|other| other == line),
        "{line} is not in\n{}",
        lines.join("\n")
    );
}

#[test]
fn lines_of_the_log_are_counted() {
    let lines = counted(|| {
        let ms: u64 = 3500;
        tracing::info!(target: transition::OPERATION, kind = "provision", state = "started", duration_ms = 0_u64, "x");
        tracing::info!(target: transition::OPERATION, kind = "provision", state = "in progress", duration_ms = ms, "x");
        tracing::warn!(target: transition::OPERATION, kind = "provision", state = "failed", duration_ms = ms, "x");
        tracing::info!(target: transition::PROVISION, phase = "leader", duration_ms = Some(ms), "x");
        tracing::warn!(target: mend::TARGET, kind = "allocation", why = "it was missing", "x");
        tracing::info!(target: "other", kind = "update", state = "started", "x");
    });
    assert_has(
        &lines,
        r#"patroni_broker_operations_total{kind="provision",state="started"} 1"#,
    );
    assert_has(
        &lines,
        r#"patroni_broker_operations_total{kind="provision",state="failed"} 1"#,
    );
    assert_has(
        &lines,
        r#"patroni_broker_operations_total{kind="update",state="started"} 0"#,
    );
    let seconds = r#"patroni_broker_operation_duration_seconds_bucket{kind="provision",state="failed",le="#;
    assert_has(&lines, &format!("{seconds}\"3\"}} 0"));
    assert_has(&lines, &format!("{seconds}\"4\"}} 1"));
    assert_has(
        &lines,
        r#"patroni_broker_provision_phase_seconds_sum{phase="leader"} 3.5"#,
    );
    assert_has(
        &lines,
        r#"patroni_broker_drift_mended_total{kind="allocation"} 1"#,
    );
    assert_has(&lines, r#"patroni_broker_drift_mended_total{kind="binding"} 0"#);
    assert!(!lines.iter().any(|line| line.contains("in progress")));
}

#[test]
fn only_what_was_seen_is_shown() {
    let cell = |guid: &str, room| CellView {
        guid: guid.parse().unwrap(),
        availability_zone: r#"a "zone""#.to_owned(),
        room,
    };
    let sight = Sight {
        cells: vec![
            cell(
                "live",
                Some(Room {
                    capacity: 20,
                    load: 3,
                }),
            ),
            cell("silent", None),
        ],
        under_way: vec![OperationKind::Update, OperationKind::Update],
    };
    let lines: Vec<String> = of_sight(Some(&sight)).lines().map(str::to_owned).collect();
    assert_has(&lines, "patroni_broker_etcd_up 1");
    assert_has(
        &lines,
        r#"patroni_broker_operations_in_progress{kind="update"} 2"#,
    );
    assert_has(
        &lines,
        r#"patroni_broker_operations_in_progress{kind="provision"} 0"#,
    );
    let labels = r#"{cell="live",availability_zone="a \"zone\""}"#;
    assert_has(&lines, &format!("patroni_broker_cell_capacity_nodes{labels} 20"));
    assert_has(&lines, &format!("patroni_broker_cell_load_nodes{labels} 3"));
    assert!(!lines.iter().any(|line| line.contains("silent")));

    let blind = of_sight(None);
    assert!(blind.contains("\npatroni_broker_etcd_up 0\n"), "{blind}");
    assert!(!blind.contains("cell_"), "{blind}");
}
