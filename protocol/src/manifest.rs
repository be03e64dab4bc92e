//! The averager's account of a window: who did what, what was merged, which base follows.
//!
//! One per window without gaps, each naming the one before by its digest. The next base is a function of
//! manifest and work, so a node that cannot reproduce it stops; nobody has to trust the averager with bits.

use serde::{Deserialize, Serialize};

use crate::{
    check::Verdict,
    hotkey::Hotkey,
    object::{Bits32, Bits64, Hex32},
};

/// Largest manifest that is read: 65,536 uids with 300 bytes each do not occur, 4,096 do.
pub const MAX_MANIFEST: u64 = 2 << 20;

/// The body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Digest of the previous manifest; zeros for the first.
    pub previous: Hex32,
    /// Hashes of the window's blocks; absent where the state of the window was gone (the manifest is empty then).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
    /// Every hotkey registered at the start of the window, by uid.
    pub neurons: Vec<Entry>,
    /// Lower median norm of what passed all other checks; absent if nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_norm: Option<Bits64>,
    /// Uids whose work was merged, ascending.
    pub admitted: Vec<u16>,
    /// Mixing weights of the admitted, for mechanisms that have them: those of the first for each tensor in name order,
    /// then those of the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixing: Vec<Bits32>,
    /// Digest of the base before the window.
    pub base_before: Hex32,
    /// Digest of the base after it.
    pub base_after: Hex32,
    /// blake3 of the aggregate file; absent if nothing was admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Hex32>,
}

/// Hashes of the blocks that the window's randomness comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// First block of the window.
    pub start: Hex32,
    /// The block that picked the slices.
    pub reveal: Hex32,
}

/// One registered hotkey.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number at the start of the window.
    pub uid: u16,
    /// The hotkey.
    pub hotkey: Hotkey,
    /// Accepted, or why not.
    pub verdict: Verdict,
    /// blake3 of its artifact file, where a valid commit named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Hex32>,
    /// With `stale-base`: windows between the base that it started from and the one that it should have, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
}

/// A signed manifest contradicts itself or its predecessor: whoever signed it is at fault, nobody follows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// It continues another chain of manifests.
    #[error("manifest of window {0} does not follow the one before it: the averager signed two histories")]
    Previous(u64),
    /// It starts from another base than the one before it ended with.
    #[error("manifest of window {0} starts from another base than the window before ended with")]
    Base(u64),
    /// Its parts contradict each other.
    #[error("manifest of window {window} contradicts itself: {what}")]
    Contradiction {
        /// Which window.
        window: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// The base that it promises is not what its aggregate gives.
    #[error(
        "digest-mismatch: window {window} should end with base {wanted}, but its aggregate gives {found}; stopping rather than following another model"
    )]
    DigestMismatch {
        /// Which window.
        window: u64,
        /// Digest in the manifest.
        wanted: String,
        /// Digest of the base that was computed.
        found: String,
    },
}

impl Manifest {
    /// A window that nothing is known of: neither base nor averages change, and it is nobody's absence.
    pub fn empty(previous: [u8; 32], base: [u8; 32]) -> Self {
        Self {
            previous: Hex32(previous),
            blocks: None,
            neurons: Vec::new(),
            median_norm: None,
            admitted: Vec::new(),
            mixing: Vec::new(),
            base_before: Hex32(base),
            base_after: Hex32(base),
            aggregate: None,
        }
    }

    /// Checks what can be checked without any work: the place in the chain of manifests, and that its parts fit.
    pub fn check(&self, window: u64, previous: [u8; 32], base: [u8; 32]) -> Result<(), ManifestError> {
        if self.previous.0 != previous {
            return Err(ManifestError::Previous(window));
        }
        if self.base_before.0 != base {
            return Err(ManifestError::Base(window));
        }
        match self.contradiction() {
            Some(what) => Err(ManifestError::Contradiction { window, what }),
            None => Ok(()),
        }
    }

