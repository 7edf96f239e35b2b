//! Any sequence of requests of several clients: each answer is one that the model allows, and what is left is what the model
//! says.
//!
//! The clients' requests come one after the other; those that overlap are the business of the simulation's races.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env,
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::Value;
use shared::binding::Binding as Stored;
use tests::{
    osb::PLAN,
    simulation::{audit, binding, instance},
};

use crate::{
    answer::Answer,
    model::{Ask, Attributes, Binding, ROTATABLE, State},
    openapi::Document,
    request::Request,
    rules,
    stage::Stage,
    table::Table,
};

const INSTANCES: [&str; 2] = ["i1", "i2"];
const BINDINGS: [&str; 3] = ["b1", "b2", "b3"];
/// How many sequences are tried, always the same ones. `SEQUENCES` says another number, of others each time.
const SEQUENCES: u32 = 150;
/// How many different answers in different situations they must have come to.
const SITUATIONS: usize = 90;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Ask(&'static str, Ask),
    /// So many seconds pass.
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let one_of = |names: &'static [&'static str]| prop::sample::select(names);
    let id = || one_of(&BINDINGS);
    let attributes = (one_of(&[ROTATABLE, PLAN, ROTATABLE]), 1..=3u32)
        .prop_map(|(plan, nodes)| Attributes { plan, nodes });
    let wanted =
        (one_of(&[ROTATABLE, PLAN, ROTATABLE]), any::<Option<bool>>()).prop_map(|(plan, read_only)| {
            Binding {
                plan,
                read_only,
                predecessor: None,
            }
        });
    let ask = prop_oneof![
        6 => attributes.prop_map(Ask::Provision),
        3 => (1..=3u32).prop_map(|nodes| Ask::Update { nodes }),
        1 => Just(Ask::Deprovision),
        1 => one_of(&["provision", "update", "deprovision"]).prop_map(Ask::Impatient),
        1 => one_of(&["provision", "update"]).prop_map(Ask::Excessive),
        2 => Just(Ask::Fetch),
        4 => Just(Ask::Poll),
        8 => (id(), wanted).prop_map(|(id, wanted)| Ask::Bind(id, wanted)),
        8 => (id(), id()).prop_map(|(id, predecessor)| Ask::Rotate(id, predecessor)),
        3 => id().prop_map(Ask::Unbind),
        2 => id().prop_map(Ask::FetchBinding),
        1 => id().prop_map(Ask::PollBinding),
    ];
    prop_oneof![
        5 => (one_of(&INSTANCES), ask).prop_map(|(instance, ask)| Step::Ask(instance, ask)),
        1 => prop_oneof![1..4u32, 20..40u32].prop_map(Step::Pass),
    ]
}

/// The request as the table writes it.
fn request(instance: &str, ask: Ask) -> Request {
    let nodes = |nodes: u32| format!("parameters={{\"node-count\":{nodes}}}");
    let text = match ask {
        Ask::Provision(wanted) => format!(
            "provision async plan_id=\"{}\" {}",
            wanted.plan,
            nodes(wanted.nodes)
        ),
        Ask::Update { nodes: count } => format!("update async {}", nodes(count)),
        Ask::Deprovision => "deprovision async".to_owned(),
        Ask::Impatient(endpoint) => endpoint.to_owned(),
        Ask::Excessive(endpoint) => format!("{endpoint} async {}", nodes(99)),
        Ask::Fetch => "fetch".to_owned(),
        Ask::Poll => "poll".to_owned(),
        Ask::Bind(id, wanted) => format!(
            "bind binding={id} plan_id=\"{}\" parameters={}",
            wanted.plan,
            wanted.parameters()
        ),
        Ask::Rotate(id, predecessor) => {
            format!("bind binding={id} -service_id -plan_id predecessor_binding_id=\"{predecessor}\"")
        }
        Ask::Unbind(id) => format!("unbind binding={id}"),
        Ask::FetchBinding(id) => format!("fetch-binding binding={id}"),
        Ask::PollBinding(id) => format!("poll-binding binding={id}"),
    };
    Request::parse(&format!("{text} instance={instance}"))
}

/// What is known of an instance from its answers.
struct Known {
    /// How it may stand with it.
    states: BTreeSet<State>,
    /// The operation that was begun last.
    operation: Option<String>,
    /// The credentials of its bindings.
    credentials: BTreeMap<String, Value>,
}

impl Known {
    fn nothing() -> Self {
        Self {
            states: BTreeSet::from([State::Nothing]),
            operation: None,
            credentials: BTreeMap::new(),
        }
    }

