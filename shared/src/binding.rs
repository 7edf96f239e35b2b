//! A binding: the JSON document at `/serviceinstances/<id>/bindings/<binding>`, and the names that follow from it.
//!
//! **Guarantees.** It holds no password: that is derived from the master key, the binding and its incarnation.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{
    ids::{BindingId, Incarnation, InstanceId},
    record::CorruptDocument,
};

/// No request about a binding takes longer: platforms give up after a minute. It is bounded by the limits of the clients of etcd
/// and PostgreSQL; a handler that stood still longer than this may still come.
const LONGEST_REQUEST: SignedDuration = SignedDuration::from_secs(60);

/// A binding as all handlers agree on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Which life of that binding id.
    pub incarnation: Incarnation,
    /// Which life of the instance it belongs to.
    pub instance_incarnation: Incarnation,
    /// What was asked for, as far as it is compared with a repeated request.
    #[serde(flatten)]
    pub request: BindRequest,
    /// How far it has come.
    pub state: BindingState,
    /// Which master key its password is derived from.
    pub master_key: String,
    /// When it was asked for.
    pub created: Timestamp,
    /// When its end was asked for first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleting_since: Option<Timestamp>,
    /// Who asked for it, as the platform says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originating_identity: Option<String>,
}

/// The attributes that make two bind requests the same (osb-reference.md, 9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindRequest {
    /// The service's id in the catalog.
    pub service_id: String,
    /// The plan's id in the catalog.
    pub plan_id: String,
    /// What the binding is for, as the platform says.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub bind_resource: Map<String, Value>,
    /// The parameters as given; absent ones are `{}`.
    pub parameters: Map<String, Value>,
    /// The binding whose place it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor_binding_id: Option<BindingId>,
}

/// What a client wants a binding to be.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// One by itself.
    New(BindRequest),
    /// One that takes another one's place.
    Successor(Successor),
}

/// What a client says of a binding that takes another one's place. What it does not say is the other's.
#[derive(Debug, Clone)]
pub struct Successor {
    /// The other, of the same instance.
    pub predecessor: BindingId,
    /// The service's id in the catalog.
    pub service_id: Option<String>,
    /// The plan's id in the catalog.
    pub plan_id: Option<String>,
    /// What the binding is for, as the platform says.
    pub bind_resource: Option<Map<String, Value>>,
    /// The parameters.
    pub parameters: Option<Map<String, Value>>,
}

impl Wanted {
    /// The request with everything that it leaves out taken from another one.
    #[must_use]
    pub fn like(&self, other: &BindRequest) -> BindRequest {
        match self {
            Self::New(request) => request.clone(),
            Self::Successor(successor) => successor.like(other),
        }
    }
}

impl Successor {
    /// The request with everything that it leaves out taken from another one.
    #[must_use]
    pub fn like(&self, other: &BindRequest) -> BindRequest {
        let or_other = |own: &Option<String>, other: &String| own.as_ref().unwrap_or(other).clone();
        let object = |own: &Option<Map<_, _>>, other: &Map<_, _>| own.as_ref().unwrap_or(other).clone();
        BindRequest {
            service_id: or_other(&self.service_id, &other.service_id),
            plan_id: or_other(&self.plan_id, &other.plan_id),
            bind_resource: object(&self.bind_resource, &other.bind_resource),
            parameters: object(&self.parameters, &other.parameters),
            predecessor_binding_id: Some(self.predecessor.clone()),
        }
    }
}

/// What a binding's role may do with what all bindings of the instance share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything: it acts as the owner.
    ReadWrite,
    /// Read, also what is made later.
    ReadOnly,
}

impl BindRequest {
    /// The attributes in which two requests differ, by their names in the specification.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("service_id", self.service_id != other.service_id),
            ("plan_id", self.plan_id != other.plan_id),
            ("bind_resource", self.bind_resource != other.bind_resource),
            ("parameters", self.parameters != other.parameters),
            (
                "predecessor_binding_id",
                self.predecessor_binding_id != other.predecessor_binding_id,
            ),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// How far a binding has come. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingState {
    /// Its role is being made.
    Creating,
    /// Its role can log in.
    Ready,
    /// Its role is being withdrawn.
    Deleting,
}

impl Binding {
    /// Whether it is half made, or half removed, and the request that has begun this is over by now. The same request again
    /// goes on with it.
    #[must_use]
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        let began = self.deleting_since.unwrap_or(self.created);
        self.state != BindingState::Ready && now.duration_since(began).abs() > LONGEST_REQUEST
    }

    /// Reads a binding as it stands in etcd.
    ///
    /// # Errors
    /// When it is not a binding.
    pub fn parse(value: &str) -> Result<Self, CorruptDocument> {
        serde_json::from_str(value).map_err(|error| CorruptDocument::Json(error.to_string()))
    }

    /// The binding as it is written to etcd.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and maps with text keys only: serde_json cannot fail on them.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The role in PostgreSQL: `b_` and 40 hexadecimal digits, whatever the ids hold and however long they are
    /// (PostgreSQL cuts names off at 63 bytes). Another one for each life of a binding id.
    #[must_use]
    pub fn role(&self, instance: &InstanceId, binding: &BindingId) -> String {
        let (life, own_life) = (
            self.instance_incarnation.to_string(),
            self.incarnation.to_string(),
        );
        let mut hash = Sha256::new();
        for part in [instance.as_str(), &life, binding.as_str(), &own_life] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let digits: String = hash
            .finalize()
            .iter()
            .take(20)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("b_{digits}")
    }
}
