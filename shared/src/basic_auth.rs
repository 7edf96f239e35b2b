//! HTTP basic authentication (RFC 7617).

use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Whether the value of the header `Authorization` names one of these pairs of user name and password.
#[must_use]
pub fn accepts<'p>(
    authorization: Option<&str>,
    pairs: impl IntoIterator<Item = (&'p str, &'p SecretString)>,
) -> bool {
    let given = authorization
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| BASE64_STANDARD.decode(encoded.trim()).ok());
    let Some(given) = given else {
        return false;
    };
    // Digests have one length, so that the time does not even tell how long a password is.
    let given = Sha256::digest(given);
    let found = pairs
        .into_iter()
        .fold(Choice::from(0), |found, (username, password)| {
            let expected = format!("{username}:{}", password.expose_secret());
            // Every pair is compared, so that the time does not tell which one was nearly right.
            found | Sha256::digest(expected).as_slice().ct_eq(given.as_slice())
        });
    found.into()
}
