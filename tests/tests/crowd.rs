//! Two broker processes on one etcd that are asked for much at once. The cells are light stand-ins, so that there can be many
//! nodes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use reqwest::Method;
use serde_json::json;
use shared::record::{OperationState, Record};
use tests::{
    keys::Keys,
    osb::{Answer, OPERATION, Osb, PLAN, SERVICE, fresh_id, nodes, send},
    simulation::{Layout, audit, stand_in::StandIn},
    stack::{Options, Stack},
    wait::eventually,
};
use tokio::time::sleep;

/// How many instances are asked for at once.
const MANY: usize = 50;

struct Crowd {
    cells: StandIn,
    stack: Stack,
    before: Keys,
}

impl Crowd {
    async fn start() -> Self {
        let stack = Stack::start(Options {
            zones: Vec::new(),
            brokers: 2,
            router: false,
            variables: vec![("PORTS_RANGE", "30000-30099".to_owned())],
            ..Options::default()
        })
        .await;
        let [cells, router] = [99, 1].map(|number| stack.address(number).parse().unwrap());
        let layout = Layout {
            capacity: 100,
            // What is asked for at once is placed between two heartbeats.
            beat: 600,
            ..Layout::default()
        };
        let cells = StandIn::start(stack.etcd.client(), cells, router, 30000..=30099, layout).await;
        let before = stack.keys();
        Self { cells, stack, before }
    }

    /// All records.
    fn records(&self) -> Vec<Record> {
        let keys = Keys::below(&self.stack.etcd, "/serviceinstances").0.into_iter();
        let records = keys.filter(|(key, _)| key.ends_with("/record"));
        records.map(|(_, value)| Record::parse(&value).unwrap()).collect()
    }

    /// Sends a request for each id at once, to the brokers in turn.
    async fn to_both<F>(&self, ids: Vec<String>, request: impl Fn(Osb, String) -> F) -> Vec<Answer>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let brokers = self.stack.brokers.len();
        let send = |(number, id)| tokio::spawn(request(self.stack.osb_of(number % brokers), id));
        let sent: Vec<_> = ids.into_iter().enumerate().map(send).collect();
        let mut answers = Vec::new();
        for answer in sent {
            answers.push(answer.await.unwrap());
        }
        answers
    }

    /// How many nodes the records name on each cell.
    fn loads(&self) -> BTreeMap<String, usize> {
        let mut loads = BTreeMap::new();
        for node in self.records().iter().flat_map(|record| record.nodes.values()) {
            *loads.entry(node.cell.to_string()).or_default() += 1;
        }
        loads
    }

    /// Waits, without asking a broker, until no operation is under way.
    async fn at_rest(&self) {
        eventually("the end of all operations", OPERATION, async || {
            self.records().iter().all(Record::is_at_rest).then_some(())
        })
        .await;
    }

    /// Waits until there is nothing that should not be: what was left by requests that came too late is swept.
    async fn in_order(&self) {
        let mut wrong = Vec::new();
        for _ in 0..OPERATION.as_secs() {
            wrong = self.cells.look(audit::leavings);
            if wrong.is_empty() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
        panic!("{}", wrong.join("\n"));
    }
}

async fn patch(osb: Osb, instance: &str, count: u32) -> Answer {
    let body = json!({"service_id": SERVICE, "plan_id": PLAN, "parameters": {"node-count": count}});
    let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true");
    send(osb.request(Method::PATCH, &path).json(&body)).await
}

fn is_concurrency_error(answer: &Answer) -> bool {
    answer.status == 422 && answer.body["error"] == "ConcurrencyError"
}