    fn contradiction(&self) -> Option<&'static str> {
        let accepted = |uid: &u16| {
            let found = self.neurons.binary_search_by_key(uid, |e| e.uid);
            found.is_ok_and(|i| self.neurons[i].verdict == Verdict::Accepted && self.neurons[i].artifact.is_some())
        };
        match () {
            () if !self.neurons.is_sorted_by(|a, b| a.uid < b.uid) => Some("uids are not ascending"),
            () if !self.admitted.is_sorted_by(|a, b| a < b) => Some("admitted uids are not ascending"),
            () if !self.admitted.iter().all(accepted) => Some("an admitted uid was not accepted"),
            () if self.aggregate.is_some() == self.admitted.is_empty() => {
                Some("there is an aggregate exactly if something was admitted")
            }
            () if self.admitted.is_empty() && self.base_before != self.base_after => {
                Some("the base changed although nothing was admitted")
            }
            () if !self.mixing.len().is_multiple_of(self.admitted.len()) => {
                Some("there is not a mixing weight for each admitted uid and tensor")
            }
            () if !self.mixing.iter().all(|weight| weight.0.is_finite()) => Some("a mixing weight is not finite"),
            () if self.blocks.is_none() && !self.neurons.is_empty() => Some("neurons without blocks"),
            () => None,
        }
    }

    /// Compares the base that a node computed with the promised one.
    pub fn verify(&self, window: u64, base: [u8; 32]) -> Result<(), ManifestError> {
        if self.base_after.0 == base {
            return Ok(());
        }
        Err(ManifestError::DigestMismatch { window, wanted: hex::encode(self.base_after.0), found: hex::encode(base) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hotkey::tests::keypair;

    fn manifest() -> Manifest {
        let entry = |uid: u8, verdict| Entry {
            uid: uid.into(),
            hotkey: Hotkey::from(&keypair(uid + 1)),
            verdict,
            artifact: Some(Hex32([uid; 32])),
            behind: None,
        };
        Manifest {
            blocks: Some(Blocks { start: Hex32([1; 32]), reveal: Hex32([2; 32]) }),
            neurons: vec![entry(0, Verdict::Accepted), entry(1, Verdict::Late), entry(2, Verdict::Accepted)],
            median_norm: Some(Bits64(1.5)),
            admitted: vec![0, 2],
            base_after: Hex32([6; 32]),
            aggregate: Some(Hex32([7; 32])),
            ..Manifest::empty([4; 32], [5; 32])
        }
    }

    fn error_after(change: impl FnOnce(&mut Manifest)) -> Option<ManifestError> {
        let mut m = manifest();
        change(&mut m);
        m.check(9, [4; 32], [5; 32]).err()
    }

    #[test]
    fn a_sound_manifest_passes_and_its_json_is_read_back() {
        assert_eq!(error_after(|_| ()), None);
        let text = serde_json::to_string(&manifest()).expect("plain data");
        assert_eq!(serde_json::from_str::<Manifest>(&text).expect("read back"), manifest());
        assert_eq!(Manifest::empty([4; 32], [5; 32]).check(9, [4; 32], [5; 32]), Ok(()));
    }

    #[test]
    fn history_and_base_must_continue() {
        assert_eq!(error_after(|m| m.previous = Hex32([0; 32])), Some(ManifestError::Previous(9)));
        assert_eq!(error_after(|m| m.base_before = Hex32([0; 32])), Some(ManifestError::Base(9)));
    }

    #[test]
    fn contradictions_are_named() {
        let what = |change: fn(&mut Manifest)| match error_after(change) {
            Some(ManifestError::Contradiction { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert!(what(|m| m.neurons.swap(0, 1)).contains("uids are not ascending"));
        assert!(what(|m| m.admitted = vec![2, 0]).contains("admitted uids are not ascending"));
        assert!(what(|m| m.admitted = vec![0, 1]).contains("not accepted"));
        assert!(what(|m| m.admitted = vec![0, 9]).contains("not accepted"));
        assert!(what(|m| m.aggregate = None).contains("aggregate"));
        assert!(
            what(|m| {
                m.admitted.clear();
                m.aggregate = None;
            })
            .contains("base changed")
        );
        assert!(what(|m| m.blocks = None).contains("without blocks"));
    }

    #[test]
    fn another_base_is_never_followed() {
        assert_eq!(manifest().verify(9, [6; 32]), Ok(()));
        assert!(matches!(manifest().verify(9, [8; 32]), Err(ManifestError::DigestMismatch { .. })));
    }
}
