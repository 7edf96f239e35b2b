//! The broker's master keys, and the passwords that are derived from them (design.md, 8).
//!
//! **Guarantees.** A password depends on the master key and on everything that [`Purpose`] names, and on nothing else:
//! it is computed again whenever it is needed and stored nowhere. Different purposes never share the bytes that are
//! derived from. Keys are wiped from memory when they are dropped, and cannot be printed.
//! **Assumes.** Keys are 32 random bytes. A key that instances or bindings were made with stays configured, under the
//! same id, for as long as they live; only the first key makes new ones.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hkdf::Hkdf;
use secrecy::{ExposeSecret, SecretBox, SecretString, zeroize::Zeroizing};
use sha2::Sha256;

use crate::ids::{BindingId, Incarnation, InstanceId};

/// The length of a master key and of the bytes behind a password.
pub const KEY_BYTES: usize = 32;

/// Names this scheme in what is derived from, so that another one can never lead to the same password.
const SCHEME: &[u8] = b"patroni-broker password v1";

/// One master key. Its `Debug` prints its id only.
pub struct MasterKey {
    id: String,
    bytes: SecretBox<[u8; KEY_BYTES]>,
}

impl MasterKey {
    /// A key with the id that records and bindings keep.
    #[must_use]
    pub fn new(id: String, bytes: SecretBox<[u8; KEY_BYTES]>) -> Self {
        Self { id, bytes }
    }

    /// Its id, as it stands in records.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// All master keys of a broker: the active one, and older ones that passwords still depend on.
#[derive(Debug)]
pub struct MasterKeys {
    active: MasterKey,
    older: Vec<MasterKey>,
}

/// A password, and the one whose place it is taking, for as long as a door may still have that one.
#[derive(Debug, Clone)]
pub struct Passwords {
    /// The password.
    pub current: SecretString,
    /// The other.
    pub former: Option<SecretString>,
}

impl Passwords {
    /// Those to try, one after the other.
    pub fn to_try(&self) -> impl Iterator<Item = &SecretString> {
        std::iter::once(&self.current).chain(&self.former)
    }
}

impl From<SecretString> for Passwords {
    fn from(current: SecretString) -> Self {
        Self {
            current,
            former: None,
        }
    }
}

/// What a password is for. Two purposes that differ in anything lead to different passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Purpose<'a> {
    /// Whose cluster it opens.
    pub instance: &'a InstanceId,
    /// Which life of that instance id.
    pub incarnation: Incarnation,
    /// Which role it belongs to.
    pub kind: Kind<'a>,
    /// Counted up to change it without changing anything else.
    pub generation: u32,
}

/// Which role, or which door, a password belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind<'a> {
    /// PostgreSQL's superuser.
    Superuser,
    /// The role that replicas stream with.
    Replication,
    /// The role of `pg_rewind`.
    Rewind,
    /// Patroni's REST API.
    Rest,
    /// The role of one service binding, and which life of that binding id: an id used again gets another password.
    Bind(&'a BindingId, Incarnation),
}

/// Why a password cannot be derived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// The configuration holds no key with this id.
    #[error("no master key with the id '{0}' is configured (secrets.master_keys)")]
    UnknownKey(String),
    /// HKDF refuses the length of the output. It does not, for 32 bytes.
    #[error("HKDF does not give that many bytes")]
    Length,
}

impl MasterKeys {
    /// Keys whose first one makes new passwords. Ids must differ; of equal ones the first counts.
    #[must_use]
    pub fn new(active: MasterKey, older: Vec<MasterKey>) -> Self {
        Self { active, older }
    }

    /// The id of the key for everything new.
    #[must_use]
    pub fn active(&self) -> &str {
        self.active.id()
    }

    /// The password for a purpose: 43 characters of base64url without padding (256 bits), which mean nothing special in
    /// a URI, an SQL literal, a `pgpass` file or a shell.
    ///
    /// # Errors
    /// When no key with that id is configured.
    pub fn derive(&self, key_id: &str, purpose: &Purpose<'_>) -> Result<SecretString, DeriveError> {
        let key = std::iter::once(&self.active)
            .chain(&self.older)
            .find(|key| key.id == key_id)
            .ok_or_else(|| DeriveError::UnknownKey(key_id.to_owned()))?;
        let mut password = Zeroizing::new([0; KEY_BYTES]);
        Hkdf::<Sha256>::new(None, key.bytes.expose_secret())
            .expand(&purpose.info(), password.as_mut())
            .map_err(|_| DeriveError::Length)?;
        Ok(URL_SAFE_NO_PAD.encode(password.as_ref()).into())
    }
}

