//! What makes a miner's work count, in the one order that everybody uses. An object counts whole or not at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::verdict::Verdict;
use crate::{
    VERSION,
    artifact::{self, Artifact, Form},
    clock::Clock,
    hotkey::Hotkey,
    mechanism::loss_wins::Commitment,
    object::{self, Agreement, Hex32, Kind},
    tensors::Tensors,
};

/// Largest commit that is read; a real one has about 600 bytes.
pub const MAX_COMMIT: u64 = 4096;
/// Work with a norm above so many medians is rejected; honest norms were at most 1.1 medians.
const NORM_LIMIT: f64 = 10.0;
/// Below so many norms a median says nothing about which one is wrong.
const NORM_QUORUM: usize = 3;

/// Body of a commit: digest and exact size of the whole artifact file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// blake3 of the file.
    pub digest: Hex32,
    /// Its length in bytes.
    pub size: u64,
}

impl Commit {
    /// The commit of these bytes.
    pub fn of(artifact: &[u8]) -> Self {
        Self { digest: Hex32(*blake3::hash(artifact).as_bytes()), size: artifact.len() as u64 }
    }
}

/// What a bucket says of an object before its bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Content-Length.
    pub size: u64,
    /// LastModified in seconds since 1970.
    pub last_modified: i64,
}

/// The facts of one window that every check is made against.
#[derive(Clone, Debug)]
pub struct Rules<'a> {
    /// Chain, subnet and run.
    pub agreement: &'a Agreement,
    /// The clock of the run.
    pub clock: &'a Clock,
    /// The window.
    pub window: u64,
    /// What the mechanism publishes.
    pub kind: Kind,
    /// Digest of the base before the window.
    pub base: [u8; 32],
    /// Names and shapes that the work must have.
    pub shape: &'a [(String, Vec<usize>)],
    /// How it must be written.
    pub form: Form,
    /// Timestamp in milliseconds of the block that closes the commits.
    pub commits_close_ms: u64,
    /// Timestamp in milliseconds of the block that closes the uploads.
    pub uploads_close_ms: u64,
    /// Who had committed to which model when the commits closed, and in which block; for mechanisms without a common base.
    pub models: Option<&'a BTreeMap<Hotkey, (Commitment, u64)>>,
}

impl Rules<'_> {
    /// Checks a commit: unregistered, no-commit, late, unreadable, forged, run-mismatch, wrong-window, oversize.
    /// `found` is the object with its LastModified; its bytes are at most [`MAX_COMMIT`].
    pub fn commit(&self, hotkey: &Hotkey, registered: bool, found: Option<(&[u8], i64)>) -> Result<Commit, Verdict> {
        if !registered {
            return Err(Verdict::Unregistered);
        }
        let (bytes, last_modified) = found.ok_or(Verdict::NoCommit)?;
        if !self.clock.in_time(last_modified, self.commits_close_ms) {
            return Err(Verdict::Late);
        }
        if bytes.len() as u64 > MAX_COMMIT {
            return Err(Verdict::Unreadable);
        }
        let commit: Commit = object::open(self.agreement, hotkey, self.window, Kind::Commit, bytes)?.body;
        if commit.size > self.form.max_bytes(self.shape) {
            return Err(Verdict::Oversize);
        }
        Ok(commit)
    }

    /// The rules for the model that a commit names, which may be of an earlier window, and the block since which its hotkey
    /// has been committed to it; no-commitment where the chain does not say so. Work that starts from a common base is
    /// that of this window.
    pub fn of_model(&self, hotkey: &Hotkey, commit: &Commit) -> Result<(Self, Option<u64>), Verdict> {
        let Some(models) = self.models else { return Ok((self.clone(), None)) };
        let bound = models.get(hotkey).filter(|(made, _)| made.binds(self.agreement, hotkey, &commit.digest.0));
        let (made, block) = bound.filter(|(made, _)| made.window <= self.window).ok_or(Verdict::NoCommitment)?;
        Ok((Self { window: made.window, ..self.clone() }, Some(*block)))
    }

    /// Checks what the bucket says of the work before it is downloaded: no-artifact, late, oversize, not-committed.
    pub fn stored(&self, commit: &Commit, found: Option<Stored>) -> Result<(), Verdict> {
        let found = found.ok_or(Verdict::NoArtifact)?;
        if !self.clock.in_time(found.last_modified, self.uploads_close_ms) {
            return Err(Verdict::Late);
        }
        if found.size > self.form.max_bytes(self.shape) {
            return Err(Verdict::Oversize);
        }
        if found.size != commit.size {
            return Err(Verdict::NotCommitted);
        }
        Ok(())
    }

    /// Checks the work itself: not-committed, unreadable, forged, run-mismatch, wrong-window, stale-base,
    /// wrong-schema, not-finite. Compressed work is unpacked when all but the last two are passed.
    pub fn artifact(&self, hotkey: &Hotkey, commit: &Commit, bytes: &[u8]) -> Result<Tensors, Verdict> {
        if Commit::of(bytes) != *commit {
            return Err(Verdict::NotCommitted);
        }
        let artifact = self.signed(hotkey, bytes)?;
        if artifact.base != self.base {
            return Err(Verdict::StaleBase);
        }
        if artifact.kind != self.kind as u8 {
            return Err(Verdict::WrongSchema);
        }
        let work = self.form.read(artifact.content, self.shape).ok_or(Verdict::WrongSchema)?;
        if !work.all_finite() {
            return Err(Verdict::NotFinite);
        }
        Ok(work)
    }

    fn signed(&self, hotkey: &Hotkey, bytes: &[u8]) -> Result<Artifact, Verdict> {
        let artifact = artifact::decode(bytes).map_err(|_| Verdict::Unreadable)?;
        if !artifact.is_signed_by(hotkey) {
            return Err(Verdict::Forged);
        }
        if artifact.protocol != VERSION || artifact.agreement != *self.agreement {
            return Err(Verdict::RunMismatch);
        }
        if artifact.window != self.window {
            return Err(Verdict::WrongWindow);
        }
        Ok(artifact)
    }
}

