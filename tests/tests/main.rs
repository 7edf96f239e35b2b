//! The tests that need no program of their own: one is linked faster than thirty, and while a test waits for a server, others
//! go on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bindings;
mod budget;
mod concurrency;
mod crash_steps;
mod crashes;
mod crowd;
mod descriptions;
mod etcd_access;
mod etcd_client;
mod etcd_outages;
mod etcd_watch;
mod export;
mod failover;
mod fast_failover;
mod freezes;
mod front_door;
mod functions;
mod life;
mod moves;
mod observability;
mod outages;
mod plan_changes;
mod quotas;
mod readme;
mod reconcile;
mod recreate;
mod refusals;
mod restarts;
mod rotation;
mod schemathesis;
mod secrets;
mod status;
mod store_conformance;
mod store_lockstep;
mod template;
mod waiting;

use std::{collections::BTreeSet, fs};

use tests::binaries::repository_file;

#[test]
fn every_file_of_tests_is_part_of_a_program() {
    let read = |path: &str| fs::read_to_string(repository_file(path)).unwrap();
    let (program, manifest) = (read("tests/tests/main.rs"), read("tests/Cargo.toml"));
    let files = fs::read_dir(repository_file("tests/tests")).unwrap();
    let files: BTreeSet<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    let is_part = |file: &&String| {
        let name = file.trim_end_matches(".rs");
        name == "main"
            || program.contains(&format!("\nmod {name};\n"))
            || manifest.contains(&format!("\npath = \"tests/{name}/main.rs\"\n"))
    };
    let forgotten: Vec<_> = files.iter().filter(|file| !is_part(file)).collect();
    assert!(files.len() > 30 && forgotten.is_empty(), "{forgotten:?}");
}