impl Purpose<'_> {
    /// HKDF's `info`: every part preceded by its length (4 bytes, big endian), so that no two purposes are written alike.
    fn info(&self) -> Vec<u8> {
        let (kind, binding) = match self.kind {
            Kind::Superuser => ("superuser", None),
            Kind::Replication => ("replication", None),
            Kind::Rewind => ("rewind", None),
            Kind::Rest => ("rest", None),
            Kind::Bind(binding, life) => ("bind", Some((binding, life.to_string()))),
        };
        let incarnation = self.incarnation.to_string();
        let generation = self.generation.to_be_bytes();
        let mut parts = vec![
            SCHEME,
            self.instance.as_str().as_bytes(),
            incarnation.as_bytes(),
            kind.as_bytes(),
        ];
        if let Some((binding, life)) = &binding {
            parts.extend([binding.as_str().as_bytes(), life.as_bytes()]);
        }
        parts.push(&generation);
        let mut info = Vec::new();
        for part in parts {
            // Names hold at most 128 characters (crate::ids).
            info.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            info.extend(part);
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn keys() -> MasterKeys {
        let key = |id: &str, byte| MasterKey::new(id.to_owned(), SecretBox::new(Box::new([byte; 32])));
        MasterKeys::new(key("new", 1), vec![key("old", 2)])
    }

    fn derive(key: &str, instance: &str, incarnation: u128, kind: Kind<'_>, generation: u32) -> String {
        let purpose = Purpose {
            instance: &instance.parse().unwrap(),
            incarnation: Uuid::from_u128(incarnation).into(),
            kind,
            generation,
        };
        keys().derive(key, &purpose).unwrap().expose_secret().to_owned()
    }

    /// Computed with another implementation (Python's hmac and hashlib). If one of these changes, every password of
    /// every existing cluster changes.
    #[test]
    fn passwords_never_change() {
        const LIFE: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        let binding = "b1".parse().unwrap();
        for (key, instance, incarnation, kind, generation, password) in [
            (
                "new",
                "f1",
                LIFE,
                Kind::Superuser,
                1,
                "KIgpLEvIjKPkbXyN94MhJ7N1J1m32AmNKZCipRqeLiM",
            ),
            (
                "new",
                "f1",
                LIFE,
                Kind::Replication,
                1,
                "c7DVWBbRGhaU7isD1Ti10W8DrhXAq83uPrCrz-bkZUk",
            ),
            (
                "new",
                "f1",
                LIFE,
                Kind::Rewind,
                1,
                "PmlPtX21t2aTqAjxLiL0hooYPiLXBpKdlVmeTU7uv58",
            ),
            (
                "new",
                "f1",
                LIFE,
                Kind::Rest,
                1,
                "6K0QDcXWN-XvDk97ehbOJfH7nX5Tcb5hQzbdXkN2sDc",
            ),
            (
                "new",
                "f1",
                LIFE,
                Kind::Bind(&binding, Uuid::from_u128(7).into()),
                1,
                "a6_fufPL7tb2kLiSYAAzFpRhg3jxOHpvJ5lvRhM1vZQ",
            ),
            (
                "new",
                "f1",
                LIFE,
                Kind::Bind(&binding, Uuid::from_u128(7).into()),
                2,
                "QCizmp81BEcfAwMOA2kAMT08vEbbFBMHn4KBzXhpTEg",
            ),
            (
                "old",
                "f1",
                LIFE,
                Kind::Superuser,
                1,
                "RhKh34xO-osk_fcF6yJ-rLUvxA4iuYQvDF1FRSMisgc",
            ),
            (
                "new",
                "f1",
                0,
                Kind::Superuser,
                1,
                "ZzjaZmv8aKQEUnpDbXgTcY20s68geqTa8kTNgm17TwI",
            ),
            (
                "new",
                "0f5c1670-6dc3-11e5-bc08-6c4008a663f0",
                LIFE,
                Kind::Superuser,
                1,
                "FN05NZlHrgUrF1Is1sGj7FEQB8aND_nohlrDu3DRzH4",
            ),
        ] {
            assert_eq!(
                derive(key, instance, incarnation, kind, generation),
                password,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let purpose = Purpose {
            instance: &"f1".parse().unwrap(),
            incarnation: Uuid::nil().into(),
            kind: Kind::Rest,
            generation: 1,
        };
        let error = keys().derive("gone", &purpose).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no master key with the id 'gone' is configured (secrets.master_keys)"
        );
    }

    #[test]
    fn debug_shows_ids_only() {
        assert_eq!(
            format!("{:?}", keys()),
            "MasterKeys { active: MasterKey { id: \"new\", .. }, older: [MasterKey { id: \"old\", .. }] }"
        );
    }

    #[test]
    fn the_first_key_is_the_active_one() {
        assert_eq!(keys().active(), "new");
    }

    /// The kinds as values of their own, so that proptest can make them.
    #[derive(Debug, Clone, PartialEq)]
    struct Owned(InstanceId, Uuid, usize, BindingId, u32);

    impl Owned {
        fn purpose(&self) -> Purpose<'_> {
            let kinds = [
                Kind::Superuser,
                Kind::Replication,
                Kind::Rewind,
                Kind::Rest,
                Kind::Bind(&self.3, self.1.into()),
            ];
            Purpose {
                instance: &self.0,
                incarnation: self.1.into(),
                kind: kinds[self.2],
                generation: self.4,
            }
        }
    }

    fn purposes() -> impl Strategy<Value = Owned> {
        // Few and similar names, so that boundaries between parts are what differs.
        let name = || prop::sample::select(vec!["a", "ab", "b", "bind", "rest", "a-b", "a0"]);
        (name(), 0..3u128, 0..5usize, name(), 0..3u32).prop_map(
            |(instance, life, kind, binding, generation)| {
                Owned(
                    instance.parse().unwrap(),
                    Uuid::from_u128(life),
                    kind,
                    binding.parse().unwrap(),
                    generation,
                )
            },
        )
    }

    proptest! {
        #[test]
        fn two_purposes_are_written_alike_only_when_they_are_equal(one in purposes(), other in purposes()) {
            let (one, other) = (one.purpose(), other.purpose());
            prop_assert_eq!(one == other, one.info() == other.info());
        }
    }
}
