//! Keys: bittensor hotkey files, and the derived keys of development.
//!
//! A hotkey file is plain JSON, as btcli writes it. Of its secrets the phrase goes before the seed and the seed before the
//! expanded key, and whichever was used must lead to the address that the file names. Everything that is not a plain
//! sr25519 hotkey is refused with one line that says what to do.

use std::{fmt, path::Path};

use hmac::Hmac;
use schnorrkel::{
    ExpansionMode, Keypair, MiniSecretKey, SecretKey,
    derive::{ChainCode, Derivation},
};
use sha2::Sha512;
use subxt::{
    SubstrateConfig,
    transactions::Signer,
    utils::{AccountId32, MultiSignature},
};
use subxt_signer::{DeriveJunction, bip39::Mnemonic};
use zeroize::{Zeroize, Zeroizing};

use crate::files;

/// Largest hotkey file in bytes.
const LARGEST: u64 = 64 * 1024;

/// Signing context of Substrate.
const CONTEXT: &[u8] = b"substrate";

/// Why a hotkey file cannot be used. Every text names the file and the remedy, and none of them a secret.
#[derive(Debug, thiserror::Error)]
#[error("failed to use the hotkey file {path}: {reason}; {remedy}")]
pub struct WalletError {
    /// The file.
    pub path: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: &'static str,
    /// Whether the file may still come: it is not there yet.
    pub missing: bool,
}

/// A key that signs for one node. Its secret is wiped from memory when it is dropped, and never printed.
#[derive(Clone)]
pub struct Hotkey {
    keypair: Keypair,
}

impl Hotkey {
    /// Reads a bittensor hotkey file.
    pub fn load(path: &Path) -> Result<Self, WalletError> {
        let fault = |reason: &str, remedy| WalletError {
            path: path.display().to_string(),
            reason: reason.to_owned(),
            remedy,
            missing: false,
        };
        let bytes = match files::read_bounded(path, LARGEST) {
            Ok(Some(bytes)) => Zeroizing::new(bytes),
            Ok(None) => {
                let missing = fault("it is not there", "add this key to the Secret that wallet.secretRef names");
                return Err(WalletError { missing: true, ..missing });
            }
            Err(files::Error::TooLarge { .. }) => return Err(fault("it is larger than 64 KiB", PLAIN)),
            Err(error) => return Err(fault(&error.to_string(), PLAIN)),
        };
        parse(&bytes).map_err(|(reason, remedy)| fault(&reason, remedy))
    }

    /// A key of the development phrase by its path, such as `//Alice` or `//bistro/default/miner/miner/0`: two slashes
    /// derive hard, one soft, as in every Substrate tool. Public by design.
    pub fn development(path: &str) -> Self {
        let mut secret = from_seed(&DEV_SEED).secret.clone();
        let mut hard = false;
        for name in path.split('/').skip(1) {
            if name.is_empty() {
                hard = true;
                continue;
            }
            // The signer's own type makes the chain code, so that numbers and long names are treated as everywhere else.
            let code = ChainCode(DeriveJunction::from(name).into_inner());
            secret = if std::mem::take(&mut hard) {
                secret.hard_derive_mini_secret_key(Some(code), b"").0.expand(ExpansionMode::Ed25519)
            } else {
                secret.derived_key_simple(code, []).0
            };
        }
        Self { keypair: secret.into() }
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.keypair.public.to_bytes()
    }

    /// The address that people see: SS58 with prefix 42.
    pub fn ss58(&self) -> String {
        ss58(&self.public())
    }

    /// Signs bytes in Substrate's context.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.keypair.sign_simple(CONTEXT, bytes).to_bytes()
    }

    /// The key itself, for the protocol's signatures.
    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

impl fmt::Debug for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hotkey({})", self.ss58())
    }
}

impl Signer<SubstrateConfig> for Hotkey {
    fn account_id(&self) -> AccountId32 {
        AccountId32(self.public())
    }

    fn sign(&self, payload: &[u8]) -> MultiSignature {
        MultiSignature::Sr25519(Hotkey::sign(self, payload))
    }
}

/// The keys of one development node: derived from names, so that a restart finds the same ones.
#[derive(Clone, Debug)]
pub struct DevWallet {
    /// `//bistro/<namespace>/<kind>/<name>/<ordinal>`.
    pub hotkey: Hotkey,
    /// The same with `/coldkey`: it pays for the registration.
    pub coldkey: Hotkey,
}

impl DevWallet {
    /// Keys of pod `ordinal` of a resource; `kind` in lower case.
    pub fn derive(namespace: &str, kind: &str, name: &str, ordinal: u32) -> Self {
        let path = format!("//bistro/{namespace}/{kind}/{name}/{ordinal}");
        Self { hotkey: Hotkey::development(&path), coldkey: Hotkey::development(&format!("{path}/coldkey")) }
    }
}

