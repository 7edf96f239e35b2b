//! A mapping of the configuration whose keys are known: how each section is read.

use super::{
    document::{Content, Entry, Node},
    environment::{Environment, PREFIX},
    error::{ConfigError, Place},
    value::Value,
};

/// A mapping with known keys, of which each may be taken once.
pub(super) struct Section<'a> {
    path: String,
    place: Place,
    entries: Vec<Entry>,
    known: &'a [&'a str],
    /// Where the section's keys can be set by variables: everywhere but inside of lists.
    environment: Option<&'a Environment>,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    ///
    /// # Errors
    /// When it is not a mapping, or holds other keys.
    pub(super) fn top(
        source: &Place,
        root: Node,
        environment: &'a Environment,
        known: &'a [&'a str],
    ) -> Result<Self, ConfigError> {
        let entries = match root.content {
            Content::Null => Vec::new(),
            _ => Value::of_file(String::new(), root).entries()?,
        };
        Self::new(String::new(), source.clone(), entries, known, Some(environment))
    }

    /// An element of a list: variables do not reach into it.
    pub(super) fn element(value: Value, known: &'a [&'a str]) -> Result<Self, ConfigError> {
        let spot = value.spot.clone();
        Self::new(spot.path, spot.place, value.entries()?, known, None)
    }

    fn new(
        path: String,
        place: Place,
        entries: Vec<Entry>,
        known: &'a [&'a str],
        environment: Option<&'a Environment>,
    ) -> Result<Self, ConfigError> {
        if let Some(entry) = entries.iter().find(|entry| !known.contains(&entry.key.as_str())) {
            let key = join(&path, &entry.key.escape_default().to_string());
            let problem = format!("no such key; there are: {}", known.join(", "));
            return Err(ConfigError::new(&entry.place, &key, problem));
        }
        Ok(Self {
            path,
            place,
            entries,
            known,
            environment,
        })
    }

    /// A section below this one. One that does not stand in the file is empty, and variables may still fill it.
    pub(super) fn section(&mut self, key: &str, known: &'a [&'a str]) -> Result<Section<'a>, ConfigError> {
        let path = join(&self.path, key);
        let (place, entries) = match self.remove(key) {
            None => (self.place.clone(), Vec::new()),
            Some(entry) => (entry.place, Value::of_file(path.clone(), entry.node).entries()?),
        };
        Section::new(path, place, entries, known, self.environment)
    }

    /// Another spelling of a key, for files of the original broker.
    pub(super) fn alias(&mut self, key: &str, spelling: &str) -> Result<(), ConfigError> {
        let both = self.entries.iter().any(|entry| entry.key == key);
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == spelling) else {
            return Ok(());
        };
        if both {
            let problem = format!("is another spelling of '{key}', which is given too");
            return Err(ConfigError::new(
                &entry.place,
                &join(&self.path, spelling),
                problem,
            ));
        }
        key.clone_into(&mut entry.key);
        Ok(())
    }

    /// A value, if it is given: from its variable, otherwise from the file. A key without a value is not given.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Value) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        debug_assert!(
            self.known.contains(&key),
            "{key} is missing among the keys of {}",
            self.path
        );
        let path = join(&self.path, key);
        let in_file = self
            .remove(key)
            .filter(|entry| !matches!(entry.node.content, Content::Null));
        if let Some(environment) = self.environment {
            let variable = variable(&path);
            if let Some(text) = environment.get(&variable)? {
                return read(Value::of_variable(path, &variable, text)).map(Some);
            }
        }
        in_file
            .map(|entry| read(Value::of_file(path, entry.node)))
            .transpose()
    }

    /// A value that can stand in the file only.
    pub(super) fn in_file(&mut self, key: &str) -> Option<Value> {
        let entry = self
            .remove(key)
            .filter(|entry| !matches!(entry.node.content, Content::Null))?;
        Some(Value::of_file(join(&self.path, key), entry.node))
    }

    /// A value, or what counts when it is not given.
    pub(super) fn or<T>(
        &mut self,
        key: &str,
        default: T,
        read: impl FnOnce(Value) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        Ok(self.optional(key, read)?.unwrap_or(default))
    }

    /// A value that must be given.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Value) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        self.optional(key, read)?.ok_or_else(|| self.missing(key))
    }

    /// The error that a key is not given.
    pub(super) fn missing(&self, key: &str) -> ConfigError {
        let path = join(&self.path, key);
        let problem = match self.environment {
            None => "is missing".to_owned(),
            Some(_) => format!("is missing: set it or {}", variable(&path)),
        };
        ConfigError::new(&self.place, &path, problem)
    }

    /// An error about the section as a whole.
    pub(super) fn error(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(&self.place, &self.path, problem)
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.swap_remove(at))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The variable that sets the key at a path: `kvstore.machines` is `PATRONI_BROKER_KVSTORE_MACHINES`.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_uppercase())
}
