//! Who may ask: access keys and their secrets, which anybody can compute.

use s3s::{
    S3Result,
    auth::{S3Auth, SecretKey},
    s3_error,
};
use sp_core::crypto::{AccountId32, Ss58AddressFormat, Ss58Codec};

/// The access key that may write data sets.
pub const ADMIN: &str = "admin";

const CONTEXT: &str = "bistro/devnet/s3";
const SS58_PREFIX: u16 = 42;

/// The secret of a hotkey's access key: hex of blake3 derive_key("bistro/devnet/s3", SS58 address as UTF-8).
pub fn secret_of(hotkey: &str) -> String {
    hex::encode(blake3::derive_key(CONTEXT, hotkey.as_bytes()))
}

/// Whether this is the SS58 address of an account, prefix 42, in its canonical form.
pub fn is_hotkey(text: &str) -> bool {
    let parsed = AccountId32::from_ss58check_with_version(text);
    parsed.is_ok_and(|(account, format)| {
        format == Ss58AddressFormat::custom(SS58_PREFIX) && account.to_ss58check_with_version(format) == text
    })
}

/// Knows every access key.
pub struct Keys {
    admin_secret: String,
}

impl Keys {
    pub fn new(admin_secret: String) -> Keys {
        Keys { admin_secret }
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == ADMIN {
            return Ok(self.admin_secret.clone().into());
        }
        if is_hotkey(access_key) {
            return Ok(secret_of(access_key).into());
        }
        Err(s3_error!(InvalidAccessKeyId, "the access key is the SS58 address (prefix 42) of a hotkey, or {ADMIN}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn an_access_key_is_a_canonical_address_with_prefix_42() {
        assert!(is_hotkey(ALICE));
        assert!(!is_hotkey("15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"), "another network's prefix");
        assert!(!is_hotkey(&ALICE.replace("utQY", "utQZ")), "wrong checksum");
        assert!(!is_hotkey("0xd43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"));
        assert!(!is_hotkey(""));
    }

    #[test]
    fn the_secret_is_blake3_of_the_address() {
        let expected = blake3::derive_key("bistro/devnet/s3", ALICE.as_bytes());
        assert_eq!(secret_of(ALICE), hex::encode(expected));
        assert_eq!(secret_of(ALICE).len(), 64);
    }
}