/// SS58 with prefix 42 of a public key.
pub fn ss58(public: &[u8; 32]) -> String {
    AccountId32(*public).to_string()
}

const PLAIN: &str = "give a plain hotkey file as btcli writes it under hotkeys/";
const DECRYPT: &str =
    "hotkeys are used without a password: make a new one with btcli wallet new-hotkey, without a password";

/// Mini secret of Substrate's development phrase ("bottom drive obey lake ...").
const DEV_SEED: [u8; 32] = [
    0xfa, 0xc7, 0x95, 0x9d, 0xbf, 0xe7, 0x2f, 0x05, 0x2e, 0x5a, 0x0c, 0x3c, 0x8d, 0x65, 0x30, 0xf2, 0x02, 0xb0, 0x2f,
    0xd8, 0xf9, 0xf5, 0xca, 0x35, 0x80, 0xec, 0x8d, 0xeb, 0x77, 0x97, 0x47, 0x9e,
];

/// The fields of a hotkey file that matter; others are ignored.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    secret_phrase: Option<Secret>,
    secret_seed: Option<Secret>,
    private_key: Option<Secret>,
    #[serde(alias = " ss58Address")]
    ss58_address: Option<String>,
    crypto_type: Option<u8>,
    account_type: Option<String>,
    hashed_descriptor: Option<serde::de::IgnoredAny>,
}

/// A text that is wiped when it is dropped.
#[derive(serde::Deserialize)]
struct Secret(String);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

type Refused = (String, &'static str);

pub(crate) fn parse(bytes: &[u8]) -> Result<Hotkey, Refused> {
    let encrypted = [b"$NACL".as_slice(), b"$ANSIBLE_VAULT", b"gAAAAA"];
    if encrypted.iter().any(|prefix| bytes.starts_with(prefix)) {
        return Err(("it is encrypted".to_owned(), DECRYPT));
    }
    // The text of a parse error may quote a secret: only where it is may be told.
    let file: File = serde_json::from_slice(bytes)
        .map_err(|e| (format!("it is no JSON of a hotkey (line {}, column {})", e.line(), e.column()), PLAIN))?;
    if let Some(other) = file.crypto_type.filter(|kind| *kind != 1) {
        return Err((format!("its cryptoType is {other}"), "use an sr25519 hotkey (cryptoType 1)"));
    }
    let plain = file.account_type.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("sr25519"));
    if file.hashed_descriptor.is_some() || (!plain && file.secret_phrase.is_none() && file.secret_seed.is_none()) {
        return Err(("it holds another kind of account".to_owned(), "use an sr25519 hotkey (cryptoType 1)"));
    }
    let keypair = if let Some(phrase) = &file.secret_phrase {
        from_phrase(&phrase.0).map_err(|reason| (reason.to_owned(), PLAIN))?
    } else if let Some(seed) = &file.secret_seed {
        from_seed(&*secret::<32>(&seed.0, "secretSeed")?)
    } else if let Some(key) = &file.private_key {
        let secret = SecretKey::from_bytes(&*secret::<64>(&key.0, "privateKey")?);
        secret.map_err(|_| ("its privateKey is no sr25519 key".to_owned(), PLAIN))?.to_keypair()
    } else {
        return Err(("it holds no secret key; is it the public half (pub.txt)?".to_owned(), PLAIN));
    };
    let hotkey = Hotkey { keypair };
    match &file.ss58_address {
        Some(address) if *address != hotkey.ss58() => {
            let shown: String = address.chars().filter(|c| c.is_ascii_alphanumeric()).take(64).collect();
            Err((
                format!("its secret leads to {}, not to its ss58Address {shown}", hotkey.ss58()),
                "export the hotkey again",
            ))
        }
        _ => Ok(hotkey),
    }
}

fn secret<const N: usize>(text: &str, field: &str) -> Result<Zeroizing<[u8; N]>, Refused> {
    let mut bytes = Zeroizing::new([0; N]);
    hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut *bytes)
        .map_err(|_| (format!("its {field} is not {N} bytes in hex"), PLAIN))?;
    Ok(bytes)
}

fn from_seed(seed: &[u8; 32]) -> Keypair {
    // It fails for other lengths only.
    MiniSecretKey::from_bytes(seed).expect("32 bytes are a mini secret").expand_to_keypair(ExpansionMode::Ed25519)
}

