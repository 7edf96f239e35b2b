//! What etcd's answers mean.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::exchange::{Reply, excerpt};
use crate::{
    keyspace::last_segment,
    store::{Child, Entry, Index, StoreError, Tree, WatchEvent},
};

/// A key as etcd describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    /// Absent for the root.
    #[serde(default)]
    key: String,
    value: Option<String>,
    #[serde(default)]
    dir: bool,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    modified_index: u64,
    ttl: Option<i64>,
    /// Stays when the time to live has run out and the key is still there, while `ttl` is left out then.
    expiration: Option<serde::de::IgnoredAny>,
}

impl Node {
    fn entry(self) -> Result<Entry, String> {
        let index = self.index()?;
        let left = self
            .ttl
            .and_then(|seconds| u64::try_from(seconds).ok())
            .unwrap_or(0);
        let ttl = (self.ttl.is_some() || self.expiration.is_some()).then(|| Duration::from_secs(left));
        match self.value {
            Some(value) if !self.dir => Ok(Entry { value, index, ttl }),
            _ => Err("it is a directory".to_owned()),
        }
    }

    pub(super) fn index(&self) -> Result<Index, String> {
        Index::new(self.modified_index).ok_or_else(|| "the key has no modifiedIndex".to_owned())
    }

    pub(super) fn into_key(self) -> String {
        self.key
    }

    pub(super) fn is_directory(&self) -> bool {
        self.dir
    }
}

/// What etcd did, or what a watch saw.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    action: String,
    pub(super) node: Node,
    prev_node: Option<Node>,
}

impl Event {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        // serde_json's message names a place, never a value.
        serde_json::from_slice(text).map_err(|error| format!("an answer that is not etcd's: {error}"))
    }

    /// What a watch reports of this; `None` for a directory that came into being.
    pub(super) fn into_watched(self) -> Result<Option<WatchEvent>, String> {
        let index = self.node.index()?;
        match self.action.as_str() {
            "set" | "create" | "update" | "compareAndSwap" if !self.node.dir => Ok(Some(WatchEvent::Put {
                key: self.node.key.clone(),
                entry: self.node.entry()?,
            })),
            // A PUT with dir=true makes a directory of a leaf.
            "set" if self.prev_node.is_some_and(|before| !before.dir) => Ok(Some(WatchEvent::Removed {
                key: self.node.key,
                expired: false,
                index,
            })),
            "set" | "create" | "update" => Ok(None),
            "delete" | "compareAndDelete" | "expire" => {
                let expired = self.action == "expire";
                Ok(Some(WatchEvent::Removed {
                    key: self.node.key,
                    expired,
                    index,
                }))
            }
            other => Err(format!("the unknown action '{}'", excerpt(other.as_bytes()))),
        }
    }
}

/// etcd's word for what it did not do.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Refusal {
    pub(super) error_code: u32,
    message: String,
    #[serde(default)]
    cause: String,
    /// The store's index at that moment.
    #[serde(default)]
    pub(super) index: u64,
}

/// "Key not found".
pub(super) const NOT_FOUND: u32 = 100;
/// "The event in requested index is outdated and cleared".
pub(super) const HISTORY_GONE: u32 = 401;

impl Refusal {
    /// The refusal in an answer that is not of the 2xx kind. What is none says which machine has answered it.
    pub(super) fn parse(machine: &str, status: u16, body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|_| match status {
            404 => {
                format!(
                    "{machine}: there is no v2 API at this address: is it etcd, started with --enable-v2?"
                )
            }
            300..400 => format!("{machine}: a redirect ({status}), which is not followed"),
            _ => format!("{machine}: answered {status} {}", excerpt(body)),
        })
    }

    pub(super) fn into_error(self, key: &str) -> StoreError {
        let key = key.to_owned();
        let Self {
            error_code,
            message,
            cause,
            ..
        } = self;
        match error_code {
            NOT_FOUND => StoreError::Missing { key },
            // "Compare failed", "Key already exists", "Directory not empty".
            101 | 105 | 108 => StoreError::Conflict {
                key,
                cause: format!("{message} ({cause})"),
            },
            110 => StoreError::Unexpected {
                key,
                reason: "etcd refuses this user: check the username, the password and the role's permissions"
                    .to_owned(),
            },
            _ => StoreError::Unexpected {
                key,
                reason: format!("{message} ({cause}, error {error_code})"),
            },
        }
    }
}

