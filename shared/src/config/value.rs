//! One value of the configuration with the key that it stands under and the place that it comes from, and the ways to
//! take it for something.

use std::{
    collections::HashMap, fmt::Display, net::IpAddr, ops::RangeInclusive, path::PathBuf, str::FromStr,
    time::Duration,
};

use reqwest::Url;
use secrecy::SecretString;
use serde_json::{Map, Value as Json};

use super::{
    document::{Content, Entry, Node},
    error::{ConfigError, Place},
};

/// Longest duration that is taken for one: a hundred years. Beyond it, sums of times would overflow.
const MAX_SECONDS: u64 = 100 * 365 * 24 * 60 * 60;

/// Where a value stands: what an error about it says first.
#[derive(Clone)]
pub(super) struct Spot {
    pub(super) place: Place,
    /// The key's path from the top: `catalog.services[0].id`.
    pub(super) path: String,
}

impl Spot {
    /// An error about the value there.
    pub(super) fn error(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(&self.place, &self.path, problem)
    }
}

/// A value on its way to a type.
pub(super) struct Value {
    pub(super) spot: Spot,
    content: Content,
    /// Whether it is the text of an environment variable: lists are separated by commas in there, and what is neither
    /// a text nor a list of texts is YAML.
    from_variable: bool,
}

impl Value {
    pub(super) fn of_file(path: String, node: Node) -> Self {
        let place = node.place;
        Self {
            spot: Spot { place, path },
            content: node.content,
            from_variable: false,
        }
    }

    pub(super) fn of_variable(path: String, variable: &str, text: &str) -> Self {
        let place = Place::whole(variable);
        Self {
            spot: Spot { place, path },
            content: Content::text(text),
            from_variable: true,
        }
    }

    /// The text of a scalar, as it was written; may be empty.
    pub(super) fn text_or_empty(self) -> Result<String, ConfigError> {
        match self.content {
            Content::Scalar(scalar) => Ok(scalar.text),
            Content::Null => Ok(String::new()),
            Content::List(_) => Err(self.spot.error("must be a text, not a list")),
            Content::Mapping(_) => Err(self.spot.error("must be a text, not a mapping")),
        }
    }

    /// A text that is not empty.
    pub(super) fn text(self) -> Result<String, ConfigError> {
        self.spot_and_text().map(|(_, text)| text)
    }

    /// A text that is not empty, and where it stands, for errors about it.
    pub(super) fn spot_and_text(self) -> Result<(Spot, String), ConfigError> {
        let spot = self.spot.clone();
        let text = self.text_or_empty()?;
        if text.is_empty() {
            return Err(spot.error("must not be empty"));
        }
        Ok((spot, text))
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
        let (spot, text) = self.spot_and_text()?;
        text.parse().map_err(|_| {
            let text = shown(&text);
            spot.error(format!("must be an IP address such as 127.0.0.1, not '{text}'"))
        })
    }

    /// A host name or an IP address, without a port.
    pub(super) fn host(self) -> Result<String, ConfigError> {
        let (spot, text) = self.spot_and_text()?;
        // Underscores are in names that containers are given.
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let is_name = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(fits);
        if is_name || text.parse::<IpAddr>().is_ok() {
            return Ok(text);
        }
        let text = shown(&text);
        Err(spot.error(format!(
            "must be a host name or an IP address, without a port, not '{text}'"
        )))
    }

    /// Anything with a syntax of its own, whose error says what is wrong.
    pub(super) fn parsed<T: FromStr<Err: Display>>(self) -> Result<T, ConfigError> {
        let (spot, text) = self.spot_and_text()?;
        text.parse()
            .map_err(|error: T::Err| spot.error(error.to_string()))
    }

