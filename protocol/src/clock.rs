//! When things happen: windows and phases in blocks, deadlines in the seconds of the bucket.
//!
//! Window w covers the blocks `[wW, (w + 1)W)`; only finalised blocks count.
//!
//! ```text
//!  start          reveal        commits close   uploads close        end
//!    |--- train ----|--- commit ----|--- upload ----|---- merge -----|
//! ```

use bistro_api::run::Schedule;

/// Blocks of each phase, known to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    window: u64,
    train: u64,
    commit: u64,
    upload: u64,
    skew_seconds: u64,
}

/// The phases do not fit into the window.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "run.schedule: windowBlocks leaves fewer than 5 blocks for training: raise windowBlocks or shorten the other phases"
)]
pub struct PhasesDoNotFit;

/// What everybody does during a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Miners train; the validator scores the window before.
    Train,
    /// Miners publish digests.
    Commit,
    /// Miners publish the work.
    Upload,
    /// The averager merges, everybody follows.
    Merge,
}

impl Clock {
    /// Takes the lengths from the agreement.
    pub fn new(schedule: &Schedule) -> Result<Self, PhasesDoNotFit> {
        let train = schedule.train_blocks().ok_or(PhasesDoNotFit)?;
        Ok(Self {
            window: schedule.window_blocks.into(),
            train: train.into(),
            commit: schedule.commit_blocks.into(),
            upload: schedule.upload_blocks.into(),
            skew_seconds: schedule.skew_seconds.into(),
        })
    }

    /// The window that `block` lies in.
    pub fn window_of(&self, block: u64) -> u64 {
        block / self.window
    }

    /// The phase that `block` lies in.
    pub fn phase_of(&self, block: u64) -> Phase {
        let offset = block % self.window;
        match () {
            () if offset < self.train => Phase::Train,
            () if offset < self.train + self.commit => Phase::Commit,
            () if offset < self.train + self.commit + self.upload => Phase::Upload,
            () => Phase::Merge,
        }
    }

    /// First block of the window.
    pub fn start(&self, window: u64) -> u64 {
        window.saturating_mul(self.window)
    }

    /// The block whose hash picks the slices; training is over.
    pub fn reveal(&self, window: u64) -> u64 {
        self.start(window).saturating_add(self.train)
    }

    /// Deadline of commits; from here on work may be uploaded.
    pub fn commits_close(&self, window: u64) -> u64 {
        self.reveal(window).saturating_add(self.commit)
    }

    /// Deadline of artifacts.
    pub fn uploads_close(&self, window: u64) -> u64 {
        self.commits_close(window).saturating_add(self.upload)
    }

    /// First block of the next window.
    pub fn end(&self, window: u64) -> u64 {
        self.start(window.saturating_add(1))
    }

    /// Whether an object is in time: its LastModified (whole seconds, as GET and HEAD return it) against the
    /// timestamp of the deadline block in milliseconds, rounded down, plus the tolerated skew.
    pub fn in_time(&self, last_modified: i64, deadline_ms: u64) -> bool {
        i128::from(last_modified) <= i128::from(deadline_ms / 1000) + i128::from(self.skew_seconds)
    }

    /// Earliest moment, in milliseconds, at which an artifact may be uploaded: then no commit that copies it
    /// can be in time any more.
    pub fn upload_opens_ms(&self, commits_close_ms: u64) -> u64 {
        commits_close_ms.saturating_add(self.skew_seconds * 1000 + 1000)
    }

    /// The shortest block time in milliseconds that this schedule works with: skewSeconds + 1 s must be shorter
    /// than each of the phases commit, upload and merge.
    pub fn shortest_block_ms(&self) -> u64 {
        let merge = self.window - self.train - self.commit - self.upload;
        let shortest = self.commit.min(self.upload).min(merge);
        (self.skew_seconds * 1000 + 1000) / shortest + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        let schedule = Schedule {
            window_blocks: 40,
            commit_blocks: 8,
            upload_blocks: 8,
            merge_blocks: 8,
            skew_seconds: 3,
            snapshot_windows: 20,
        };
        Clock::new(&schedule).expect("fits")
    }

    #[test]
    fn phases_follow_each_other_and_fill_the_window() {
        let c = clock();
        assert_eq!(
            [c.start(3), c.reveal(3), c.commits_close(3), c.uploads_close(3), c.end(3)],
            [120, 136, 144, 152, 160]
        );
        let phases: Vec<_> = (120..160).map(|b| c.phase_of(b)).collect();
        assert!(phases.is_sorted());
        assert_eq!(phases.iter().filter(|p| **p == Phase::Train).count(), 16);
        assert_eq!((c.window_of(119), c.window_of(120), c.window_of(159), c.window_of(160)), (2, 3, 3, 4));
    }

    /// The deadline's fraction of a second is dropped; the skew is added.
    #[test]
    fn in_time_is_decided_in_whole_seconds() {
        let c = clock();
        assert!(c.in_time(103, 100_999));
        assert!(!c.in_time(104, 100_999));
    }

    /// The rule that makes copying pointless: what is uploaded at the earliest moment can no longer be committed.
    #[test]
    fn whoever_sees_an_artifact_is_too_late_to_commit() {
        let c = clock();
        for deadline_ms in [100_000, 100_001, 100_999] {
            let seen = c.upload_opens_ms(deadline_ms) / 1000;
            assert!(!c.in_time(seen as i64, deadline_ms), "deadline {deadline_ms}");
        }
    }

    #[test]
    fn distant_windows_do_not_overflow() {
        assert_eq!(clock().end(u64::MAX), u64::MAX);
    }
}
