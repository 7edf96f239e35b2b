//! The certificate that the port shows, reloaded when its files change.
//!
//! **Guarantees.** A new pair is shown to new connections within seconds. A pair that cannot be used, or of which one half
//! is not there yet, changes nothing: the last good one goes on.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use shared::config::CertificateFiles;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(5);

/// A certificate with its key, as it is in its files.
pub(crate) struct Certificate {
    current: Arc<Current>,
    files: CertificateFiles,
    /// Of the files, before they were read at the start.
    first: Stamps,
    acceptor: TlsAcceptor,
}

/// What connections are shown.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// When they are not a certificate and its key; the error names the file.
    pub(crate) fn load(files: CertificateFiles) -> io::Result<Self> {
        // Before they are read: what changes meanwhile is seen as another pair, and not taken for the one that was read.
        let first = stamps(&files);
        let current = Arc::new(Current(RwLock::new(Arc::new(read(&files)?))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Current>::clone(&current));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            current,
            files,
            first,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// What makes a TLS connection of a TCP connection.
    pub(super) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// Looks at the files now and then, and takes a new pair over.
    pub(crate) async fn follow(&self) {
        let mut loaded = self.first;
        let mut complaint = String::new();
        loop {
            sleep(LOOK).await;
            let stamps = stamps(&self.files);
            if stamps == loaded {
                continue;
            }
            match read(&self.files) {
                Ok(pair) => {
                    *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                    loaded = stamps;
                    complaint.clear();
                    tracing::info!("the certificate was reloaded");
                }
                // It is looked at again, since the other half may be on its way; said once.
                Err(error) if error.to_string() != complaint => {
                    complaint = error.to_string();
                    tracing::warn!(%error, "the new certificate cannot be used; the old one goes on");
                }
                Err(_) => {}
            }
        }
    }
}

/// What differs between a file and another in its place: when it was changed, its size and number.
type Stamp = (i64, i64, u64, u64);
/// Those of the certificate and of the key.
type Stamps = [Option<Stamp>; 2];

fn stamps(files: &CertificateFiles) -> Stamps {
    [&files.certificate_file, &files.key_file].map(|path| stamp(path))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.mtime(), file.mtime_nsec(), file.size(), file.ino()))
}

fn read(files: &CertificateFiles) -> io::Result<CertifiedKey> {
    let named = |path: &Path, error: &dyn std::fmt::Display| {
        io::Error::new(ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let (certificate, key) = (&files.certificate_file, &files.key_file);
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| named(certificate, &error))?;
    if chain.is_empty() {
        return Err(named(certificate, &"it holds no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
    let provider = ring::default_provider();
    // Also checks that the two belong together.
    CertifiedKey::from_der(chain, private, &provider).map_err(|error| named(key, &error))
}

#[cfg(test)]
mod tests {
    use ::tests::{pki::Pki, wait::eventually};

    use super::*;

    #[tokio::test]
    async fn a_pair_that_comes_before_the_files_are_followed_is_seen() {
        let top = tempfile::tempdir().unwrap();
        let (old, new) = (
            Pki::new(&top.path().join("old")),
            Pki::new(&top.path().join("new")),
        );
        let files = CertificateFiles {
            certificate_file: old.server_certificate.clone(),
            key_file: old.server_key.clone(),
        };
        let certificate = Arc::new(Certificate::load(files).unwrap());
        fs::rename(&new.server_certificate, &old.server_certificate).unwrap();
        fs::rename(&new.server_key, &old.server_key).unwrap();
        let shown = certificate.current.0.read().unwrap().cert.clone();
        let followed = Arc::clone(&certificate);
        let follows = tokio::spawn(async move { followed.follow().await });
        eventually("the new certificate", Duration::from_secs(60), async || {
            let current = certificate.current.0.read().unwrap().cert.clone();
            (current != shown).then_some(())
        })
        .await;
        follows.abort();
    }
}
