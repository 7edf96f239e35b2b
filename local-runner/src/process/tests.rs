//! Processes told apart, found and ended.

use std::process::{Command, Stdio};

use super::*;

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn sleeper(directory: &Path) -> std::process::Child {
    let mut command = Command::new("/bin/sleep");
    command.arg("30").current_dir(directory).stdin(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn a_line_of_stat_is_read_whatever_the_command_is_called() {
    let tail = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
    let stat = parse_stat(&format!("42 (a) b (c) S {tail}")).unwrap();
    let expected = Stat {
        pid: 42,
        command: "a) b (c".into(),
        parent: 1,
        started: 4711,
    };
    assert_eq!(stat, expected);
    assert_eq!(
        parse_stat(&format!("42 (a) Z {tail}")),
        None,
        "a zombie has ended"
    );
    assert_eq!(parse_stat("42 (a) S 1"), None);
}

#[tokio::test]
async fn a_process_with_the_same_number_but_another_start_or_boot_is_another_one() {
    let own = ProcessId::of(i32::try_from(std::process::id()).unwrap())
        .unwrap()
        .unwrap();
    assert!(Process::open(own.clone()).unwrap().is_some());
    let mut other = own.clone();
    other.started += 1;
    assert!(Process::open(other).unwrap().is_none());
    let mut other = own;
    other.boot.push('x');
    assert!(Process::open(other).unwrap().is_none());
}

#[tokio::test]
async fn the_end_of_a_process_is_seen_before_it_is_reaped() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = sleeper(directory.path());
    let id = ProcessId::of(i32::try_from(child.id()).unwrap())
        .unwrap()
        .unwrap();
    let process = Process::open(id.clone()).unwrap().unwrap();
    assert!(!process.ended_within(Duration::from_millis(1)).await);
    process.signal(Signal::KILL).unwrap();
    assert!(process.ended_within(Duration::from_secs(10)).await);
    assert!(Process::open(id).unwrap().is_none(), "a zombie has ended");
    process.signal(Signal::TERM).unwrap();
    child.wait().unwrap();
    process.signal(Signal::TERM).unwrap();
}

#[tokio::test]
async fn what_works_below_a_directory_is_found_and_ended() {
    let top = tempfile::tempdir().unwrap();
    let top = top.path().canonicalize().unwrap();
    let (inside, beside) = (top.join("home/data"), top.join("home2"));
    fs::create_dir_all(&inside).unwrap();
    fs::create_dir_all(&beside).unwrap();
    let (mut one, mut two) = (sleeper(&inside), sleeper(&beside));
    let pids = |directory: &Path| -> Vec<u32> {
        let stats = working_in(directory, own_uid()).unwrap();
        stats
            .iter()
            .map(|stat| u32::try_from(stat.pid).unwrap())
            .collect()
    };
    assert_eq!(pids(&top.join("home")), [one.id()]);
    assert!(
        working_in(&top, own_uid() + 1).unwrap().is_empty(),
        "of another user"
    );
    clear(&top.join("home"), own_uid()).await.unwrap();
    assert!(pids(&top.join("home")).is_empty());
    one.wait().unwrap();
    assert_eq!(pids(&top), [two.id()]);
    clear_stragglers(&top, own_uid()).await.unwrap();
    two.wait().unwrap();
}
