//! YAML as a tree in which every value knows its line.
//!
//! A tree of our own, not types that serde derives: an error in a derived type knows its line but not its key, a scalar
//! loses the text it was written as (`0123` as a password), and environment variables could not be laid over it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value as Json};
use serde_saphyr::Spanned;

use super::error::{ConfigError, Place};

/// Deeper than any sensible configuration, and shallow enough for the stack.
const MAX_DEPTH: usize = 64;

/// One value of the document.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
}

#[derive(Clone)]
pub(super) enum Content {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A scalar as it was written and as YAML understands it.
#[derive(Clone)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) typed: Json,
}

/// One key of a mapping.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Content {
    /// A text from elsewhere than a document.
    pub(super) fn text(text: &str) -> Self {
        Self::Scalar(Scalar {
            text: text.to_owned(),
            typed: text.into(),
        })
    }

    /// The value as YAML understands it, for what is passed on as it is.
    pub(super) fn into_json(self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Scalar(scalar) => scalar.typed,
            Self::List(nodes) => nodes.into_iter().map(|it| it.content.into_json()).collect(),
            Self::Mapping(entries) => {
                let entry = |it: Entry| (it.key, it.node.content.into_json());
                Json::Object(entries.into_iter().map(entry).collect())
            }
        }
    }
}

impl Node {
    /// Reads one YAML document; an empty one is [`Content::Null`].
    pub(super) fn parse(source: &Place, text: &str) -> Result<Self, ConfigError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
            // An excerpt of the file in an error may show a password.
            with_snippet: false,
            // `yes` and `on` stay text: they are values of PostgreSQL's parameters.
            strict_booleans: true,
        };
        match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
            Ok(raw) => Ok(Reader { source, text }.node(raw)),
            Err(error) => Err(refusal(source, &error)),
        }
    }
}

/// serde-saphyr's error in one line.
fn refusal(source: &Place, error: &serde_saphyr::Error) -> ConfigError {
    let error = error.without_snippet();
    let place = error
        .location()
        .map_or_else(|| source.clone(), |it| source.line(it.line()));
    let problem = match error {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key '{key}' stands twice")
        }
        serde_saphyr::Error::MultipleDocuments { .. } => "a second YAML document begins here".to_owned(),
        other => {
            let text = other.to_string();
            // The place stands in front already.
            let text = text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(before, _)| before);
            format!("not readable as YAML: {text}")
        }
    };
    ConfigError::new(&place, "", problem)
}

/// What serde-saphyr hands over.
enum Raw {
    Null,
    Scalar(Json),
    List(Vec<Spanned<Raw>>),
    Mapping(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(
            Number::from_f64(value).map_or(Json::Null, Json::Number),
        ))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Mapping(entries))
    }
}

/// Turns what serde-saphyr hands over into our tree, with the text that it stands for at hand.
struct Reader<'a> {
    source: &'a Place,
    text: &'a str,
}

impl Reader<'_> {
    fn node(&self, raw: Spanned<Raw>) -> Node {
        let content = match raw.value {
            Raw::Null => Content::Null,
            Raw::Scalar(typed) => Content::Scalar(Scalar {
                text: self.written(&typed, raw.defined),
                typed,
            }),
            Raw::List(items) => Content::List(items.into_iter().map(|item| self.node(item)).collect()),
            Raw::Mapping(entries) => {
                let entry = |(key, value): (Spanned<String>, _)| Entry {
                    key: key.value,
                    place: self.source.line(key.referenced.line()),
                    node: self.node(value),
                };
                Content::Mapping(entries.into_iter().map(entry).collect())
            }
        };
        Node {
            place: self.source.line(raw.referenced.line()),
            content,
        }
    }

    /// A plain scalar as it stands in the document: what YAML takes for a number may be meant as text.
    fn written(&self, typed: &Json, location: serde_saphyr::Location) -> String {
        if let Json::String(text) = typed {
            return text.clone();
        }
        let span = location.span();
        let range = || {
            let start = usize::try_from(span.byte_offset()?).ok()?;
            let length = usize::try_from(span.byte_len()?).ok()?;
            Some(start..start.checked_add(length)?)
        };
        let written = range().and_then(|range| self.text.get(range));
        written.map_or_else(|| typed.to_string(), |text| text.trim().to_owned())
    }
}