/// What a read found.
pub(super) enum Found {
    /// The key, and the store's index when it was read.
    Node(Node, u64),
    /// Nothing; the store's index when it was looked for.
    Nothing(u64),
}

impl Found {
    pub(super) fn parse(key: &str, reply: &Reply) -> Result<Self, StoreError> {
        let unexpected = |reason| StoreError::Unexpected {
            key: key.to_owned(),
            reason,
        };
        if (200..300).contains(&reply.status) {
            let node = Event::parse(&reply.body).map_err(unexpected)?.node;
            let at = reply
                .index
                .ok_or_else(|| unexpected("an answer without X-Etcd-Index".to_owned()))?;
            return Ok(Self::Node(node, at));
        }
        let refusal = Refusal::parse(&reply.machine, reply.status, &reply.body).map_err(unexpected)?;
        if refusal.error_code == NOT_FOUND {
            return Ok(Self::Nothing(refusal.index));
        }
        Err(refusal.into_error(key))
    }

    pub(super) fn into_entry(self) -> Result<Option<Entry>, String> {
        match self {
            Self::Node(node, _) => node.entry().map(Some),
            Self::Nothing(_) => Ok(None),
        }
    }

    pub(super) fn into_children(self) -> Result<Option<BTreeMap<String, Child>>, String> {
        let Self::Node(node, _) = self else {
            return Ok(None);
        };
        if !node.dir {
            return Err("it is not a directory".to_owned());
        }
        let child = |node: Node| {
            let name = last_segment(&node.key).to_owned();
            let child = if node.dir {
                Child::Directory
            } else {
                Child::Leaf(node.entry()?)
            };
            Ok((name, child))
        };
        node.nodes
            .into_iter()
            .map(child)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    pub(super) fn into_tree(self) -> Result<Option<Tree>, String> {
        match self {
            Self::Node(node, _) if !node.dir => Err("it is not a directory".to_owned()),
            Self::Node(node, at) => {
                let mut tree = Tree {
                    leaves: BTreeMap::new(),
                    directories: Vec::new(),
                    at,
                };
                gather(node.nodes, &mut tree)?;
                tree.directories.sort_unstable();
                Ok(Some(tree))
            }
            Self::Nothing(_) => Ok(None),
        }
    }

    /// What a watch begins with: nothing is an empty tree, and a leaf is a tree of that leaf.
    pub(super) fn into_watched(self, key: &str) -> Result<Tree, String> {
        match self {
            Self::Node(node, at) if !node.dir => {
                let leaves = BTreeMap::from([(key.to_owned(), node.entry()?)]);
                Ok(Tree {
                    leaves,
                    directories: Vec::new(),
                    at,
                })
            }
            Self::Nothing(at) => Ok(Tree {
                leaves: BTreeMap::new(),
                directories: Vec::new(),
                at,
            }),
            node @ Self::Node(..) => node.into_tree()?.ok_or_else(|| "it is gone".to_owned()),
        }
    }
}

/// serde_json refuses to parse deeper than 128 levels, so this cannot exhaust the stack.
fn gather(nodes: Vec<Node>, tree: &mut Tree) -> Result<(), String> {
    for node in nodes {
        if node.dir {
            tree.directories.push(node.key);
            gather(node.nodes, tree)?;
        } else {
            tree.leaves.insert(node.key.clone(), node.entry()?);
        }
    }
    Ok(())
}
