//! What can go wrong with the bucket, in words that say what to do.

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

/// An operation, as it is counted and named in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read an object.
    Get,
    /// Ask about an object.
    Head,
    /// Write an object.
    Put,
    /// List keys.
    List,
    /// Remove an object.
    Delete,
}

impl Op {
    /// Lower-case name; metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Get => "get",
            Op::Head => "head",
            Op::Put => "put",
            Op::List => "list",
            Op::Delete => "delete",
        }
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can go wrong with the bucket.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(
        "failed to {op} {key} in bucket {bucket}: access denied ({code}); a key may write under its own hotkey only, see the policies in docs"
    )]
    Denied { op: Op, bucket: String, key: String, code: String, worked: bool },
    #[error("failed to {op} {key}: there is no bucket {bucket}; create it or correct spec.bucket.name")]
    NoSuchBucket { op: Op, bucket: String, key: String, worked: bool },
    #[error(
        "failed to {op} {key} in bucket {bucket}: the bucket does not know these credentials ({code}); correct access-key-id and secret-access-key"
    )]
    BadCredentials { op: Op, bucket: String, key: String, code: String, worked: bool },
    #[error(
        "failed to {op} {key} in bucket {bucket}: no credentials ({reason}); set bucket.credentialsSecretRef or give the service account a role"
    )]
    NoCredentials { op: Op, bucket: String, key: String, reason: String },
    #[error(
        "failed to {op} {key} in bucket {bucket}: this machine's clock differs from the bucket's; set it right (NTP)"
    )]
    ClockSkew { op: Op, bucket: String, key: String },
    #[error(
        "failed to {op} {key} in bucket {bucket}: no answer ({reason}); check spec.bucket.endpoint and the network"
    )]
    Unreachable { op: Op, bucket: String, key: String, reason: String },
    #[error("failed to {op} {key} in bucket {bucket}: the service is busy or broken (HTTP {status} {code})")]
    Busy { op: Op, bucket: String, key: String, status: u16, code: String },
    #[error("failed to {op} {key} in bucket {bucket}: refused (HTTP {status} {code}: {message})")]
    Refused { op: Op, bucket: String, key: String, status: u16, code: String, message: String },
    #[error("failed to {op} {key} in bucket {bucket}: {reason}")]
    OddAnswer { op: Op, bucket: String, key: String, reason: String },
    #[error("{key} has {size} bytes, allowed are {most}")]
    TooLarge { key: String, size: u64, most: u64 },
    #[error("{key} reads differently every time; check the bucket and the way to it")]
    Unsteady { key: String },
    #[error("failed to read the certificates in spec.bucket.caBundle: {reason}; give PEM")]
    CaBundle { reason: String },
    #[error("{path} is not there yet; add the key to the Secret that bucket.credentialsSecretRef names")]
    SecretMissing { path: String },
    #[error("{path} is empty or not text; correct the Secret that bucket.credentialsSecretRef names")]
    SecretUnreadable { path: String },
    #[error("stopped during {op}")]
    Stopped { op: Op },
}

impl Error {
    /// Trying again later can help. What a node was allowed to do before, it will be allowed again: keys are being
    /// changed, or the service is in trouble. Refused the first time, its owner has to change something.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Denied { worked, .. } | Self::NoSuchBucket { worked, .. } | Self::BadCredentials { worked, .. } => {
                *worked
            }
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::ClockSkew { .. }
            | Self::OddAnswer { .. }
            | Self::Unsteady { .. }
            | Self::SecretMissing { .. }
            | Self::NoCredentials { .. } => true,
            Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::CaBundle { .. }
            | Self::SecretUnreadable { .. }
            | Self::Stopped { .. } => false,
        }
    }

    /// Whether it comes from what the owner of the key has put there, who may put anything there: no fault of this node.
    pub fn is_the_authors(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Unsteady { .. })
    }

    /// The word under which the request is counted.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Denied { .. } | Self::BadCredentials { .. } | Self::NoCredentials { .. } => "denied",
            Self::Unreachable { .. } => "unreachable",
            Self::TooLarge { .. } => "too-large",
            _ => "error",
        }
    }

    /// What the error says about the bucket being usable; `None`: nothing.
    pub(super) fn reached(&self) -> Option<Result<(), String>> {
        match self {
            Self::TooLarge { .. } => Some(Ok(())),
            // About this one key.
            Self::Denied { worked: false, .. } | Self::Refused { .. } | Self::Stopped { .. } => None,
            _ => Some(Err(self.to_string())),
        }
    }
}

/// Where in the bucket something happens: the context of an error.
pub(super) struct At {
    pub op: Op,
    pub bucket: String,
    pub key: String,
    /// The bucket took a request of this kind from this node before.
    pub worked: bool,
}

impl At {
    /// The answer says that there is no such object: in S3's own word, because a 404 from anything else that answers at
    /// this address would be taken for the absence of everybody's work.
    pub fn is_absent<E: ProvideErrorMetadata>(&self, error: &SdkError<E, HttpResponse>) -> bool {
        // Answers to HEAD have no body and so no word.
        status(error) == Some(404) && (self.op == Op::Head || error.code() == Some("NoSuchKey"))
    }

    pub fn unreachable(&self, reason: impl Into<String>) -> Error {
        let Self { op, bucket, key, worked: _ } = self;
        Error::Unreachable { op: *op, bucket: bucket.clone(), key: key.clone(), reason: reason.into() }
    }

    pub fn odd(&self, reason: impl Into<String>) -> Error {
        let Self { op, bucket, key, worked: _ } = self;
        Error::OddAnswer { op: *op, bucket: bucket.clone(), key: key.clone(), reason: reason.into() }
    }

    /// Turns what the SDK says into what it means.
    pub fn failed<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let (op, bucket, key, worked) = (self.op, self.bucket.clone(), self.key.clone(), self.worked);
        let Some(status) = status(&error) else {
            let reason = chain(&error);
            return if reason.contains("redential") {
                Error::NoCredentials { op, bucket, key, reason }
            } else {
                Error::Unreachable { op, bucket, key, reason }
            };
        };
        let code = bounded(error.code().unwrap_or("no code"));
        match (code.as_str(), status) {
            ("NoSuchBucket", _) => Error::NoSuchBucket { op, bucket, key, worked },
            ("RequestTimeTooSkewed", _) => Error::ClockSkew { op, bucket, key },
            (
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired",
                _,
            ) => Error::BadCredentials { op, bucket, key, code, worked },
            (_, 401 | 403) => Error::Denied { op, bucket, key, code, worked },
            // 409: another conditional write to this key is under way. Sent again, one of them gets 412.
            ("SlowDown" | "RequestTimeout" | "TemporaryRedirect", _) | (_, 408 | 409 | 429 | 500..=599) => {
                Error::Busy { op, bucket, key, status, code }
            }
            // What arrived there is not what was sent.
            ("IncompleteBody" | "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch", _) => {
                Error::Busy { op, bucket, key, status, code }
            }
            // Not S3's words: a proxy, a login page, an answer that was cut short.
            ("no code", _) => self.odd(format!("an odd answer (HTTP {status}: {})", chain(&error))),
            _ => {
                let message = bounded(error.message().unwrap_or("no message"));
                Error::Refused { op, bucket, key, status, code, message }
            }
        }
    }
}

/// HTTP status of the answer, if there was one.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|answer| answer.status().as_u16())
}

/// Texts of the error and of all its sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    bounded(&crate::failure::causes(error))
}

/// Texts of a server end up in logs and in `/status`.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
