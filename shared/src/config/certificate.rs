//! A certificate with its key, as two files.

use std::path::PathBuf;

use super::{error::ConfigError, section::Section, value::Value};

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// PEM, the certificate and what leads to its authority.
    pub certificate_file: PathBuf,
    /// PEM, its private key.
    pub key_file: PathBuf,
}

/// What `certificate_file` and `key_file` name.
///
/// # Errors
/// When one is given without the other.
pub(super) fn optional(section: &mut Section<'_>) -> Result<Option<CertificateFiles>, ConfigError> {
    let certificate = section.optional("certificate_file", Value::file_path)?;
    let key = section.optional("key_file", Value::file_path)?;
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate_file), Some(key_file)) => Ok(Some(CertificateFiles {
            certificate_file,
            key_file,
        })),
        (None, Some(_)) => Err(section.missing("certificate_file")),
        (Some(_), None) => Err(section.missing("key_file")),
    }
}