/// Substrate's way from words to a key: PBKDF2 over the entropy, not over the words.
fn from_phrase(phrase: &str) -> Result<Keypair, &'static str> {
    let words = Mnemonic::parse_normalized(phrase.trim()).map_err(|_| "its secretPhrase is no BIP-39 phrase")?;
    let (mut entropy, length) = words.to_entropy_array();
    let mut seed = Zeroizing::new([0; 64]);
    let made = pbkdf2::pbkdf2::<Hmac<Sha512>>(&entropy[..length], b"mnemonic", 2048, &mut *seed);
    entropy.zeroize();
    made.map_err(|_| "its secretPhrase cannot be used")?;
    let mut half = Zeroizing::new([0; 32]);
    half.copy_from_slice(&seed[..32]);
    Ok(from_seed(&half))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    fn file(fields: serde_json::Value) -> Result<Hotkey, Refused> {
        parse(fields.to_string().as_bytes())
    }

    fn refusal(fields: serde_json::Value) -> String {
        let (reason, remedy) = file(fields).expect_err("it must be refused");
        format!("{reason}; {remedy}")
    }

    #[test]
    fn development_keys_are_those_of_every_substrate_tool() {
        assert_eq!(Hotkey::development("//Alice").ss58(), ALICE);
        assert_eq!(
            Hotkey::development("").public(),
            from_phrase(subxt_signer::DEV_PHRASE).expect("words").public.to_bytes()
        );
        for path in ["//bistro/default/miner/miner/0", "//bistro/default/miner/miner/0/coldkey", "//a//12/x"] {
            let theirs = subxt_signer::sr25519::Keypair::from_uri(&path.parse().expect("a path")).expect("a key");
            assert_eq!(Hotkey::development(path).public(), theirs.public_key().0, "{path}");
        }
        let wallet = DevWallet::derive("default", "miner", "miner", 0);
        assert_eq!(wallet.hotkey.public(), Hotkey::development("//bistro/default/miner/miner/0").public());
        assert_ne!(wallet.hotkey.public(), wallet.coldkey.public());
    }

    #[test]
    fn each_kind_of_secret_leads_to_the_key_and_the_phrase_goes_first() {
        let seed = hex::encode(DEV_SEED);
        let root = Hotkey::development("");
        let key = hex::encode(root.keypair.secret.to_bytes());
        for fields in [
            serde_json::json!({"secretPhrase": subxt_signer::DEV_PHRASE, "secretSeed": "0x00", "ss58Address": root.ss58()}),
            serde_json::json!({"secretSeed": format!("0x{seed}"), "privateKey": "0x00", "cryptoType": 1}),
            serde_json::json!({"privateKey": format!("0x{key}"), " ss58Address": root.ss58()}),
        ] {
            assert_eq!(file(fields).expect("a good file").public(), root.public());
        }
    }

    #[test]
    fn what_is_no_plain_sr25519_hotkey_is_refused_with_a_remedy() {
        let seed = format!("0x{}", hex::encode(DEV_SEED));
        assert!(
            refusal(serde_json::json!({"secretSeed": seed, "ss58Address": ALICE})).contains("not to its ss58Address")
        );
        assert!(refusal(serde_json::json!({"secretSeed": seed, "cryptoType": 0})).contains("sr25519"));
        assert!(refusal(serde_json::json!({"secretSeed": "0x12"})).contains("32 bytes"));
        assert!(refusal(serde_json::json!({"publicKey": "0x00", "ss58Address": ALICE})).contains("pub.txt"));
        assert!(refusal(serde_json::json!({"secretPhrase": "twelve wrong words"})).contains("BIP-39"));
        assert!(refusal(serde_json::json!({"hashedDescriptor": "x"})).contains("another kind"));
        for encrypted in ["$NACL0123", "$ANSIBLE_VAULT;1.1", "gAAAAABl"] {
            assert!(parse(encrypted.as_bytes()).expect_err("refused").0.contains("encrypted"));
        }
    }

    #[test]
    fn faults_name_the_file_and_no_secret() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("hotkey-0");
        let missing = Hotkey::load(&path).expect_err("there is none");
        assert!(missing.missing && missing.to_string().contains("hotkey-0"), "{missing}");
        std::fs::write(&path, "{\"secretSeed\": \"0xdeadbeef").expect("written");
        let broken = Hotkey::load(&path).expect_err("broken").to_string();
        assert!(broken.contains("hotkey-0") && !broken.contains("deadbeef"), "{broken}");
        std::fs::write(&path, vec![b' '; 70_000]).expect("written");
        assert!(Hotkey::load(&path).expect_err("large").to_string().contains("64 KiB"));
    }

    #[test]
    fn signatures_verify_in_substrates_context_and_debug_shows_the_address_only() {
        let alice = Hotkey::development("//Alice");
        let signature = schnorrkel::Signature::from_bytes(&alice.sign(b"window 7")).expect("a signature");
        alice.keypair().public.verify_simple(CONTEXT, b"window 7", &signature).expect("it verifies");
        assert_eq!(format!("{alice:?}"), format!("Hotkey({ALICE})"));
    }
}