/// The lower median: the element at `(n - 1) / 2` in order. `None` of nothing.
pub fn lower_median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(values.len().saturating_sub(1) / 2).copied()
}

/// Whether `norm` is to be rejected, given the norms of all work that passed the other checks.
pub fn norm_is_excessive(norm: f64, passed: usize, median: f64) -> bool {
    passed >= NORM_QUORUM && norm > NORM_LIMIT * median
}

#[cfg(test)]
mod tests {
    use bistro_api::run::Schedule;

    use super::*;
    use crate::{artifact::tests::tensors, hotkey::tests::keypair, object::tests::agreement, topk};

    const CLOSE_MS: u64 = 100_500;
    const UPLOADED_MS: u64 = 200_500;

    struct Bench {
        agreement: Agreement,
        clock: Clock,
        shape: Vec<(String, Vec<usize>)>,
    }

    fn bench() -> Bench {
        let schedule = Schedule {
            window_blocks: 40,
            commit_blocks: 8,
            upload_blocks: 8,
            merge_blocks: 8,
            skew_seconds: 3,
            snapshot_windows: 20,
        };
        let shape = tensors().shape();
        Bench { agreement: agreement(), clock: Clock::new(&schedule).expect("fits"), shape }
    }

    impl Bench {
        fn rules(&self) -> Rules<'_> {
            Rules {
                agreement: &self.agreement,
                clock: &self.clock,
                window: 5,
                kind: Kind::Delta,
                base: [3; 32],
                shape: &self.shape,
                form: Form::Dense,
                commits_close_ms: CLOSE_MS,
                uploads_close_ms: UPLOADED_MS,
                models: None,
            }
        }
    }

    fn alice() -> Hotkey {
        Hotkey::from(&keypair(1))
    }

    fn file_of(window: u64, base: u8, tensors: &Tensors) -> Vec<u8> {
        artifact::encode(&agreement(), window, Kind::Delta, &keypair(1), [base; 32], tensors)
    }

    fn commit_of(key: u8, window: u64, commit: &Commit) -> Vec<u8> {
        object::seal(&agreement(), window, Kind::Commit, &keypair(key), commit)
    }

    #[test]
    fn honest_work_is_accepted() {
        let bench = bench();
        let rules = bench.rules();
        let file = file_of(5, 3, &tensors());
        let commit = rules.commit(&alice(), true, Some((&commit_of(1, 5, &Commit::of(&file)), 103))).expect("in time");
        rules.stored(&commit, Some(Stored { size: file.len() as u64, last_modified: 203 })).expect("as committed");
        assert_eq!(rules.artifact(&alice(), &commit, &file), Ok(tensors()));
    }

    /// Whoever copies bytes cannot commit to them for the one who made them, nor earlier.
    #[test]
    fn a_model_counts_from_its_commitment_on() {
        let bench = bench();
        let commit = Commit::of(&file_of(4, 3, &tensors()));
        let made = |window| Commitment::of(&agreement(), &alice(), window, &commit.digest.0);
        let judge = |hotkey, models: &[(Hotkey, Commitment)]| {
            let models = models.iter().map(|(hotkey, made)| (*hotkey, (*made, 77))).collect();
            let rules = Rules { models: Some(&models), ..bench.rules() };
            rules.of_model(&hotkey, &commit).map(|(rules, since)| (rules.window, since))
        };
        assert_eq!(judge(alice(), &[(alice(), made(4))]), Ok((4, Some(77))));
        assert_eq!(judge(alice(), &[(alice(), made(5))]), Ok((5, Some(77))));
        let bob = Hotkey::from(&keypair(2));
        for (hotkey, models) in [
            (alice(), vec![]),
            (alice(), vec![(alice(), made(6))]),
            (alice(), vec![(alice(), Commitment { window: 5, ..made(4) })]),
            (alice(), vec![(bob, made(4))]),
            (bob, vec![(alice(), made(4)), (bob, made(4))]),
        ] {
            assert_eq!(judge(hotkey, &models), Err(Verdict::NoCommitment));
        }
        let (rules, since) = bench.rules().of_model(&alice(), &commit).expect("a mechanism without models");
        assert_eq!((rules.window, since), (5, None));
    }

    /// Each line breaks one more rule than the line before; the first broken rule names the verdict.
    #[test]
    fn commits_are_judged_in_order() {
        let bench = bench();
        let rules = bench.rules();
        let large = Commit { size: u64::MAX, ..Commit::of(b"") };
        let judge =
            |registered, found: Option<(&[u8], i64)>| rules.commit(&alice(), registered, found).expect_err("rejected");
        let mut other = agreement();
        other.run = 2;
        let other_run = object::seal(&other, 6, Kind::Commit, &keypair(1), &large);
        assert_eq!(judge(true, Some((&commit_of(1, 5, &large), 103))), Verdict::Oversize);
        assert_eq!(judge(true, Some((&commit_of(1, 6, &large), 103))), Verdict::WrongWindow);
        assert_eq!(judge(true, Some((&other_run, 103))), Verdict::RunMismatch);
        assert_eq!(judge(true, Some((&commit_of(2, 6, &large), 103))), Verdict::Forged);
        assert_eq!(judge(true, Some((b"{", 103))), Verdict::Unreadable);
        assert_eq!(judge(true, Some((b"{", 104))), Verdict::Late);
        assert_eq!(judge(true, None), Verdict::NoCommit);
        assert_eq!(judge(false, None), Verdict::Unregistered);
    }

    #[test]
    fn stored_work_is_judged_in_order() {
        let bench = bench();
        let rules = bench.rules();
        let commit = Commit::of(&[0; 100]);
        let judge = |found| rules.stored(&commit, found).expect_err("rejected");
        assert_eq!(judge(Some(Stored { size: 101, last_modified: 203 })), Verdict::NotCommitted);
        assert_eq!(judge(Some(Stored { size: u64::MAX, last_modified: 203 })), Verdict::Oversize);
        assert_eq!(judge(Some(Stored { size: u64::MAX, last_modified: 204 })), Verdict::Late);
        assert_eq!(judge(None), Verdict::NoArtifact);
    }

    #[test]
    fn work_is_judged_in_order() {
        let bench = bench();
        let rules = bench.rules();
        let judge = |file: &[u8]| rules.artifact(&alice(), &Commit::of(file), file).expect_err("rejected");
        let infinite = tensors().map(|_| f32::INFINITY);
        let short = Tensors::new(infinite.iter().take(1).cloned().collect()).expect("valid");
        assert_eq!(judge(&file_of(5, 3, &infinite)), Verdict::NotFinite);
        assert_eq!(judge(&file_of(5, 3, &short)), Verdict::WrongSchema);
        let gradient = artifact::encode(&agreement(), 5, Kind::Gradient, &keypair(1), [3; 32], &infinite);
        assert_eq!(judge(&gradient), Verdict::WrongSchema, "another kind of work");
        assert_eq!(judge(&file_of(5, 4, &short)), Verdict::StaleBase);
        assert_eq!(judge(&file_of(6, 4, &short)), Verdict::WrongWindow);
        let mut other = agreement();
        other.genesis = [9; 32];
        let other_chain = artifact::encode(&other, 6, Kind::Delta, &keypair(1), [4; 32], &short);
        assert_eq!(judge(&other_chain), Verdict::RunMismatch);
        let forged = artifact::encode(&other, 6, Kind::Delta, &keypair(2), [4; 32], &short);
        assert_eq!(judge(&forged), Verdict::Forged);
        assert_eq!(judge(b"not tensors"), Verdict::Unreadable);
        assert_eq!(rules.artifact(&alice(), &Commit::of(b"else"), b"not tensors"), Err(Verdict::NotCommitted));
    }

    /// Each of these is signed and committed to; what is wrong is what is in it.
    #[test]
    fn compressed_work_is_judged_as_other_work_and_never_taken_for_it() {
        let bench = bench();
        let settings = topk::Settings { k: 64, values: topk::Values::TwoBit };
        let rules = Rules { form: Form::TopK(settings), ..bench.rules() };
        let file = |window, base, settings, tensors: &Tensors| {
            let sparse = topk::compress(tensors, None, settings, 1).expect("finite");
            let file = artifact::encode_sparse(&agreement(), window, Kind::Delta, &keypair(1), [base; 32], &sparse);
            (file, sparse)
        };
        let judge = |rules: &Rules<'_>, file: &[u8]| rules.artifact(&alice(), &Commit::of(file), file);
        let (honest, sparse) = file(5, 3, settings, &tensors());
        assert_eq!(judge(&rules, &honest), Ok(sparse.dense(&bench.shape)));
        assert_eq!(judge(&bench.rules(), &honest), Err(Verdict::WrongSchema), "compressed where tensors are agreed on");
        let dense = file_of(5, 3, &tensors());
        assert_eq!(judge(&rules, &dense), Err(Verdict::WrongSchema), "tensors where compressed work is agreed on");
        let other = topk::Settings { values: topk::Values::F32, ..settings };
        assert_eq!(judge(&rules, &file(5, 3, other, &tensors()).0), Err(Verdict::WrongSchema), "other settings");
        let short = Tensors::new(tensors().iter().take(1).cloned().collect()).expect("valid");
        assert_eq!(judge(&rules, &file(5, 3, settings, &short).0), Err(Verdict::WrongSchema), "a tensor is missing");
        assert_eq!(judge(&rules, &file(5, 4, settings, &short).0), Err(Verdict::StaleBase));
        assert_eq!(judge(&rules, &file(6, 4, settings, &short).0), Err(Verdict::WrongWindow));

        let large = Commit { size: rules.form.max_bytes(&bench.shape) + 1, ..Commit::of(&honest) };
        let sealed = commit_of(1, 5, &large);
        assert_eq!(rules.commit(&alice(), true, Some((&sealed, 103))), Err(Verdict::Oversize));
        assert_eq!(bench.rules().commit(&alice(), true, Some((&sealed, 103))).map(|c| c.size), Ok(large.size));
    }

    #[test]
    fn norms_are_judged_from_three_on() {
        assert_eq!(lower_median(&[4.0, 1.0, 3.0, 2.0]), Some(2.0));
        assert_eq!(lower_median(&[]), None);
        assert!(!norm_is_excessive(1000.0, 2, 1.0));
        assert!(norm_is_excessive(10.1, 3, 1.0) && !norm_is_excessive(10.0, 3, 1.0));
    }

    /// The word in metrics and the word in records are one.
    #[test]
    fn verdicts_have_one_word() {
        for verdict in [Verdict::NoCommit, Verdict::StaleBase, Verdict::Accepted, Verdict::NotCommitted] {
            assert_eq!(serde_json::to_value(verdict).expect("plain"), verdict.as_str());
        }
    }
}