#[tokio::test(flavor = "multi_thread")]
async fn many_instances_at_once_are_as_many_instances() {
    let crowd = Crowd::start().await;
    let ids: Vec<String> = (0..MANY).map(|_| fresh_id()).collect();
    let answers = crowd
        .to_both(ids.clone(), |osb, id| async move {
            osb.provision(&id, &nodes(2)).await
        })
        .await;
    assert!(answers.iter().all(|answer| answer.status == 202), "{answers:?}");
    // Nobody polls: the reconcile loops of both brokers move all of them on.
    crowd.at_rest().await;
    let records = crowd.records();
    let made: BTreeSet<_> = records
        .iter()
        .map(|record| record.instance_id.to_string())
        .collect();
    assert_eq!(made, ids.iter().cloned().collect());
    for record in &records {
        let last = record.last_operation.as_ref().unwrap();
        assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
        assert_eq!(record.staying().count(), 2, "{record:?}");
    }
    let ports: BTreeSet<_> = records.iter().filter_map(|record| record.port.owned()).collect();
    assert_eq!(ports.len(), MANY);
    crowd.in_order().await;
    let loads = crowd.loads();
    let (least, most) = (loads.values().min().unwrap(), loads.values().max().unwrap());
    assert_eq!(loads.len(), 6, "{loads:?}");
    assert!(most - least <= 1, "{loads:?}");

    let answers = crowd
        .to_both(ids, |osb, id| async move { osb.deprovision(&id).await })
        .await;
    let accepted = |answer: &Answer| matches!(answer.status, 200 | 202);
    assert!(answers.iter().all(accepted), "{answers:?}");
    eventually("the end of all instances", OPERATION, async || {
        crowd.records().is_empty().then_some(())
    })
    .await;
    crowd.in_order().await;
    crowd.stack.assert_gone(&crowd.before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provision_and_a_deprovision_at_once_leave_an_instance_or_none() {
    let crowd = Crowd::start().await;
    let (one, other) = (crowd.stack.osb_of(0), crowd.stack.osb_of(1));
    let (pair, mut outcomes) = (nodes(2), BTreeMap::new());
    for round in 0..8 {
        let (id, later) = (fresh_id(), Duration::from_millis(round * 8));
        // Of an id that nobody knows, and of an instance that stands.
        for known in [false, true] {
            if known {
                one.provision(&id, &pair).await;
                crowd.at_rest().await;
            }
            let before = crowd.stack.record(&id).map(|record| record.incarnation);
            assert_eq!(before.is_some(), known);
            let (put, delete) = tokio::join!(
                async {
                    sleep(if known { later } else { Duration::ZERO }).await;
                    one.provision(&id, &pair).await
                },
                async {
                    sleep(if known { Duration::ZERO } else { later }).await;
                    other.deprovision(&id).await
                },
            );
            crowd.at_rest().await;
            let after = crowd.stack.record(&id).map(|record| record.incarnation);
            // The provision that was accepted is the only one that may have made what is there.
            let expected = match (put.status, delete.status) {
                // After the deprovision, which found nothing or had ended.
                (202, 410) if !known => after.is_some(),
                (202, 200 | 202) if known => after.is_some() && after != before,
                // Before it.
                (202, 200 | 202) => after.is_none(),
                (200, 200 | 202) if known => after.is_none(),
                // During it, or it was taken back.
                (422, 200 | 202) => is_concurrency_error(&put) && after.is_none(),
                (422, 410) if !known => is_concurrency_error(&put) && after.is_none(),
                // The platform is asked to say it again.
                (202, 422) if !known => is_concurrency_error(&delete) && after.is_some(),
                _ => false,
            };
            assert!(expected, "{put:?} {delete:?} {before:?} {after:?}");
            *outcomes.entry((known, put.status, delete.status)).or_insert(0) += 1;
            if after.is_some() {
                one.unmake(&id).await;
            }
        }
        assert!(crowd.stack.record(&id).is_none());
    }
    println!("{outcomes:?}");
    crowd.in_order().await;
    crowd.stack.assert_gone(&crowd.before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_updates_at_once_one_is_refused() {
    let crowd = Crowd::start().await;
    let (one, other) = (crowd.stack.osb_of(0), crowd.stack.osb_of(1));
    for _ in 0..8 {
        let id = fresh_id();
        one.make(&id, &nodes(2)).await;
        let (first, second) = tokio::join!(patch(one.clone(), &id, 3), patch(other.clone(), &id, 4));
        let wanted = match (first.status, second.status) {
            (202, 422) if is_concurrency_error(&second) => 3,
            (422, 202) if is_concurrency_error(&first) => 4,
            _ => panic!("{first:?} {second:?}"),
        };
        one.succeeded(&id).await;
        let record = crowd.stack.record(&id).unwrap();
        assert_eq!(
            (record.node_count, record.staying().count()),
            (wanted, usize::try_from(wanted).unwrap())
        );
        one.unmake(&id).await;
    }
    crowd.in_order().await;
    crowd.stack.assert_gone(&crowd.before).await;
}