    /// Takes an answer in. Answers the states in which it was allowed.
    fn learn(&mut self, ask: Ask, answer: &Answer) -> Result<Vec<&'static str>, String> {
        let text = |name: &str| Some(answer.body.as_ref()?.get(name)?.as_str()?.to_owned());
        let operation = text("operation");
        let before: BTreeSet<State> = self.states.iter().flat_map(State::later).collect();
        let (mut allowing, mut next) = (Vec::new(), BTreeSet::new());
        let mut is_new = false;
        for state in &before {
            for outcome in state.outcomes(ask) {
                let same = operation == self.operation;
                if outcome.is(answer) && (answer.status != 202 || outcome.same_operation == same) {
                    allowing.push(state.name());
                    is_new |= !outcome.same_operation;
                    next.insert(outcome.next);
                }
            }
        }
        if next.is_empty() {
            return Err(format!(
                "{} is not allowed to {ask:?} in any of {before:?}",
                answer.status
            ));
        }
        if answer.status == 202 && is_new {
            self.operation = operation;
        }
        self.states = next;
        self.compare_credentials(ask, answer)?;
        Ok(allowing)
    }

    /// A binding's credentials stay the same as long as it lives, and no other's are like them.
    fn compare_credentials(&mut self, ask: Ask, answer: &Answer) -> Result<(), String> {
        let told = answer.body.as_ref().and_then(|body| body.get("credentials"));
        let (Ask::Bind(id, _) | Ask::Rotate(id, _) | Ask::FetchBinding(id)) = ask else {
            return Ok(());
        };
        match (answer.status, told) {
            (201, Some(told)) => {
                let alike = |other: &Value| {
                    other["username"] == told["username"] || other["password"] == told["password"]
                };
                if self.credentials.values().any(alike) {
                    return Err(format!("the credentials of {id} are another binding's"));
                }
                self.credentials.insert(id.to_owned(), told.clone());
                Ok(())
            }
            (200, told) if told == self.credentials.get(id) => Ok(()),
            (200 | 201, _) => Err(format!("other credentials of {id} than before, or none")),
            _ => Ok(()),
        }
    }
}

