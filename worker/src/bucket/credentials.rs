//! Where the keys to the bucket come from.

use std::{fmt, path::Path};

use super::Error;
use crate::files;

/// Context of the devnet's public secrets; its S3 server derives the same.
const DEVNET: &str = "bistro/devnet/s3";

/// Longest key file in bytes.
const LONGEST: u64 = 4096;

/// Keys to the bucket.
#[derive(Clone)]
pub enum Credentials {
    /// An access key and its secret.
    Keys {
        /// The access key.
        access_key_id: String,
        /// Its secret.
        secret_access_key: String,
    },
    /// The default chain of AWS: environment variables, profile, web identity (IRSA), container and instance roles.
    Aws,
}

impl Credentials {
    /// The public keys of a hotkey on a devnet: the access key is the SS58 address, the secret the hex of its
    /// `blake3::derive_key("bistro/devnet/s3", address)`.
    pub fn development(hotkey: &str) -> Self {
        Self::Keys {
            access_key_id: hotkey.to_owned(),
            secret_access_key: hex::encode(blake3::derive_key(DEVNET, hotkey.as_bytes())),
        }
    }

    /// The keys in the secrets folder (BISTRO_SECRETS): `bucket/access-key-id-ORDINAL` and
    /// `bucket/secret-access-key-ORDINAL`, else the same without the ordinal.
    ///
    /// `None`: no Secret is mounted there. [`Error::SecretMissing`]: one is, without the keys; they may still come.
    pub fn from_secrets(secrets: &Path, ordinal: u32) -> Result<Option<Self>, Error> {
        let folder = secrets.join("bucket");
        if !folder.is_dir() {
            return Ok(None);
        }
        let own = (format!("access-key-id-{ordinal}"), format!("secret-access-key-{ordinal}"));
        let shared = ("access-key-id".to_owned(), "secret-access-key".to_owned());
        let (id, secret) = if folder.join(&own.0).exists() { own } else { shared };
        Ok(Some(Self::Keys { access_key_id: read(&folder.join(id))?, secret_access_key: read(&folder.join(secret))? }))
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let unreadable = || Error::SecretUnreadable { path: path.display().to_string() };
    let bytes = files::read_bounded(path, LONGEST).map_err(|_| unreadable())?;
    let bytes = bytes.ok_or_else(|| Error::SecretMissing { path: path.display().to_string() })?;
    parse(&bytes).ok_or_else(unreadable)
}

/// The key that a file holds: one line of text.
pub(crate) fn parse(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { access_key_id, secret_access_key: _ } => write!(f, "Keys({access_key_id}, ...)"),
            Self::Aws => f.write_str("Aws"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_keys_go_before_shared_ones_and_a_missing_key_is_named() {
        let secrets = tempfile::tempdir().expect("a temporary folder");
        assert!(matches!(Credentials::from_secrets(secrets.path(), 1), Ok(None)));
        let folder = secrets.path().join("bucket");
        std::fs::create_dir(&folder).expect("created");
        let missing = Credentials::from_secrets(secrets.path(), 1).expect_err("there are no keys yet");
        assert!(missing.is_transient() && missing.to_string().contains("bucket/access-key-id "), "{missing}");
        for (name, content) in [("access-key-id", "all\n"), ("secret-access-key", "s"), ("access-key-id-1", "own")] {
            std::fs::write(folder.join(name), content).expect("written");
        }
        let id = |ordinal| match Credentials::from_secrets(secrets.path(), ordinal) {
            Ok(Some(Credentials::Keys { access_key_id, .. })) => Ok(access_key_id),
            other => Err(other),
        };
        assert_eq!(id(0).expect("shared keys"), "all");
        assert!(matches!(id(1), Err(Err(Error::SecretMissing { path })) if path.ends_with("secret-access-key-1")));
        std::fs::write(folder.join("secret-access-key-1"), "s").expect("written");
        assert_eq!(id(1).expect("own keys"), "own");
    }

    #[test]
    fn development_keys_are_derived_from_the_address_and_never_printed() {
        let keys = Credentials::development("5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY");
        let Credentials::Keys { secret_access_key, .. } = &keys else { panic!("keys") };
        let derived = blake3::Hasher::new_derive_key("bistro/devnet/s3")
            .update(b"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY")
            .finalize();
        assert_eq!(secret_access_key, derived.to_hex().as_str());
        assert!(!format!("{keys:?}").contains(secret_access_key.as_str()), "secrets are never printed");
    }
}
