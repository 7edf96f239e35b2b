//! The commands that a document shows, and a shell that runs them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// How long a line may take, in seconds: some make a cluster of four nodes, on a machine that does much else.
const LIMIT: &str = "600";

/// What a block of a document may hold. Only `sh` is run.
const LANGUAGES: [&str; 4] = ["sh", "text", "ini", "yaml"];

/// The lines of all blocks of commands (` ```sh `) in a Markdown text.
///
/// # Panics
/// When a block does not say what it holds: it might hold commands.
#[must_use]
pub fn commands(markdown: &str) -> Vec<String> {
    blocks(markdown, "sh").into_iter().flatten().collect()
}

/// The blocks in a language, by their lines.
///
/// # Panics
/// When a block does not say what it holds.
#[must_use]
pub fn blocks(markdown: &str, wanted: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut open: Option<(&str, Vec<String>)> = None;
    for line in markdown.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                assert!(
                    LANGUAGES.contains(&language),
                    "a block of '{language}': what is run is 'sh', and anything else must say what it is"
                );
                open = Some((language, Vec::new()));
            }
            (Some(_), Some(_)) => {
                let block = open.take().filter(|(language, _)| *language == wanted);
                found.extend(block.map(|(_, lines)| lines));
            }
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    found
}

/// What a line printed.
#[derive(Debug, Clone)]
pub struct Told {
    /// Standard output.
    pub out: String,
    /// Standard error: with `curl -v`, the headers.
    pub err: String,
}

impl Told {
    /// The lines of the output.
    #[must_use]
    pub fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }

    /// The statuses that `curl -v` shows.
    #[must_use]
    pub fn statuses(&self) -> Vec<&str> {
        // curl's bar of progress may stand before it on its line.
        let answers = self.err.split("< HTTP/1.1 ").skip(1);
        answers.filter_map(|rest| rest.get(..3)).collect()
    }

    /// The JSON documents of the output.
    ///
    /// # Panics
    /// When there is anything else in it.
    #[must_use]
    pub fn documents(&self) -> Vec<serde_json::Value> {
        let documents = serde_json::Deserializer::from_str(&self.out).into_iter();
        let read = |document: Result<_, _>| document.unwrap_or_else(|error| panic!("{error}: {self:?}"));
        documents.map(read).collect()
    }
}

/// A directory in which lines are run one after the other; what one exports, the next ones have.
#[derive(Debug)]
pub struct Shell {
    directory: PathBuf,
    variables: BTreeMap<String, String>,
    addresses: Vec<(&'static str, String)>,
}

impl Shell {
    /// A shell in a directory, whose `bin` is searched for programs first. Each of the `addresses` is replaced in what
    /// the lines export; the first that fits counts.
    #[must_use]
    pub fn new(directory: &Path, addresses: Vec<(&'static str, String)>) -> Self {
        Self {
            directory: directory.to_owned(),
            variables: BTreeMap::new(),
            addresses,
        }
    }

    /// A text with the addresses replaced; what is put in for one is not looked at again.
    #[must_use]
    pub fn localized(&self, mut text: &str) -> String {
        let mut localized = String::new();
        while let Some(first) = text.chars().next() {
            let found = self.addresses.iter().find(|(from, _)| text.starts_with(from));
            if let Some((from, to)) = found {
                localized.push_str(to);
                text = &text[from.len()..];
            } else {
                localized.push(first);
                text = &text[first.len_utf8()..];
            }
        }
        localized
    }

    /// What the lines have exported so far, and where programs are.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut variables = self.variables.clone();
        let bin = self.directory.join("bin").display().to_string();
        variables.insert("PATH".to_owned(), format!("{bin}:/usr/local/bin:/usr/bin:/bin"));
        variables.insert("LC_ALL".to_owned(), "C.UTF-8".to_owned());
        variables
    }

    /// Runs a line.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> Told {
        let after = self.directory.join("environment");
        let script = format!("trap 'env -0 >{}' EXIT\n{line}\n", after.display());
        let output = Command::new("timeout")
            .args([LIMIT, "bash", "-c", &script])
            .current_dir(&self.directory)
            .env_clear()
            .envs(self.environment())
            .stdin(Stdio::null())
            .output()
            .expect("bash");
        let told = Told {
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        };
        assert!(
            output.status.success(),
            "{line}\n{}\n{}{}",
            output.status,
            told.out,
            told.err
        );
        let all = fs::read_to_string(&after).expect("the variables after a line");
        let pairs = all.split('\0').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<_> = pairs
            // What the shell itself sets.
            .filter(|(name, _)| !matches!(*name, "_" | "PWD" | "OLDPWD" | "SHLVL"))
            .map(|(name, value)| {
                // What it had before is localized already.
                let same = self.variables.get(name).is_some_and(|old| old == value);
                let value = if same {
                    value.to_owned()
                } else {
                    self.localized(value)
                };
                (name.to_owned(), value)
            })
            .collect();
        self.variables = pairs.into_iter().collect();
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_pictures() {
        let text = "# A\n```text\na -> b\n```\n\n```sh\nls  # all\n\nmake demo\n```\nWords `x`.\n```ini\n[Unit]\n```\n";
        assert_eq!(commands(text), ["ls  # all", "", "make demo"]);
        assert_eq!(blocks(text, "ini"), [["[Unit]"]]);
    }

    #[test]
    #[should_panic(expected = "must say what it is")]
    fn a_block_must_say_what_it_holds() {
        let _ = commands("```\nrm -rf /\n```\n");
    }

    #[test]
    fn what_a_line_exports_the_next_one_has() {
        let directory = tempfile::tempdir().unwrap();
        // Each in the other's place.
        let addresses = vec![
            ("10.0.0.1", "10.0.0.2".to_owned()),
            ("10.0.0.2", "10.0.0.1".to_owned()),
        ];
        let mut shell = Shell::new(directory.path(), addresses);
        shell.run("export HERE=http://10.0.0.1:1 THERE=10.0.0.2; own=x");
        let told = shell.run("echo $HERE $THERE $own; echo '< HTTP/1.1 201 Created' >&2");
        assert_eq!(told.lines(), ["http://10.0.0.2:1 10.0.0.1"]);
        assert_eq!(told.statuses(), ["201"]);
        let documents = shell.run("echo '{\"a\":1} 2'").documents();
        assert_eq!(documents, [serde_json::json!({"a": 1}), 2.into()]);
    }
}
