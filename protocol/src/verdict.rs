//! The one word for what becomes of a miner's work.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Accepted, or the one reason why not. The same word in metrics, logs and published records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The hotkey has no uid in this window.
    Unregistered,
    /// It published no commit.
    NoCommit,
    /// It came after the deadline.
    Late,
    /// The bytes are not what they should be.
    Unreadable,
    /// The signature is not the hotkey's.
    Forged,
    /// It follows another agreement.
    RunMismatch,
    /// It is for another window.
    WrongWindow,
    /// It is larger than the model allows.
    Oversize,
    /// The chain does not say that the hotkey committed itself to this model.
    NoCommitment,
    /// A commit without work.
    NoArtifact,
    /// The work is not what was committed.
    NotCommitted,
    /// The work started from another base.
    StaleBase,
    /// Names, shapes or types are not the model's.
    WrongSchema,
    /// An entry is infinite or not a number.
    NotFinite,
    /// Its norm is far above the others'.
    Norm,
    /// An audit that recomputed it found something else.
    Recompute,
    /// It counts.
    Accepted,
    /// It passed this validator's checks but not the manifest's, or the other way round.
    Disputed,
}

impl Verdict {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Unregistered => "unregistered",
            Verdict::NoCommit => "no-commit",
            Verdict::Late => "late",
            Verdict::Unreadable => "unreadable",
            Verdict::Forged => "forged",
            Verdict::RunMismatch => "run-mismatch",
            Verdict::WrongWindow => "wrong-window",
            Verdict::Oversize => "oversize",
            Verdict::NoCommitment => "no-commitment",
            Verdict::NoArtifact => "no-artifact",
            Verdict::NotCommitted => "not-committed",
            Verdict::StaleBase => "stale-base",
            Verdict::WrongSchema => "wrong-schema",
            Verdict::NotFinite => "not-finite",
            Verdict::Norm => "norm",
            Verdict::Recompute => "recompute",
            Verdict::Accepted => "accepted",
            Verdict::Disputed => "disputed",
        }
    }

    /// Whether this is proof of cheating: the average falls to 0 at once.
    pub fn is_fraud(self) -> bool {
        matches!(self, Verdict::Forged | Verdict::NotCommitted | Verdict::Norm | Verdict::Recompute)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
