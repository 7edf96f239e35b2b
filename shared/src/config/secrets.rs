//! Section `secrets`: where the master keys are.

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
    value::{Spot, Unique, Value},
};

pub(super) const KEYS: &[&str] = &["master_keys"];
pub(super) const MASTER_KEY_KEYS: &[&str] = &["id", "environment", "file", "value_for_development"];
/// How to make a key, for messages.
const RECIPE: &str = "32 random bytes in base64 or hexadecimal, for example from 'openssl rand -base64 32'";

/// The master keys as they are configured; only a broker looks what they are.
pub(super) struct Secrets {
    keys: Result<Vec<Source>, ConfigError>,
}

/// Where one master key is.
struct Source {
    id: String,
    spot: Spot,
    holder: Holder,
}

enum Holder {
    Environment(String),
    File(String),
    Configuration(SecretString),
}

pub(super) fn read(section: &mut Section<'_>) -> Result<Secrets, ConfigError> {
    let mut ids = Unique::default();
    let keys = section.optional("master_keys", |value| {
        value.some("key, of which the first is for everything new", |value| {
            source(value, &mut ids)
        })
    })?;
    Ok(Secrets {
        keys: keys.ok_or_else(|| section.missing("master_keys")),
    })
}

fn source(value: Value, ids: &mut Unique) -> Result<Source, ConfigError> {
    let mut section = Section::element(value, MASTER_KEY_KEYS)?;
    let id = section.required("id", |value| ids.value(value, id))?;
    let environment = section.optional("environment", |value| {
        let (spot, name) = value.spot_and_text()?;
        if !is_variable_name(&name) {
            return Err(spot.error("must be the name of a variable, not its value"));
        }
        Ok((spot, Holder::Environment(name)))
    })?;
    let file = section.optional("file", |value| {
        let (spot, path) = value.spot_and_text()?;
        Ok((spot, Holder::File(path)))
    })?;
    let given = section.optional("value_for_development", |value| {
        Ok((value.spot.clone(), Holder::Configuration(value.secret()?)))
    })?;
    let mut holders = [environment, file, given].into_iter().flatten();
    match (holders.next(), holders.next()) {
        (Some((spot, holder)), None) => Ok(Source { id, spot, holder }),
        _ => Err(section.error("must have exactly one of environment, file and value_for_development")),
    }
}

/// An id stands in records and bindings.
fn id(value: Value) -> Result<String, ConfigError> {
    let (spot, id) = value.spot_and_text()?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    // A key in the place of its id must not be shown, nor get into records.
    if id.len() <= 32 && id.bytes().all(fits) {
        return Ok(id);
    }
    Err(spot.error("must be at most 32 letters, digits, '.', '_' or '-'"))
}

fn is_variable_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_')
}

impl Secrets {
    /// Reads the keys.
    ///
    /// # Errors
    /// When none is configured, or one is not there, or is not a key.
    pub(super) fn resolve(self, environment: &Environment) -> Result<MasterKeys, ConfigError> {
        let sources = self.keys?.into_iter();
        let keys = sources
            .map(|it| it.resolve(environment))
            .collect::<Result<Vec<_>, _>>()?;
        let mut keys = keys.into_iter();
        // `read` has made sure that there is one.
        let none = || ConfigError::new(&Place::whole("secrets"), "master_keys", "is missing");
        let active = keys.next().ok_or_else(none)?;
        Ok(MasterKeys::new(active, keys.collect()))
    }
}

impl Source {
    fn resolve(self, environment: &Environment) -> Result<MasterKey, ConfigError> {
        let refuse = |problem: String| self.spot.error(problem);
        let (what, text) = match &self.holder {
            Holder::Environment(name) => {
                let what = format!("the environment variable {}", unless_key(name));
                match environment.get(name)? {
                    Some(text) => (what, SecretString::from(text)),
                    None => return Err(refuse(format!("{what} is not set; it must hold {RECIPE}"))),
                }
            }
            Holder::File(path) => {
                let what = format!("the file {}", unless_key(path));
                match std::fs::read_to_string(path) {
                    Ok(text) => (what, text.into()),
                    Err(error) => {
                        return Err(refuse(format!(
                            "{what} cannot be read ({error}); it must hold {RECIPE}"
                        )));
                    }
                }
            }
            Holder::Configuration(text) => ("this".to_owned(), text.clone()),
        };
        let bytes = decode(text.expose_secret().trim())
            .ok_or_else(|| refuse(format!("{what} is not a master key, which is {RECIPE}")))?;
        Ok(MasterKey::new(self.id, bytes))
    }
}

/// A name for a message: somebody may have written the key itself where its name belongs.
fn unless_key(name: &str) -> &str {
    if decode(name).is_some() {
        "of that name"
    } else {
        name
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
