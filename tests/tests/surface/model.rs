//! What osb-reference.md allows, as a machine: in each state of an instance, which answers each request may get, and what is
//! then so. Nothing fails in this world: operations end well, at a moment that nobody knows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::answer::Answer;

/// The plan whose bindings can be rotated.
pub(crate) const ROTATABLE: &str = "rotatable";

/// What an instance was asked to be, as far as sequences differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attributes {
    pub(crate) plan: &'static str,
    pub(crate) nodes: u32,
}

/// What a binding was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) plan: &'static str,
    pub(crate) read_only: Option<bool>,
    pub(crate) predecessor: Option<&'static str>,
}

pub(crate) type Bindings = BTreeMap<&'static str, Binding>;

/// A request about an instance.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    Provision(Attributes),
    Update {
        nodes: u32,
    },
    Deprovision,
    /// Any of the three by a client that does not poll.
    Impatient(&'static str),
    /// Either of the first two with more nodes than any plan has.
    Excessive(&'static str),
    Fetch,
    Poll,
    Bind(&'static str, Binding),
    /// Nothing but a binding's id and its predecessor's.
    Rotate(&'static str, &'static str),
    Unbind(&'static str),
    FetchBinding(&'static str),
    PollBinding(&'static str),
}

/// How it stands with an instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Nothing,
    /// Deprovisioned, and that is still known.
    Gone,
    Making(Attributes),
    Standing(Attributes, Bindings),
    /// Being updated, to so many nodes.
    Changing(Attributes, u32, Bindings),
    Leaving(Bindings),
}

/// An answer that is allowed, and what it means.
pub(crate) struct Outcome {
    status: u16,
    /// Fields of the body that must be so.
    body: Value,
    /// Whether the operation must be the one that was begun before.
    pub(crate) same_operation: bool,
    pub(crate) next: State,
}

impl Outcome {
    /// Whether this is what was answered.
    pub(crate) fn is(&self, answer: &Answer) -> bool {
        let fields = self.body.as_object().into_iter().flatten();
        let told = |name: &String| answer.body.as_ref().and_then(|body| body.get(name));
        answer.status == self.status && fields.into_iter().all(|(name, value)| told(name) == Some(value))
    }
}

impl State {
    /// The name of the state, for counting.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Gone => "gone",
            Self::Making(_) => "making",
            Self::Standing(_, bindings) if bindings.is_empty() => "standing",
            Self::Standing(..) => "bound",
            Self::Changing(..) => "changing",
            Self::Leaving(_) => "leaving",
        }
    }

    /// What may be so without any request: operations end, and what is gone is forgotten.
    pub(crate) fn later(&self) -> BTreeSet<Self> {
        let mut all = BTreeSet::from([self.clone()]);
        all.extend(match self {
            Self::Nothing | Self::Standing(..) => vec![],
            Self::Gone => vec![Self::Nothing],
            Self::Making(wanted) => vec![Self::Standing(*wanted, Bindings::new())],
            Self::Changing(before, nodes, bindings) => {
                let now = Attributes {
                    nodes: *nodes,
                    ..*before
                };
                vec![Self::Standing(now, bindings.clone())]
            }
            Self::Leaving(_) => vec![Self::Gone, Self::Nothing],
        });
        all
    }

    /// The bindings that can be used.
    fn bindings(&self) -> Option<&Bindings> {
        match self {
            Self::Standing(_, bindings) | Self::Changing(_, _, bindings) => Some(bindings),
            _ => None,
        }
    }

    fn with_bindings(&self, bindings: Bindings) -> Self {
        match self {
            Self::Standing(now, _) => Self::Standing(*now, bindings),
            Self::Changing(before, nodes, _) => Self::Changing(*before, *nodes, bindings),
            other => other.clone(),
        }
    }

    /// The answers that are allowed.
    pub(crate) fn outcomes(&self, ask: Ask) -> Vec<Outcome> {
        match ask {
            Ask::Impatient(_) => vec![self.refuse_for("AsyncRequired")],
            Ask::Excessive(endpoint) => self.excessive(endpoint),
            Ask::Provision(wanted) => self.provision(wanted),
            Ask::Update { nodes } => self.update(nodes),
            Ask::Deprovision => self.deprovision(),
            Ask::Fetch => self.fetch(),
            Ask::Poll => self.poll(),
            Ask::Bind(id, wanted) => self.bind(id, wanted),
            Ask::Rotate(id, predecessor) => self.rotate(id, predecessor),
            Ask::Unbind(id) => self.unbind(id),
            Ask::FetchBinding(id) => self.fetch_binding(id),
            Ask::PollBinding(id) => self.poll_binding(id),
        }
    }

    fn provision(&self, wanted: Attributes) -> Vec<Outcome> {
        vec![match self {
            Self::Nothing => self.to(202, Self::Making(wanted)),
            // As long as Patroni's last word about the life before stands, the id is not free.
            Self::Gone => return vec![self.to(202, Self::Making(wanted)), self.same(422)],
            Self::Making(before) if *before == wanted => self.under_way(),
            Self::Standing(now, _) if *now == wanted => self.same(200),
            Self::Making(_) | Self::Standing(..) => self.same(409),
            Self::Changing(..) | Self::Leaving(_) => self.refuse_for("ConcurrencyError"),
        }]
    }

    /// What is too much depends on the plan: of an update, on the instance's.
    fn excessive(&self, endpoint: &str) -> Vec<Outcome> {
        vec![match self {
            Self::Nothing | Self::Gone if endpoint == "update" => self.same(404),
            Self::Leaving(_) if endpoint == "update" => return vec![self.same(400), self.same(422)],
            _ => self.same(400),
        }]
    }

    fn update(&self, nodes: u32) -> Vec<Outcome> {
        vec![match self {
            Self::Nothing | Self::Gone => self.same(404),
            Self::Standing(now, _) if now.nodes == nodes => self.same(200),
            Self::Standing(now, bindings) => self.to(202, Self::Changing(*now, nodes, bindings.clone())),
            Self::Changing(_, to, _) if *to == nodes => self.under_way(),
            Self::Making(_) | Self::Changing(..) | Self::Leaving(_) => self.refuse_for("ConcurrencyError"),
        }]
    }

    fn deprovision(&self) -> Vec<Outcome> {
        match self {
            Self::Nothing | Self::Gone => vec![self.same(410)],
            Self::Leaving(_) => vec![self.under_way(), self.to(200, Self::Gone)],
            Self::Making(_) | Self::Standing(..) | Self::Changing(..) => {
                let bindings = self.bindings().cloned().unwrap_or_default();
                vec![self.to(202, Self::Leaving(bindings)), self.to(200, Self::Gone)]
            }
        }
    }

    fn fetch(&self) -> Vec<Outcome> {
        vec![match self {
            Self::Standing(now, _) => Outcome {
                body: json!({"plan_id": now.plan, "parameters": {"node-count": now.nodes}}),
                ..self.same(200)
            },
            Self::Changing(..) => self.refuse_for("ConcurrencyError"),
            Self::Nothing | Self::Gone | Self::Making(_) | Self::Leaving(_) => self.same(404),
        }]
    }

    fn poll(&self) -> Vec<Outcome> {
        vec![match self {
            Self::Nothing => self.same(404),
            Self::Gone | Self::Standing(..) => self.told("succeeded"),
            Self::Making(_) | Self::Changing(..) | Self::Leaving(_) => self.told("in progress"),
        }]
    }

    fn bind(&self, id: &'static str, wanted: Binding) -> Vec<Outcome> {
        let there = self.bindings().and_then(|bindings| bindings.get(id));
        vec![match (self, there) {
            (Self::Nothing | Self::Gone, _) => self.same(404),
            // Its bindings go one after the other.
            (Self::Leaving(_), _) => return self.busy_leaving(),
            (_, Some(there)) if *there == wanted => self.same(200),
            (_, Some(_)) => self.same(409),
            (Self::Standing(now, _), None) if now.plan == wanted.plan => self.bound(id, wanted),
            (Self::Making(now) | Self::Changing(now, ..), None) if now.plan == wanted.plan => {
                self.refuse_for("ConcurrencyError")
            }
            (_, None) => self.same(400),
        }]
    }

    fn rotate(&self, id: &'static str, predecessor: &'static str) -> Vec<Outcome> {
        let find = |id| self.bindings().and_then(|bindings| bindings.get(id));
        let there = find(id);
        let old = find(predecessor);
        vec![match (self, there, old) {
            (Self::Nothing | Self::Gone, ..) => self.same(404),
            (Self::Leaving(_), ..) => return self.busy_leaving(),
            (_, Some(there), _) if there.predecessor == Some(predecessor) => self.same(200),
            (_, Some(_), _) => self.same(409),
            (Self::Standing(now, _), None, Some(old)) if now.plan == ROTATABLE => {
                let predecessor = Some(predecessor);
                self.bound(id, Binding { predecessor, ..*old })
            }
            (Self::Changing(now, ..), None, Some(_)) if now.plan == ROTATABLE => {
                self.refuse_for("ConcurrencyError")
            }
            (_, None, _) => self.same(400),
        }]
    }

    fn unbind(&self, id: &'static str) -> Vec<Outcome> {
        match (self, self.bindings()) {
            (_, Some(bindings)) if bindings.contains_key(id) => {
                let mut bindings = bindings.clone();
                bindings.remove(id);
                vec![self.to(200, self.with_bindings(bindings))]
            }
            (Self::Leaving(bindings), _) if bindings.contains_key(id) => {
                vec![self.same(200), self.same(410)]
            }
            _ => vec![self.same(410)],
        }
    }

    fn fetch_binding(&self, id: &'static str) -> Vec<Outcome> {
        vec![match self.bindings().and_then(|bindings| bindings.get(id)) {
            Some(there) => Outcome {
                body: json!({"parameters": there.parameters()}),
                ..self.same(200)
            },
            None => self.same(404),
        }]
    }

    fn poll_binding(&self, id: &'static str) -> Vec<Outcome> {
        match (self, self.bindings()) {
            (_, Some(bindings)) if bindings.contains_key(id) => vec![self.told("succeeded")],
            (Self::Leaving(bindings), _) if bindings.contains_key(id) => {
                vec![self.same(200), self.same(404)]
            }
            _ => vec![self.same(404)],
        }
    }

    fn same(&self, status: u16) -> Outcome {
        self.to(status, self.clone())
    }

    #[allow(clippy::unused_self, reason = "reads as the others do")]
    fn to(&self, status: u16, next: Self) -> Outcome {
        Outcome {
            status,
            body: json!({}),
            same_operation: false,
            next,
        }
    }

    fn refuse_for(&self, word: &str) -> Outcome {
        Outcome {
            body: json!({"error": word}),
            ..self.same(422)
        }
    }

    fn told(&self, state: &str) -> Outcome {
        Outcome {
            body: json!({"state": state}),
            ..self.same(200)
        }
    }

    fn under_way(&self) -> Outcome {
        Outcome {
            same_operation: true,
            ..self.same(202)
        }
    }

    fn busy_leaving(&self) -> Vec<Outcome> {
        vec![
            self.refuse_for("ConcurrencyError"),
            self.same(409),
            self.same(400),
        ]
    }

    fn bound(&self, id: &'static str, binding: Binding) -> Outcome {
        let mut bindings = self.bindings().cloned().unwrap_or_default();
        bindings.insert(id, binding);
        self.to(201, self.with_bindings(bindings))
    }
}

impl Binding {
    /// The parameters of its request.
    pub(crate) fn parameters(&self) -> Value {
        let read_only = self.read_only.map(|value| ("read_only".to_owned(), value.into()));
        Value::Object(Map::from_iter(read_only))
    }
}