type Situations = BTreeSet<(String, &'static str, u16)>;

/// Plays a sequence.
async fn play(table: &Table, document: &Document, steps: &[Step]) -> Result<Situations, String> {
    let mut stage = Stage::new(table, "nothing").await;
    let mut known: BTreeMap<&str, Known> = INSTANCES.map(|id| (id, Known::nothing())).into();
    let mut situations = Situations::new();
    for step in steps {
        let (id, ask) = match step {
            Step::Pass(seconds) => {
                stage.go_on(*seconds).await;
                continue;
            }
            Step::Ask(id, ask) => (*id, *ask),
        };
        let request = request(id, ask);
        let before = stage.content();
        let answer = stage.ask(&request).await;
        // A poll may move an operation on, whatever it answers.
        let changed = !matches!(ask, Ask::Poll) && stage.content() != before;
        let mut wrong = rules::broken(&request, &answer, changed);
        wrong.extend(document.objections(&request, &answer));
        if !wrong.is_empty() {
            return Err(format!("{ask:?} of {id}: {}: {}", wrong.join("; "), answer.text));
        }
        let learnt = known.get_mut(id).unwrap().learn(ask, &answer);
        let allowing = learnt.map_err(|why| format!("{id}: {why}: {}", answer.text))?;
        let name = format!("{ask:?}");
        let name = name.split([' ', '(']).next().unwrap().to_owned();
        situations.extend(
            allowing
                .into_iter()
                .map(|state| (name.clone(), state, answer.status)),
        );
    }
    for (id, known) in &mut known {
        end(&mut stage, id, known).await?;
    }
    let mut leavings = audit::leavings(stage.world());
    // Patroni's last word may come after the end of a deprovision; when it has run out, its directory is empty.
    leavings
        .retain(|leaving| !(leaving.starts_with("/service/") && leaving.ends_with("/members is left empty")));
    if leavings.is_empty() {
        Ok(situations)
    } else {
        Err(leavings.join("\n"))
    }
}

/// Waits until nothing is under way, and compares what is left with what the model says.
async fn end(stage: &mut Stage, id: &str, known: &mut Known) -> Result<(), String> {
    stage.go_on(60).await;
    for ask in [Ask::Poll, Ask::Fetch] {
        let answer = stage.ask(&request(id, ask)).await;
        known
            .learn(ask, &answer)
            .map_err(|why| format!("at the end, {id}: {why}: {}", answer.text))?;
    }
    let there = stage.world().record(&instance(id));
    let content = stage.content();
    let prefix = format!("/serviceinstances/{id}/bindings/");
    let stored: BTreeMap<&str, Stored> = content
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, Stored::parse(value).unwrap())))
        .collect();
    let standing = known.states.iter().find_map(|state| match state {
        State::Standing(now, bindings) => Some((now, bindings)),
        _ => None,
    });
    let Some((now, bindings)) = standing else {
        return if there.is_none() && stored.is_empty() {
            Ok(())
        } else {
            Err(format!("{id} should be gone: {there:?} {stored:?}"))
        };
    };
    let record = there.ok_or_else(|| format!("{id} should be there"))?;
    let nodes = u32::try_from(record.nodes.len()).unwrap();
    if (record.request.plan_id.as_str(), nodes) != (now.plan, now.nodes) {
        return Err(format!("{id} should be {now:?}: {record:?}"));
    }
    let kept: Vec<&str> = stored.keys().copied().collect();
    let wanted: Vec<&str> = bindings.keys().copied().collect();
    if kept != wanted {
        return Err(format!(
            "{id} should have the bindings {wanted:?}, and has {kept:?}"
        ));
    }
    let roles = stored
        .iter()
        .map(|(name, stored)| stored.role(&instance(id), &binding(name)));
    let roles: BTreeSet<String> = roles.collect();
    let logins = stage.world().logins(&instance(id)).into_iter();
    let open: BTreeSet<String> = logins.filter_map(|(role, open)| open.then_some(role)).collect();
    if open == roles {
        Ok(())
    } else {
        Err(format!(
            "{id}: these can log in: {open:?}, these should: {roles:?}"
        ))
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a person says how long to look")]
fn any_sequence_of_requests_is_answered_as_the_reference_allows() {
    let (table, document) = (Table::load(), Document::load());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let more: Option<u32> = env::var("SEQUENCES").ok().map(|text| text.parse().unwrap());
    let sequences = more.unwrap_or(SEQUENCES);
    let config = Config {
        cases: sequences,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = match more {
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
        Some(_) => TestRunner::new(config),
    };
    let situations = RefCell::new(Situations::new());
    let steps = prop::collection::vec(step(), 1..80);
    let run = runner.run(&steps, |steps| {
        let reached = runtime.block_on(play(&table, &document, &steps));
        situations
            .borrow_mut()
            .extend(reached.map_err(TestCaseError::fail)?);
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    let situations = situations.into_inner();
    println!("{sequences} sequences came to {} situations", situations.len());
    assert!(
        situations.len() >= SITUATIONS,
        "{} situations: {situations:?}",
        situations.len()
    );
    for (ask, state, status) in [
        ("Provision", "gone", 202),
        ("Provision", "bound", 409),
        ("Provision", "leaving", 422),
        ("Update", "bound", 202),
        ("Deprovision", "changing", 202),
        ("Bind", "bound", 409),
        ("Rotate", "bound", 201),
        ("Rotate", "bound", 200),
        ("Rotate", "bound", 400),
        ("Unbind", "bound", 200),
        ("FetchBinding", "bound", 200),
        ("Fetch", "changing", 422),
        ("Poll", "gone", 200),
    ] {
        assert!(
            situations.contains(&(ask.to_owned(), state, status)),
            "not reached: {ask} {state} {status}"
        );
    }
}

/// The model is not one that allows everything: each answer that is altered is refused.
#[test]
fn another_answer_is_not_allowed() {
    let answer =
        |status, body: Value| Answer::new(status, lambda_http::http::HeaderMap::new(), body.to_string());
    let wanted = Attributes { plan: PLAN, nodes: 1 };
    for (status, body) in [
        (200, serde_json::json!({})),
        (201, serde_json::json!({})),
        (409, serde_json::json!({})),
        (422, serde_json::json!({"error": "ConcurrencyError"})),
    ] {
        let learnt = Known::nothing().learn(Ask::Provision(wanted), &answer(status, body));
        assert!(learnt.is_err(), "{status}: {learnt:?}");
    }
    let mut known = Known::nothing();
    let begun = |id: &str| answer(202, serde_json::json!({"operation": id}));
    known
        .learn(Ask::Provision(wanted), &begun("provision-1"))
        .unwrap();
    assert!(
        known
            .learn(Ask::Provision(wanted), &begun("provision-2"))
            .is_err(),
        "another operation"
    );
    known
        .learn(Ask::Provision(wanted), &begun("provision-1"))
        .unwrap();
    let told = answer(
        200,
        serde_json::json!({"plan_id": PLAN, "parameters": {"node-count": 2}}),
    );
    assert!(known.learn(Ask::Fetch, &told).is_err(), "another number of nodes");
}
