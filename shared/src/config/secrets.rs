//! Section `secrets`: where the master keys are.

use std::path::PathBuf;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use secrecy::{ExposeSecret, SecretBox, SecretString, zeroize::Zeroizing};

use crate::master_keys::{KEY_BYTES, MasterKey, MasterKeys};

use super::{
    environment::Environment,
    error::{ConfigError, Place},
    section::Section,
    value::{Unique, Value},
};

pub(super) const KEYS: &[&str] = &["master_keys"];
const MASTER_KEY_KEYS: &[&str] = &["id", "environment", "file", "value_for_development"];
/// How to make a key, for messages.
const RECIPE: &str = "32 random bytes in base64 or hexadecimal, for example from 'openssl rand -base64 32'";

/// The master keys as they are configured; only a broker looks what they are.
pub(super) struct Secrets {
    keys: Result<Vec<Source>, ConfigError>,
}

/// Where one master key is.
struct Source {
    id: String,
    from: From,
    place: Place,
    path: String,
}

enum From {
    Environment(String),
    File(PathBuf),
    Value(SecretString),
}

pub(super) fn read(section: &mut Section<'_>) -> Result<Secrets, ConfigError> {
    let keys = section.optional("master_keys", sources)?;
    Ok(Secrets {
        keys: keys.ok_or_else(|| section.missing("master_keys")),
    })
}

fn sources(value: Value) -> Result<Vec<Source>, ConfigError> {
    let none = value.error("must hold at least one key; the first makes new passwords");
    let mut ids = Unique::default();
    let mut sources = Vec::new();
    for value in value.elements()? {
        sources.push(source(value, &mut ids)?);
    }
    if sources.is_empty() {
        Err(none)
    } else {
        Ok(sources)
    }
}

fn source(value: Value, ids: &mut Unique) -> Result<Source, ConfigError> {
    let (whole_place, whole_path) = (value.place().clone(), value.path.clone());
    let mut section = Section::element(value, MASTER_KEY_KEYS)?;
    let id = section.required("id", |value| ids.text(value))?;
    let located = |value: &Value| (value.place().clone(), value.path.clone());
    let environment = section.optional("environment", |value| {
        Ok((located(&value), From::Environment(value.text()?)))
    })?;
    let file = section.optional("file", |value| {
        Ok((located(&value), From::File(value.file_path()?)))
    })?;
    let given = section.optional("value_for_development", |value| {
        Ok((located(&value), From::Value(value.secret()?)))
    })?;
    let mut ways = [environment, file, given].into_iter().flatten();
    match (ways.next(), ways.next()) {
        (Some(((place, path), from)), None) => Ok(Source {
            id,
            from,
            place,
            path,
        }),
        _ => Err(ConfigError::new(
            &whole_place,
            &whole_path,
            "must have exactly one of environment, file and value_for_development",
        )),
    }
}

impl Secrets {
    /// Reads the keys.
    ///
    /// # Errors
    /// When none is configured, or one is not there, or is not a key.
    pub(super) fn resolve(self, environment: &Environment) -> Result<MasterKeys, ConfigError> {
        let mut keys = Vec::new();
        for source in self.keys? {
            keys.push(source.resolve(environment)?);
        }
        // `sources` has made sure that there is one.
        let mut keys = keys.into_iter();
        let none = || ConfigError::new(&Place::whole("secrets"), "master_keys", "is missing");
        let active = keys.next().ok_or_else(none)?;
        Ok(MasterKeys::new(active, keys.collect()))
    }
}

impl Source {
    fn resolve(self, environment: &Environment) -> Result<MasterKey, ConfigError> {
        let refuse = |problem: String| ConfigError::new(&self.place, &self.path, problem);
        let text = match &self.from {
            From::Environment(name) => environment.get(name)?.map(SecretString::from).ok_or_else(|| {
                refuse(format!(
                    "the environment variable {name} is not set: it must hold {RECIPE}"
                ))
            })?,
            From::File(file) => std::fs::read_to_string(file)
                .map(SecretString::from)
                .map_err(|error| {
                    let file = file.display();
                    refuse(format!("{file} cannot be read ({error}): it must hold {RECIPE}"))
                })?,
            From::Value(value) => value.clone(),
        };
        let bytes = decode(text.expose_secret().trim()).ok_or_else(|| {
            let what = match &self.from {
                From::Environment(name) => format!("the environment variable {name}"),
                From::File(file) => file.display().to_string(),
                From::Value(_) => "it".to_owned(),
            };
            refuse(format!("{what} does not hold a master key, which is {RECIPE}"))
        })?;
        Ok(MasterKey::new(self.id, bytes))
    }
}

/// Both alphabets of base64, with padding or without, and hexadecimal.
fn decode(text: &str) -> Option<SecretBox<[u8; KEY_BYTES]>> {
    let bytes = Zeroizing::new(hexadecimal(text).or_else(|| base64(text))?);
    let bytes = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok()?;
    Some(SecretBox::new(Box::new(bytes)))
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = |alphabet| GeneralPurpose::new(alphabet, config);
    let standard = engine(&alphabet::STANDARD).decode(text);
    standard
        .or_else(|_| engine(&alphabet::URL_SAFE).decode(text))
        .ok()
}

/// 64 digits; nothing else is taken for hexadecimal, as shorter texts may be base64 as well.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<_> = text
        .chars()
        .map(|digit| digit.to_digit(16))
        .collect::<Option<_>>()?;
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let byte = |pair: &[u32]| u8::try_from(pair.first()? * 16 + pair.get(1)?).ok();
    digits.chunks(2).map(byte).collect()
}
