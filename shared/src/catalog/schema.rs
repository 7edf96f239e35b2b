//! The JSON Schemas of the parameters that every plan takes, made from what the plan's cluster allows. They say what
//! [`crate::parameters`] accepts.

use serde_json::{Map, Value, json};

use super::{Cluster, Schemas};

/// The least draft that every platform must understand.
const DRAFT: &str = "http://json-schema.org/draft-04/schema#";

/// The schemas for provision and update, which take the same parameters, and for bind.
pub(super) fn of(cluster: &Cluster) -> Schemas {
    let parameters = parameters(cluster);
    let binding = json!({
        "read_only": {
            "description": "Whether the login can only read; false unless given.",
            "type": "boolean",
        },
    });
    Schemas {
        create: Some(parameters.clone()),
        update: Some(parameters),
        bind: Some(object(binding)),
    }
}

fn parameters(cluster: &Cluster) -> Map<String, Value> {
    let properties = json!({
        "node-count": {
            "description": format!("How many nodes the cluster has; {} unless given.", cluster.nodes.default),
            "type": "integer",
            "minimum": 1,
            "maximum": cluster.nodes.max,
        },
        "cells": {
            "description": "The guids of the cells that the cluster may live on; null: any cell.",
            "type": ["array", "null"],
            "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
            "minItems": 1,
            "uniqueItems": true,
        },
    });
    object(properties)
}

fn object(properties: Value) -> Map<String, Value> {
    [
        ("$schema", DRAFT.into()),
        ("type", "object".into()),
        ("properties", properties),
        ("additionalProperties", false.into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .collect()
}
