//! A username with its password.

use secrecy::SecretString;

use super::{error::ConfigError, section::Section, value::Value};

/// A username and its password, for HTTP basic authentication. `Debug` masks the password.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Without a colon, which would end it in a basic `Authorization` header (RFC 7617).
    pub username: String,
    /// Never empty.
    pub password: SecretString,
}

/// The keys of a pair that stands alone.
pub(super) const KEYS: &[&str] = &["username", "password"];

/// The pair under `username` and `password`; empty ones, as in the original's example, are none.
///
/// # Errors
/// When one is given without the other.
pub(super) fn optional(section: &mut Section<'_>) -> Result<Option<Credentials>, ConfigError> {
    let username = section
        .optional("username", username)?
        .filter(|it| !it.is_empty());
    let password = section
        .optional("password", Value::text_or_empty)?
        .filter(|it| !it.is_empty());
    match (username, password) {
        (None, None) => Ok(None),
        (Some(username), Some(password)) => Ok(Some(Credentials {
            username,
            password: password.into(),
        })),
        (None, Some(_)) => Err(section.missing("username")),
        (Some(_), None) => Err(section.missing("password")),
    }
}

/// The pair, which must be given.
pub(super) fn required(section: &mut Section<'_>) -> Result<Credentials, ConfigError> {
    optional(section)?.ok_or_else(|| section.missing("username"))
}

fn username(value: Value) -> Result<String, ConfigError> {
    let spot = value.spot.clone();
    let username = value.text_or_empty()?;
    if username.contains(|c: char| c == ':' || c.is_control()) {
        return Err(spot.error("must not hold a colon or control characters"));
    }
    Ok(username)
}
