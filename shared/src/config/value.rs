//! One value of the configuration with the key that it stands under and the place that it comes from, and the ways to
//! take it for something.

use std::{
    collections::HashMap, fmt::Display, net::IpAddr, ops::RangeInclusive, path::PathBuf, str::FromStr,
    time::Duration,
};

use secrecy::SecretString;
use serde_json::{Map, Value as Json};

use super::{
    document::{Content, Entry, Node},
    error::{ConfigError, Place},
};

/// Longest duration that is taken for one: a hundred years. Beyond it, sums of times would overflow.
const MAX_SECONDS: u64 = 100 * 365 * 24 * 60 * 60;

/// A value on its way to a type.
pub(super) struct Value {
    /// The key's path from the top: `catalog.services[0].id`.
    pub(super) path: String,
    node: Node,
    /// Whether it is the text of an environment variable: lists are separated by commas in there, and what is neither
    /// a text nor a list of texts is YAML.
    from_variable: bool,
}

impl Value {
    pub(super) fn of_file(path: String, node: Node) -> Self {
        Self {
            path,
            node,
            from_variable: false,
        }
    }

    pub(super) fn of_variable(path: String, variable: &str, text: &str) -> Self {
        let text = text.to_owned();
        let typed = Json::String(text.clone());
        let node = Node {
            place: Place::whole(variable),
            content: Content::Scalar(super::document::Scalar { text, typed }),
        };
        Self {
            path,
            node,
            from_variable: true,
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.node.place
    }

    /// An error about this value.
    pub(super) fn error(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(&self.node.place, &self.path, problem)
    }

    /// The text of a scalar, as it was written; may be empty.
    pub(super) fn text_or_empty(self) -> Result<String, ConfigError> {
        match self.node.content {
            Content::Scalar(scalar) => Ok(scalar.text),
            Content::Null => Ok(String::new()),
            Content::List(_) => Err(self.error("must be a text, not a list")),
            Content::Mapping(_) => Err(self.error("must be a text, not a mapping")),
        }
    }

    /// A text that is not empty.
    pub(super) fn text(self) -> Result<String, ConfigError> {
        let empty = self.error("must not be empty");
        let text = self.text_or_empty()?;
        if text.is_empty() { Err(empty) } else { Ok(text) }
    }

    /// A text that must not be shown.
    pub(super) fn secret(self) -> Result<SecretString, ConfigError> {
        self.text().map(SecretString::from)
    }

    /// A path in the file system.
    pub(super) fn file_path(self) -> Result<PathBuf, ConfigError> {
        self.text().map(PathBuf::from)
    }

    /// An IP address to listen on.
    pub(super) fn ip_address(self) -> Result<IpAddr, ConfigError> {
        let (place, path) = (self.node.place.clone(), self.path.clone());
        let text = self.text()?;
        text.parse().map_err(|_| {
            let problem = format!("must be an IP address such as 127.0.0.1, not '{}'", shown(&text));
            ConfigError::new(&place, &path, problem)
        })
    }

    /// A host name or an IP address, without a port.
    pub(super) fn host(self) -> Result<String, ConfigError> {
        let (place, path) = (self.node.place.clone(), self.path.clone());
        let text = self.text()?;
        let is_name = || {
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
        };
        if text.parse::<IpAddr>().is_ok() || is_name() {
            return Ok(text);
        }
        let problem = format!(
            "must be a host name or an IP address, without a port, not '{}'",
            shown(&text)
        );
        Err(ConfigError::new(&place, &path, problem))
    }

    /// Anything with a syntax of its own, whose error says what is wrong.
    pub(super) fn parsed<T: FromStr<Err: Display>>(self) -> Result<T, ConfigError> {
        let (place, path) = (self.node.place.clone(), self.path.clone());
        let text = self.text()?;
        text.parse()
            .map_err(|error: T::Err| ConfigError::new(&place, &path, error.to_string()))
    }

    /// A whole number within limits.
    pub(super) fn number<T>(self, range: RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let (place, path) = (self.node.place.clone(), self.path.clone());
        let text = self.text()?;
        text.parse()
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                let problem = format!(
                    "must be a whole number from {least} to {most}, not '{}'",
                    shown(&text)
                );
                ConfigError::new(&place, &path, problem)
            })
    }

    /// A duration in whole seconds, at least one.
    pub(super) fn seconds(self) -> Result<Duration, ConfigError> {
        self.number(1..=MAX_SECONDS).map(Duration::from_secs)
    }

    /// `true` or `false`.
    pub(super) fn boolean(self) -> Result<bool, ConfigError> {
        let (place, path) = (self.node.place.clone(), self.path.clone());
        let text = self.text()?;
        text.parse().map_err(|_| {
            let problem = format!("must be true or false, not '{}'", shown(&text));
            ConfigError::new(&place, &path, problem)
        })
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let (place, path) = (self.node.place.clone(), self.path.clone());
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
            let problem = format!("must be {}, not '{}'", words.join(" or "), shown(&text));
            ConfigError::new(&place, &path, problem)
        })
    }

    /// An address for HTTP without credentials, query or fragment; answered without a slash at its end.
    pub(super) fn http_url(self) -> Result<String, ConfigError> {
        let (place, path) = (self.node.place.clone(), self.path.clone());
        let text = self.text()?;
        // The text itself is not shown: it may hold a password.
        let refuse = |problem: &str| ConfigError::new(&place, &path, problem);
        let url = reqwest::Url::parse(&text).map_err(|error| {
            refuse(&format!(
                "must be a URL such as 'http://10.244.21.4:4001' ({error})"
            ))
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("must begin with 'http://' or 'https://'"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse(
                "must not hold a username or password: they have keys of their own",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("must not hold a query or a fragment"));
        }
        Ok(url.as_str().trim_end_matches('/').to_owned())
    }

    /// The elements of a list; in a variable it is written as YAML.
    pub(super) fn elements(self) -> Result<Vec<Self>, ConfigError> {
        let this = self.parse_variable()?;
        let Content::List(nodes) = this.node.content else {
            return Err(this.error("must be a list"));
        };
        let element = |(index, node)| Self::of_file(format!("{}[{index}]", this.path), node);
        Ok(nodes.into_iter().enumerate().map(element).collect())
    }

    /// A list of scalars; one that stands alone is a list of one, and a variable separates them by commas.
    pub(super) fn scalars(self) -> Result<Vec<Self>, ConfigError> {
        let Content::Scalar(scalar) = &self.node.content else {
            return self.elements();
        };
        if !self.from_variable {
            return Ok(vec![self]);
        }
        let element = |(index, text): (usize, &str)| {
            let text = text.trim().to_owned();
            let typed = Json::String(text.clone());
            let content = Content::Scalar(super::document::Scalar { text, typed });
            let place = self.node.place.clone();
            Self::of_file(format!("{}[{index}]", self.path), Node { place, content })
        };
        Ok(scalar.text.split(',').enumerate().map(element).collect())
    }

    /// The keys of a mapping; in a variable it is written as YAML.
    pub(super) fn entries(self) -> Result<Vec<Entry>, ConfigError> {
        let this = self.parse_variable()?;
        match this.node.content {
            Content::Mapping(entries) => Ok(entries),
            Content::Null => Ok(Vec::new()),
            _ => Err(this.error("must be a mapping (lines of 'key: value')")),
        }
    }

    /// A mapping that is passed on as it is.
    pub(super) fn json_object(self) -> Result<Map<String, Json>, ConfigError> {
        let object = self.entries()?.into_iter().map(|it| (it.key, json(it.node)));
        Ok(object.collect())
    }

    /// The value as YAML understands it, for what is passed on as it is.
    pub(super) fn json(self) -> Json {
        json(self.node)
    }

    fn parse_variable(self) -> Result<Self, ConfigError> {
        match self.node.content {
            Content::Scalar(scalar) if self.from_variable => {
                let node = Node::parse(&self.node.place, &scalar.text)?;
                Ok(Self::of_file(self.path, node))
            }
            _ => Ok(self),
        }
    }
}

fn json(node: Node) -> Json {
    match node.content {
        Content::Null => Json::Null,
        Content::Scalar(scalar) => scalar.typed,
        Content::List(nodes) => Json::Array(nodes.into_iter().map(json).collect()),
        Content::Mapping(entries) => {
            Json::Object(entries.into_iter().map(|it| (it.key, json(it.node))).collect())
        }
    }
}

/// A value as it may stand in a message: short, and without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

/// Texts of which each may stand only once.
#[derive(Default)]
pub(super) struct Unique {
    seen: HashMap<String, Place>,
}

impl Unique {
    /// A text that is not empty and was not here before.
    pub(super) fn text(&mut self, value: Value) -> Result<String, ConfigError> {
        let (place, path) = (value.place().clone(), value.path.clone());
        let text = value.text()?;
        self.check(&text, &place, &path)?;
        Ok(text)
    }

    /// The same for a name with rules of its own.
    pub(super) fn name<T: FromStr<Err: Display> + Display>(
        &mut self,
        value: Value,
    ) -> Result<T, ConfigError> {
        let (place, path) = (value.place().clone(), value.path.clone());
        let name: T = value.parsed()?;
        self.check(&name.to_string(), &place, &path)?;
        Ok(name)
    }

    /// Notes a text, unless it was here before.
    pub(super) fn check(&mut self, text: &str, place: &Place, path: &str) -> Result<(), ConfigError> {
        if let Some(first) = self.seen.get(text) {
            let problem = format!(
                "'{}' is used twice (first {})",
                shown(text),
                first.seen_from(place)
            );
            return Err(ConfigError::new(place, path, problem));
        }
        self.seen.insert(text.to_owned(), place.clone());
        Ok(())
    }
}