    /// A whole number within limits.
    pub(super) fn number<T>(self, range: RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let (spot, text) = self.spot_and_text()?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most, text) = (range.start(), range.end(), shown(&text));
            spot.error(format!(
                "must be a whole number from {least} to {most}, not '{text}'"
            ))
        })
    }

    /// A duration in whole seconds, at least one.
    pub(super) fn seconds(self) -> Result<Duration, ConfigError> {
        self.number(1..=MAX_SECONDS).map(Duration::from_secs)
    }

    /// `true` or `false`.
    pub(super) fn boolean(self) -> Result<bool, ConfigError> {
        self.one_of(&[("true", true), ("false", false)])
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let (spot, text) = self.spot_and_text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let (words, text) = (words.join(" or "), shown(&text));
            spot.error(format!("must be {words}, not '{text}'"))
        })
    }

    /// An address for HTTP without credentials, query or fragment; answered without a slash at its end.
    pub(super) fn http_url(self) -> Result<String, ConfigError> {
        // The text itself is not shown: it may hold a password.
        let (spot, text) = self.spot_and_text()?;
        let url = Url::parse(&text)
            .ok()
            .filter(|it| matches!(it.scheme(), "http" | "https"));
        let Some(url) = url else {
            return Err(spot.error("must be a URL such as 'http://10.244.21.4:4001'"));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(spot.error("must not hold a username or password: they have keys of their own"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(spot.error("must not hold a query or a fragment"));
        }
        Ok(url.as_str().trim_end_matches('/').to_owned())
    }

    /// The elements of a list; in a variable it is written as YAML.
    pub(super) fn elements(self) -> Result<Vec<Self>, ConfigError> {
        let this = self.parse_variable()?;
        let Content::List(nodes) = this.content else {
            return Err(this.spot.error("must be a list"));
        };
        let element = |(index, node)| Self::of_file(format!("{}[{index}]", this.spot.path), node);
        Ok(nodes.into_iter().enumerate().map(element).collect())
    }

    /// The elements of a list that must not be empty, each of them read.
    pub(super) fn some<T>(
        self,
        what: &str,
        read: impl FnMut(Self) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let spot = self.spot.clone();
        some(&spot, what, self.elements()?, read)
    }

    /// The same for a list of scalars.
    pub(super) fn some_scalars<T>(
        self,
        what: &str,
        read: impl FnMut(Self) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let spot = self.spot.clone();
        some(&spot, what, self.scalars()?, read)
    }

    /// A list of scalars; one that stands alone is a list of one, and a variable separates them by commas.
    fn scalars(self) -> Result<Vec<Self>, ConfigError> {
        let Content::Scalar(scalar) = &self.content else {
            return self.elements();
        };
        let texts: Vec<_> = match self.from_variable {
            true => scalar.text.split(',').map(str::trim).collect(),
            false => vec![scalar.text.as_str()],
        };
        let element = |(index, text)| {
            let (place, content) = (self.spot.place.clone(), Content::text(text));
            Self::of_file(format!("{}[{index}]", self.spot.path), Node { place, content })
        };
        Ok(texts.into_iter().enumerate().map(element).collect())
    }

    /// The keys of a mapping; in a variable it is written as YAML.
    pub(super) fn entries(self) -> Result<Vec<Entry>, ConfigError> {
        let this = self.parse_variable()?;
        match this.content {
            Content::Mapping(entries) => Ok(entries),
            Content::Null => Ok(Vec::new()),
            _ => Err(this.spot.error("must be a mapping (lines of 'key: value')")),
        }
    }

    /// A mapping that is passed on as it is.
    pub(super) fn json_object(self) -> Result<Map<String, Json>, ConfigError> {
        let entries = self.entries()?;
        Ok(entries
            .into_iter()
            .map(|it| (it.key, it.node.content.into_json()))
            .collect())
    }

    fn parse_variable(self) -> Result<Self, ConfigError> {
        match self.content {
            Content::Scalar(scalar) if self.from_variable => {
                let node = Node::parse(&self.spot.place, &scalar.text)?;
                Ok(Self::of_file(self.spot.path, node))
            }
            _ => Ok(self),
        }
    }
}

fn some<T>(
    spot: &Spot,
    what: &str,
    values: Vec<Value>,
    read: impl FnMut(Value) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    if values.is_empty() {
        return Err(spot.error(format!("must hold at least one {what}")));
    }
    values.into_iter().map(read).collect()
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
        self.value(value, Value::text)
    }

    /// The same for anything that is read from a text.
    pub(super) fn value<T: Display>(
        &mut self,
        value: Value,
        read: impl FnOnce(Value) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        let spot = value.spot.clone();
        let value = read(value)?;
        let text = value.to_string();
        if let Some(first) = self.seen.get(&text) {
            let (text, first) = (shown(&text), first.seen_from(&spot.place));
            return Err(spot.error(format!("'{text}' is used twice (first {first})")));
        }
        self.seen.insert(text, spot.place);
        Ok(value)
    }
}
