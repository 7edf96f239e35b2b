//! The parameters of a plan's requests, checked by type. What is accepted here and what the published schema says is the
//! same (see [`crate::catalog`]).

use serde_json::{Map, Value};

use crate::{binding::Access, catalog::Plan, decide::placement::CellView, error::Error, ids::CellGuid};

const NODE_COUNT: &str = "node-count";
const READ_ONLY: &str = "read_only";
/// The cells that an instance may live on.
pub const CELLS: &str = "cells";

/// What a client wants of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// How many nodes it shall have.
    pub node_count: u32,
    /// The only cells that it may live on; `None`: any.
    pub cells: Option<Vec<CellGuid>>,
}

impl Wishes {
    /// Whether there may be a node on this cell.
    #[must_use]
    pub fn allow(&self, cell: &CellGuid) -> bool {
        self.cells.as_ref().is_none_or(|cells| cells.contains(cell))
    }

    /// Whether there are cells enough for the nodes.
    ///
    /// # Errors
    /// `Unprocessable`: each node needs a cell of its own.
    pub fn check_count(&self) -> Result<(), Error> {
        let count = self.node_count;
        match &self.cells {
            Some(cells) if cells.len() < usize::try_from(count).unwrap_or(usize::MAX) => {
                Err(Error::Unprocessable(format!(
                    "{count} nodes need {count} cells, and `{CELLS}` names {}",
                    cells.len()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether all cells named are there. Those that were `agreed` before may be away for a while.
    ///
    /// # Errors
    /// `Unprocessable`, naming a cell that is not there.
    pub fn check_cells(&self, there: &[CellView], agreed: Option<&[CellGuid]>) -> Result<(), Error> {
        let known = |guid: &CellGuid| {
            agreed.is_some_and(|agreed| agreed.contains(guid)) || there.iter().any(|cell| cell.guid == *guid)
        };
        match self.cells.iter().flatten().find(|guid| !known(guid)) {
            Some(unknown) => Err(Error::Unprocessable(format!("there is no cell {unknown}"))),
            None => Ok(()),
        }
    }
}

/// What the parameters ask for. Without `node-count` it is `usual_count`; without `cells`, or with `null`, any cell will do.
///
/// # Errors
/// `BadRequest`, with the reason: an unknown parameter; a count that is not a whole number from 1 to the plan's most; cells
/// that are not a list of distinct guids.
pub fn wishes(parameters: &Map<String, Value>, plan: &Plan, usual_count: u32) -> Result<Wishes, Error> {
    if let Some(unknown) = parameters
        .keys()
        .find(|name| ![NODE_COUNT, CELLS].contains(&name.as_str()))
    {
        return Err(Error::BadRequest(format!(
            "unknown parameter '{}'; this plan knows {NODE_COUNT} and {CELLS}",
            shown_name(unknown)
        )));
    }
    let node_count = match parameters.get(NODE_COUNT) {
        None => usual_count,
        Some(value) => node_count(value, plan)?,
    };
    let cells = match parameters.get(CELLS) {
        None | Some(Value::Null) => None,
        Some(value) => Some(cells(value)?),
    };
    Ok(Wishes { node_count, cells })
}

/// What the parameters of a bind request ask for. Without `read_only` it is everything.
///
/// # Errors
/// `BadRequest`, with the reason: an unknown parameter; one that is neither `true` nor `false`.
pub fn access(parameters: &Map<String, Value>) -> Result<Access, Error> {
    if let Some(unknown) = parameters.keys().find(|name| *name != READ_ONLY) {
        return Err(Error::BadRequest(format!(
            "unknown parameter '{}'; a binding knows {READ_ONLY}",
            shown_name(unknown)
        )));
    }
    match parameters.get(READ_ONLY) {
        None | Some(Value::Bool(false)) => Ok(Access::ReadWrite),
        Some(Value::Bool(true)) => Ok(Access::ReadOnly),
        Some(other) => Err(Error::BadRequest(format!(
            "{READ_ONLY} must be true or false, but is {}",
            shown(other)
        ))),
    }
}

fn shown_name(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_default).collect()
}

fn node_count(value: &Value, plan: &Plan) -> Result<u32, Error> {
    // In draft-04, which every platform knows, 2.0 and 1e9 are no integers.
    let whole = value.is_i64() || value.is_u64();
    if !whole {
        return Err(Error::BadRequest(format!(
            "{NODE_COUNT} must be a whole number, but is {}",
            shown(value)
        )));
    }
    let most = plan.cluster.nodes.max;
    let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
    count.filter(|count| (1..=most).contains(count)).ok_or_else(|| {
        Error::BadRequest(format!(
            "{NODE_COUNT} must be from 1 to {most} in this plan, but is {value}"
        ))
    })
}

fn cells(value: &Value) -> Result<Vec<CellGuid>, Error> {
    let bad = |what: String| {
        Error::BadRequest(format!(
            "{CELLS} must be a list of the guids of cells, but {what}"
        ))
    };
    let Value::Array(items) = value else {
        return Err(bad(format!("is {}", shown(value))));
    };
    if items.is_empty() {
        return Err(bad("is empty".to_owned()));
    }
    let mut cells: Vec<CellGuid> = Vec::with_capacity(items.len());
    for item in items {
        let guid = item
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| bad(format!("holds {}", shown(item))))?;
        if cells.contains(&guid) {
            return Err(bad(format!("names {guid} twice")));
        }
        cells.push(guid);
    }
    Ok(cells)
}

/// Whether the version of `maintenance_info` that a client names, if it names one, is the plan's.
///
/// # Errors
/// `MaintenanceInfoConflict`, also when the plan has none.
pub fn check_maintenance(asked: Option<&str>, plan: &Plan) -> Result<(), Error> {
    let offered = plan.maintenance_info.as_ref().map(|info| info.version.as_str());
    if asked.is_some() && asked != offered {
        Err(Error::MaintenanceInfoConflict)
    } else {
        Ok(())
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string().chars().take(40).collect(),
    }
}
