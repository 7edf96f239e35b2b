//! The data directory through crashes and repetitions.

use std::os::unix::fs::MetadataExt;

use serde_json::json;
use uuid::Uuid;

use super::*;

fn account() -> Account {
    Account::Own {
        uid: rustix::process::geteuid().as_raw(),
    }
}

fn open(path: &Path) -> DataDirectory {
    try_open(path, "c1").unwrap()
}

fn try_open(path: &Path, guid: &str) -> Result<DataDirectory, CellError> {
    DataDirectory::open(path, account(), &guid.parse().unwrap())
}

fn file(node: NodeId) -> NodeFile {
    serde_json::from_value(json!({
        "parameters": {
            "PATRONI_SCOPE": "i1", "NODE_ID": node, "INCARNATION": Uuid::nil(),
            "SUPERUSER_PASSWORD": "s", "REPLICATION_PASSWORD": "r", "REWIND_PASSWORD": "w",
            "RESTAPI_PASSWORD": "a", "PATRONI_CONFIG": {},
        },
        "ports": {"postgresql": 1, "rest": 2},
    }))
    .unwrap()
}

fn held(directory: &DataDirectory) -> Vec<NodeId> {
    directory
        .held()
        .unwrap()
        .into_iter()
        .map(|(node, _)| node)
        .collect()
}

#[test]
fn a_second_cell_is_refused_until_the_first_has_gone() {
    let top = tempfile::tempdir().unwrap();
    let first = open(top.path());
    assert!(matches!(try_open(top.path(), "c1"), Err(CellError::Locked(_))));
    drop(first);
    open(top.path());
    assert!(matches!(
        try_open(top.path(), "c2"),
        Err(CellError::OtherCell { .. })
    ));
}

#[test]
fn a_path_that_a_shell_would_change_is_refused() {
    for path in ["/tmp/with blank", "/tmp/a'b", "/tmp/a,b", "/tmp/$x", "relative"] {
        assert!(matches!(
            try_open(Path::new(path), "c1"),
            Err(CellError::Settings(_))
        ));
        assert!(!Path::new(path).exists());
    }
}

#[test]
fn a_node_is_found_again_and_only_its_user_reads_what_is_secret() {
    let top = tempfile::tempdir().unwrap();
    let node = Uuid::new_v4().into();
    {
        let directory = open(top.path());
        let made = directory.create(node, &file(node)).unwrap();
        directory.write_patroni_yml(node, "secret").unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(made.node_json()), 0o600);
        assert_eq!(mode(made.patroni_yml()), 0o600);
        assert_eq!(mode(made.home()), 0o700);
        assert!(
            directory.create(node, &file(node)).is_err(),
            "never over one that is there"
        );
    }
    let directory = open(top.path());
    let (found, read) = directory.held().unwrap().pop().unwrap();
    assert_eq!((found, read.unwrap().ports), (node, file(node).ports));
}

#[test]
fn a_node_that_was_half_made_or_half_deleted_is_no_node() {
    let top = tempfile::tempdir().unwrap();
    let half = top.path().join("scratch").join(Uuid::new_v4().to_string());
    drop(open(top.path()));
    fs::create_dir_all(half.join("home/data")).unwrap();
    let directory = open(top.path());
    assert!(held(&directory).is_empty());
    assert!(!half.exists());
}

#[test]
fn what_is_set_aside_comes_back_as_it_was_or_goes_with_the_node() {
    let top = tempfile::tempdir().unwrap();
    let directory = open(top.path());
    let node = Uuid::new_v4().into();
    for value in ["old", "new"] {
        directory.create(node, &file(node)).unwrap();
        fs::write(directory.node(node).home().join("log/x"), value).unwrap();
        directory.set_aside(node, 1_000).unwrap();
    }
    assert!(held(&directory).is_empty());
    assert_eq!(directory.quarantined().unwrap().len(), 1);
    let other: NodeId = Uuid::new_v4().into();
    fs::create_dir(directory.node(other).0).unwrap();
    assert_eq!(directory.ids().unwrap(), [node, other].into());
    directory.delete(other).unwrap();
    directory.take_back(node).unwrap();
    let kept = fs::read_to_string(directory.node(node).home().join("log/x")).unwrap();
    assert_eq!(kept, "new", "the latest, also of two in one second");
    directory.delete(node).unwrap();
    assert!(held(&directory).is_empty());
    assert!(directory.quarantined().unwrap().is_empty());
    assert!(directory.take_back(node).is_err());
    directory.delete(node).unwrap();
}

#[test]
fn a_retired_id_is_remembered() {
    let top = tempfile::tempdir().unwrap();
    let (node, other) = (Uuid::new_v4().into(), Uuid::new_v4().into());
    let directory = open(top.path());
    directory.retire(node).unwrap();
    directory.retire(node).unwrap();
    drop(directory);
    let directory = open(top.path());
    assert!(directory.is_retired(node).unwrap());
    assert!(!directory.is_retired(other).unwrap());
}
