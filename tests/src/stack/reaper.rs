//! Cleans up after a test process that could not do it itself: Ctrl-C, a timeout of the test runner, a crash.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Waits for a word on its input. When the input ends without one, the test process is gone.
const SCRIPT: &str = r#"
read -r word && exit 0
for round in 1 2 3 4 5 6 7 8 9 10; do
    found=
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd"):$(tr '\0' ' ' <"$process/cmdline") in
            *"$DIRECTORY"*) kill -9 "${process#/proc/}" && found=1 ;;
        esac
    done
    [ "$found" ] || break
    sleep 0.1
done
rm -rf "$DIRECTORY"
"#;

/// A process that outlives the test process if need be.
#[derive(Debug)]
pub(super) struct Reaper(Child);

impl Reaper {
    /// Watches over a directory and the processes that work below it.
    pub(super) fn start(directory: &Path) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", SCRIPT])
            .env("DIRECTORY", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own, so that Ctrl-C does not reach it.
            .process_group(0);
        Self(command.spawn().expect("sh"))
    }

    /// All is well: there is nothing to clean up.
    pub(super) fn dismiss(&mut self) {
        if let Some(mut input) = self.0.stdin.take() {
            let _ = input.write_all(b"well\n");
        }
        let _ = self.0.wait();
    }
}
