//! Who may do what: everybody reads everything, each hotkey writes under itself, `admin` writes data sets.

use super::{
    BUCKET,
    auth::{ADMIN, is_hotkey},
};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    path::S3Path,
    s3_error,
};

/// Keys under this belong to the corpus folder: nobody writes there.
pub const CORPUS: &str = "corpus";
const DATASETS: &str = "datasets";

const READS: &[&str] =
    &["GetObject", "HeadObject", "ListObjects", "ListObjectsV2", "HeadBucket", "ListBuckets", "GetBucketLocation"];
const WRITES: &[&str] = &[
    "PutObject",
    "DeleteObject",
    "CreateMultipartUpload",
    "UploadPart",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
];

/// The devnet's rules of access.
pub struct Rules;

#[async_trait::async_trait]
impl S3Access for Rules {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = context.credentials() else {
            return Err(s3_error!(AccessDenied, "sign the request"));
        };
        let operation = context.s3_op().name();
        let allowed = if READS.contains(&operation) {
            true
        } else if WRITES.contains(&operation) {
            // A form upload names its key in the body, so it has no object here: refused.
            matches!(context.s3_path(), S3Path::Object { bucket, key }
                if &**bucket == BUCKET && may_write(&credentials.access_key, key))
        } else {
            // The keys that it deletes are in the body: the operation checks each.
            operation == "DeleteObjects"
        };
        if allowed {
            return Ok(());
        }
        let message = "a hotkey writes under its own address only, {prefix}{netuid}/{run}/{hotkey}/{window:08}/{name}; \
                       admin writes under datasets/";
        Err(s3_error!(AccessDenied, "{message}"))
    }
}

/// Whether the holder of an access key may write or delete this key (PROTOCOL section 9).
///
/// A hotkey's key names no other hotkey, nor `datasets`, before its own: what lies below those is not its own.
pub fn may_write(access_key: &str, key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    if parts.first() == Some(&CORPUS) || parts.iter().any(|part| part.is_empty()) {
        return false;
    }
    let hotkeys: Vec<&str> = parts.iter().copied().filter(|part| is_hotkey(part)).collect();
    let in_data_set = parts.iter().rev().skip(1).any(|part| *part == DATASETS);
    if access_key == ADMIN {
        return in_data_set && hotkeys.is_empty();
    }
    let [.., holder, window, _name] = parts[..] else {
        return false;
    };
    let is_window = window.len() == 8 && window.bytes().all(|byte| byte.is_ascii_digit());
    is_window && holder == access_key && hotkeys == [holder] && !in_data_set
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    const BOB: &str = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty";

    #[test]
    fn a_hotkey_writes_under_itself_only() {
        for prefix in ["", "1/1/", "some/prefix/1/1/"] {
            let key = format!("{prefix}{ALICE}/00000012/commit.json");
            assert!(may_write(ALICE, &key), "{key}");
            assert!(!may_write(BOB, &key), "{key}");
            assert!(!may_write(ADMIN, &key), "{key}");
        }
    }

    #[test]
    fn a_hotkey_writes_nothing_else() {
        let wrong = [
            format!("1/1/{ALICE}/12/commit.json"),
            format!("1/1/{ALICE}/0000001x/commit.json"),
            format!("1/1/{ALICE}/00000012/"),
            format!("1/1/{ALICE}/00000012"),
            format!("1/1/{ALICE}//00000012/commit.json"),
            format!("1/1/{ALICE}/00000012/{BOB}/commit.json"),
            format!("1/1/{BOB}/{ALICE}/commit.json"),
            format!("1/1/{BOB}/00000012/commit.json/{ALICE}/00000012/commit.json"),
            format!("datasets/rust/{ALICE}/00000012/commit.json"),
            format!("corpus/{ALICE}/00000012/commit.json"),
            "datasets/rust/index.json".to_string(),
            ALICE.to_string(),
            String::new(),
        ];
        for key in wrong {
            assert!(!may_write(ALICE, &key), "{key}");
        }
    }

    #[test]
    fn admin_writes_data_sets_only() {
        assert!(may_write(ADMIN, "datasets/rust/index.json"));
        assert!(may_write(ADMIN, "some/prefix/datasets/rust/0001.shard"));
        for key in ["datasets", "datasets/", "dataset/x", "1/1/x/00000001/datasets", "corpus/datasets/x"] {
            assert!(!may_write(ADMIN, key), "{key}");
        }
        assert!(!may_write(ADMIN, &format!("datasets/{ALICE}/00000012/commit.json")), "a hotkey's key");
    }
}
