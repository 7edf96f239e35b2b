//! What is left of an instance after its deprovision: in etcd and on disk.

use std::{fs, io, path::Path};

use shared::{ids::InstanceId, keyspace, store::Tree};

/// What may stay of the instance, and what has nothing to do with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Residue {
    /// Keys that must not be there, and those that must and are not.
    pub(super) faults: Vec<String>,
    /// How many keys belong to the cells and to the handing out of ports.
    pub(super) infrastructure: usize,
}

/// Directories that stay when what was in them is gone.
const LASTING: [&str; 10] = [
    keyspace::INSTANCES,
    keyspace::PATRONI,
    "/routing",
    keyspace::ALLOCATIONS,
    keyspace::PORTS,
    keyspace::OPERATIONS,
    keyspace::RECONCILE,
    keyspace::CELLS,
    keyspace::TOMBSTONES,
    keyspace::REGISTRAR,
];

/// Judges everything that etcd holds, `tree` from its root.
pub(super) fn in_etcd(tree: &Tree, instance: &InstanceId, port: u16) -> Residue {
    let (tombstone, fence) = (keyspace::tombstone(instance), keyspace::operation(instance));
    let port = format!("{}/{port}", keyspace::PORTS);
    let cells = format!("{}/", keyspace::CELLS);
    let mut faults = Vec::new();
    let mut infrastructure = 0;
    for (key, entry) in &tree.leaves {
        let runs_out = entry.ttl.is_some();
        match key.as_str() {
            known if (known == tombstone || known == fence) && runs_out => (),
            known if known == port && entry.value == "quarantine" && runs_out => (),
            keyspace::NEXT_PORT
            | keyspace::PORTS_ADOPTED
            | keyspace::RECONCILE_CURSOR
            | keyspace::CELL_ROLL => infrastructure += 1,
            known if known.starts_with(&cells) => infrastructure += 1,
            _ => faults.push(format!(
                "{key} = {}",
                entry.value.chars().take(80).collect::<String>()
            )),
        }
    }
    let others = |directory: &&String| !LASTING.contains(&directory.as_str());
    faults.extend(tree.directories.iter().filter(others).map(|it| format!("{it}/")));
    for (needed, what) in [(&tombstone, "the tombstone"), (&port, "the port's quarantine")] {
        if !tree.leaves.contains_key(needed) {
            faults.push(format!("no {needed} ({what})"));
        }
    }
    Residue {
        faults,
        infrastructure,
    }
}

/// What is left of nodes below the cells' directories.
pub(super) fn on_disk(cells: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for cell in fs::read_dir(cells)? {
        // `retired` beside these remembers that a node's id is never to be used again.
        for part in ["nodes", "quarantine", "scratch"] {
            for entry in fs::read_dir(cell.as_ref().map_err(copy)?.path().join(part))? {
                found.push(entry?.path().display().to_string());
            }
        }
    }
    Ok(found)
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::store::{Entry, Index};

    use super::*;

    fn tree(leaves: &[(&str, &str, bool)], directories: &[&str]) -> Tree {
        let entry = |value: &str, ttl: bool| Entry {
            value: value.to_owned(),
            index: Index::MIN,
            ttl: ttl.then_some(Duration::from_secs(60)),
        };
        Tree {
            leaves: leaves
                .iter()
                .map(|(key, value, ttl)| ((*key).to_owned(), entry(value, *ttl)))
                .collect(),
            directories: directories.iter().map(|it| (*it).to_owned()).collect(),
            at: 1,
        }
    }

    const CLEAN: [(&str, &str, bool); 5] = [
        ("/cells/127.0.0.2", "{}", true),
        ("/operations/demo", "{}", true),
        ("/routing/nextport", "30001", false),
        ("/routing/ports/30000", "quarantine", true),
        ("/tombstones/demo", "{}", true),
    ];

    #[test]
    fn what_runs_out_may_stay() {
        let id: InstanceId = "demo".parse().unwrap();
        let clean = tree(&CLEAN, &["/service", "/routing", "/routing/allocation"]);
        let expected = Residue {
            faults: Vec::new(),
            infrastructure: 2,
        };
        assert_eq!(in_etcd(&clean, &id, 30_000), expected);
    }

    #[test]
    fn everything_else_is_a_fault() {
        let id: InstanceId = "demo".parse().unwrap();
        let dirty = tree(
            &[
                ("/operations/demo", "{}", false),
                ("/routing/ports/30000", "demo x", false),
                ("/service/demo/config", "{}", false),
            ],
            &["/service/demo"],
        );
        let faults = in_etcd(&dirty, &id, 30_000).faults;
        let expected = [
            "/operations/demo = {}",
            "/routing/ports/30000 = demo x",
            "/service/demo/config = {}",
            "/service/demo/",
            "no /tombstones/demo (the tombstone)",
        ];
        assert_eq!(faults, expected);
    }
}
