//! TLS towards etcd: the authorities that are trusted, and the certificate that is shown.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::settings::{InvalidSettings, Settings};

/// The TLS configuration of ureq, checked beforehand: ureq itself leaves out authorities that it cannot parse, and
/// panics on a key that does not belong to its certificate.
pub(super) fn config(settings: &Settings) -> Result<TlsConfig, InvalidSettings> {
    let provider = Arc::new(ring::default_provider());
    let mut config = TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::clone(&provider));
    if let Some(path) = &settings.ca_file {
        let authorities = authorities(path)?;
        config = config.root_certs(RootCerts::new_with_certs(&authorities));
    }
    match (&settings.certificate_file, &settings.key_file) {
        (None, None) => {}
        (Some(certificate), Some(key)) => {
            config = config.client_cert(Some(client_certificate(certificate, key, provider)?));
        }
        _ => return Err(InvalidSettings::HalfCertificate),
    }
    Ok(config.build())
}

fn authorities(path: &Path) -> Result<Vec<Certificate<'static>>, InvalidSettings> {
    let what = "the file of etcd's certificate authorities";
    let found = certificates(what, path)?;
    for certificate in &found {
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|error| unusable(what, path, error.to_string()))?;
    }
    Ok(found.iter().map(owned).collect())
}

fn client_certificate(
    certificate_file: &Path,
    key_file: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<ClientCert, InvalidSettings> {
    let chain = certificates("etcd's client certificate", certificate_file)?;
    let what = "the key of etcd's client certificate";
    let pem = std::fs::read(key_file).map_err(|error| unusable(what, key_file, error.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(what, key_file, error.to_string()))?;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(RootCertStore::empty())
                .with_client_auth_cert(chain.clone(), key)
        })
        .map_err(|error| InvalidSettings::Tls(error.to_string()))?;
    let key = PrivateKey::from_pem(&pem).map_err(|error| unusable(what, key_file, error.to_string()))?;
    let chain: Vec<_> = chain.iter().map(owned).collect();
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, InvalidSettings> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(what, path, error.to_string()))?;
    if found.is_empty() {
        return Err(unusable(what, path, "it holds no certificate".to_owned()));
    }
    Ok(found)
}

fn owned(certificate: &CertificateDer<'_>) -> Certificate<'static> {
    Certificate::from_der(certificate).to_owned()
}

fn unusable(what: &'static str, path: &Path, reason: String) -> InvalidSettings {
    InvalidSettings::File {
        what,
        path: path.to_owned(),
        reason,
    }
}
