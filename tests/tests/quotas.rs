//! A plan that allows so many instances, asked for by many at once at two brokers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use serde_json::{Value, json};
use tests::{
    osb::{PLAN, SERVICE, fresh_id, nodes},
    stack::{Options, Stack},
};

/// How many instances the plan `few` allows.
const FEW: usize = 2;

fn catalog() -> String {
    let catalog = json!([{
        "id": SERVICE, "name": "postgresql", "description": "PostgreSQL", "plan_updateable": true,
        "plans": [
            {"id": "few", "name": "few", "description": "not many", "cluster": {"instances": {"max": FEW}}},
            {"id": PLAN, "name": "many", "description": "as many as there is room for"},
        ],
    }]);
    catalog.to_string()
}

fn of_plan(plan: &str) -> Value {
    let mut body = nodes(1);
    body["plan_id"] = plan.into();
    body
}

#[tokio::test]
async fn exactly_as_many_are_made_as_the_plan_allows() {
    let stack = Stack::start(Options {
        brokers: 2,
        variables: vec![("CATALOG_SERVICES", catalog())],
        ..Options::default()
    })
    .await;
    let before = stack.keys();
    let ids: Vec<String> = (0..3 * FEW).map(|_| fresh_id()).collect();
    let sent: Vec<_> = (0..)
        .zip(&ids)
        .map(|(number, id)| {
            let (osb, id) = (stack.osb_of(number % 2), id.clone());
            tokio::spawn(async move {
                let answer = osb.provision(&id, &of_plan("few")).await;
                (id, answer)
            })
        })
        .collect();
    let (mut made, mut refused) = (Vec::new(), Vec::new());
    for answer in sent {
        let (id, answer) = answer.await.unwrap();
        if answer.status == 202 {
            made.push(id);
            continue;
        }
        let description = answer.expect(422).description();
        assert!(description.contains("the plan 'few'"), "{description}");
        assert!(answer.body["error"].is_null(), "{}", answer.text);
        refused.push(id);
    }
    assert_eq!(made.len(), FEW, "{made:?}");
    let keys = stack.keys().0;
    for id in &refused {
        let left: Vec<_> = keys
            .iter()
            .filter(|(key, value)| key.contains(id) || value.contains(id))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let reservations = keys
        .keys()
        .filter(|key| key.starts_with("/quotas/few/") && !key.ends_with('/'));
    assert_eq!(reservations.count(), FEW);

    // A repetition is no further instance; one that goes makes room for one that comes from another plan.
    let osb = stack.osb();
    for id in &made {
        let again = osb.provision(id, &of_plan("few")).await;
        assert!(matches!(again.status, 200 | 202), "{again:?}");
        osb.succeeded(id).await;
    }
    let other = &refused[0];
    osb.make(other, &of_plan(PLAN)).await;
    let change = json!({"service_id": SERVICE, "plan_id": "few"});
    osb.update(other, &change).await.expect(422);
    osb.unmake(&made[0]).await;
    osb.update(other, &change).await.expect(202);
    osb.provision(&refused[1], &of_plan("few")).await.expect(422);
    osb.succeeded(other).await;
    for id in [&made[1], other] {
        osb.unmake(id).await;
    }
    stack.assert_gone(&before).await;
}
