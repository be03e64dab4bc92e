//! What a node keeps on disk: after a kill at any moment it goes on with the same bits.
//!
//! One folder per run. Every file is written atomically and carries what it needs to be checked; a file that
//! does not pass its check counts as absent, and the node makes it again from manifests or by training.

use std::{
    io,
    path::{Path, PathBuf},
};

use bistro_protocol::{
    base::Base,
    hotkey::Hotkey,
    object::{Agreement, Hex32},
    tensor_file,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{failure::Failure, files};

/// Largest file of state that is read back: a model of 4 billion parameters.
const MAX_FILE: u64 = 16 << 30;
/// Largest JSON file of state.
const MAX_JSON: u64 = 64 << 20;

/// What the names of files from the bucket start with.
const CACHED: &str = "cached-";

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct State {
    folder: PathBuf,
}

/// Who the folder belongs to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owner {
    genesis: Hex32,
    netuid: u16,
    run: u32,
    run_digest: Hex32,
    hotkey: Hotkey,
}

/// A base and its place in the history.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedBase {
    /// It is the base before this window.
    pub window: u64,
    /// Digest of the manifest of the window before; zeros for the first window.
    pub previous: [u8; 32],
    /// The base.
    pub base: Base,
}

/// What a base file says beside its tensors.
#[derive(Serialize, Deserialize)]
struct BaseNote {
    window: u64,
    previous: Hex32,
    digest: Hex32,
}

impl State {
    /// Opens or makes the folder of this run below `root` and checks that it is this chain's and this hotkey's.
    pub fn open(root: &Path, agreement: &Agreement, hotkey: Hotkey) -> Result<Self, Failure> {
        let state = Self { folder: root.join(format!("run-{}", agreement.run)) };
        std::fs::create_dir_all(&state.folder).map_err(|e| {
            let line = format!("failed to make {}: {e}: make BISTRO_STATE writable", state.folder.display());
            match e.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::Transient(line),
                _ => Failure::Permanent(line),
            }
        })?;
        files::forget_unfinished(&state.folder)?;
        let owner = Owner {
            genesis: Hex32(agreement.genesis),
            netuid: agreement.netuid,
            run: agreement.run,
            run_digest: Hex32(agreement.run_digest),
            hotkey,
        };
        match state.read_json::<Owner>("owner.json")? {
            None => state.write_json("owner.json", &owner)?,
            Some(found) if found == owner => {}
            Some(found) => {
                let what = match () {
                    () if found.genesis != owner.genesis => "another chain",
                    () if found.hotkey != owner.hotkey => "another hotkey",
                    () => "another agreement under the same run id",
                };
                let folder = state.folder.display();
                return Err(Failure::Permanent(format!(
                    "{folder} holds the state of {what}: delete that folder to start anew"
                )));
            }
        }
        Ok(state)
    }

    /// Saves a base. Its file name orders bases by window.
    pub fn save_base(&self, saved: &SavedBase) -> Result<(), Failure> {
        let note =
            BaseNote { window: saved.window, previous: Hex32(saved.previous), digest: Hex32(saved.base.digest()) };
        let note = serde_json::to_string(&note).expect("plain data serialises");
        let bytes = tensor_file::write(&[("note", note)], &saved.base.to_tensors());
        Ok(files::write_atomic(&self.path(&base_file(saved.window)), &bytes)?)
    }

    /// The base before `window`, if it is here and sound.
    pub fn base(&self, window: u64) -> Result<Option<SavedBase>, Failure> {
        let Some(bytes) = self.read(&base_file(window))? else { return Ok(None) };
        let saved = parse_base(&bytes).filter(|s| s.window == window);
        if saved.is_none() {
            tracing::warn!(window, "the saved base is damaged: it is made again from the manifests");
        }
        Ok(saved)
    }

    /// The newest sound base that this node saved in another run of the subnet.
    pub fn newest_base_of_run(&self, run: u32) -> Result<Option<SavedBase>, Failure> {
        let folder = self.folder.with_file_name(format!("run-{run}"));
        if folder.is_dir() { Self { folder }.newest_base() } else { Ok(None) }
    }

    /// The newest sound base.
    pub fn newest_base(&self) -> Result<Option<SavedBase>, Failure> {
        for window in self.windows_of("base")?.into_iter().rev() {
            if let Some(saved) = self.base(window)? {
                return Ok(Some(saved));
            }
        }
        Ok(None)
    }

    /// A file of one window, by its kind: an artifact, a manifest, an optimizer.
    pub fn read_of(&self, kind: &str, window: u64) -> Result<Option<Vec<u8>>, Failure> {
        self.read(&format!("{kind}-{window:08}"))
    }

    /// Writes a file of one window.
    pub fn write_of(&self, kind: &str, window: u64, bytes: &[u8]) -> Result<(), Failure> {
        Ok(files::write_atomic(&self.path(&format!("{kind}-{window:08}")), bytes)?)
    }

    /// The newest file of this kind for a window up to `window`, with its window.
    pub fn newest_of(&self, kind: &str, window: u64) -> Result<Option<(u64, Vec<u8>)>, Failure> {
        let Some(newest) = self.newest_window(kind, window)? else { return Ok(None) };
        Ok(self.read_of(kind, newest)?.map(|bytes| (newest, bytes)))
    }

    /// The window of the newest file of this kind, up to `window`.
    pub fn newest_window(&self, kind: &str, window: u64) -> Result<Option<u64>, Failure> {
        Ok(self.files(kind)?.into_iter().map(|(_, w)| w).filter(|w| *w <= window).max())
    }

    /// Windows that there is a file of this kind for, in order.
    pub fn windows_of(&self, kind: &str) -> Result<Vec<u64>, Failure> {
        let mut windows: Vec<u64> = self.files(kind)?.into_iter().map(|(_, window)| window).collect();
        windows.sort_unstable();
        Ok(windows)
    }

    /// Deletes a file of one window; one that cannot be deleted is dealt with again at the next start.
    pub fn forget_of(&self, kind: &str, window: u64) {
        let _ = std::fs::remove_file(self.path(&format!("{kind}-{window:08}")));
    }

    /// Deletes the files of all windows before `window`; what cannot be deleted stays until next time, and so does the
    /// newest base: a node that replays many windows does not save each.
    pub fn forget_before(&self, kinds: &[&str], window: u64) -> Result<(), Failure> {
        for kind in kinds {
            let window = match *kind {
                "base" => self.newest_window(kind, u64::MAX)?.map_or(window, |newest| window.min(newest)),
                _ => window,
            };
            for (name, _) in self.files(kind)?.into_iter().filter(|(_, old)| *old < window) {
                // Gone already or not deletable: either way the next window tries again.
                let _ = std::fs::remove_file(self.path(&name));
            }
        }
        Ok(())
    }

    /// A file from the bucket that was checked before, by its digest; `None` where it is not here.
    pub fn cached(&self, digest: &Hex32) -> Result<Option<Vec<u8>>, Failure> {
        self.read(&cache_file(digest))
    }

    /// Keeps a file from the bucket.
    pub fn cache(&self, digest: &Hex32, bytes: &[u8]) -> Result<(), Failure> {
        Ok(files::write_atomic(&self.path(&cache_file(digest)), bytes)?)
    }

    /// Deletes all kept files but these.
    pub fn keep_cached(&self, digests: &[Hex32]) -> Result<(), Failure> {
        let kept: Vec<String> = digests.iter().map(cache_file).collect();
        let entries = std::fs::read_dir(&self.folder)
            .map_err(|e| Failure::Transient(format!("failed to list {}: {e}", self.folder.display())))?;
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        for name in names.filter(|name| name.starts_with(CACHED) && !kept.contains(name)) {
            // What cannot be deleted is tried again in the next window.
            let _ = std::fs::remove_file(self.path(&name));
        }
        Ok(())
    }

    /// A small JSON file, if it is there and sound.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let bytes = files::read_bounded(&self.path(name), MAX_JSON)?;
        let parsed = bytes.as_deref().map(serde_json::from_slice);
        if let Some(Err(error)) = &parsed {
            tracing::warn!(name, %error, "a file of state is damaged and counts as absent");
        }
        Ok(parsed.and_then(Result::ok))
    }

    /// Writes a small JSON file.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(value).expect("plain data serialises");
        Ok(files::write_atomic(&self.path(name), &bytes)?)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(files::read_bounded(&self.path(name), MAX_FILE)?)
    }

    /// Names of the files of this kind, `KIND-WINDOW[.ending]`, with their windows.
    fn files(&self, kind: &str) -> Result<Vec<(String, u64)>, Failure> {
        let entries = std::fs::read_dir(&self.folder)
            .map_err(|e| Failure::Transient(format!("failed to list {}: {e}", self.folder.display())))?;
        let window = |name: &str| name.strip_prefix(kind)?.strip_prefix('-')?.split('.').next()?.parse().ok();
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        Ok(names.filter_map(|name| window(&name).map(|window| (name, window))).collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn cache_file(digest: &Hex32) -> String {
    format!("{CACHED}{digest}")
}

fn base_file(window: u64) -> String {
    format!("base-{window:08}.safetensors")
}

pub(crate) fn parse_base(bytes: &[u8]) -> Option<SavedBase> {
    let (fields, base) = tensor_file::read(bytes).ok()?;
    let (_, note) = fields.iter().find(|(key, _)| key == "note")?;
    let note: BaseNote = serde_json::from_str(note).ok()?;
    let base = Base::from_tensors(base);
    (base.digest() == note.digest.0).then_some(SavedBase { window: note.window, previous: note.previous.0, base })
}

#[cfg(test)]
mod tests {
    use bistro_protocol::tensors::{Tensor, Tensors};

    use super::*;

    fn agreement() -> Agreement {
        Agreement { genesis: [1; 32], netuid: 1, run: 3, run_digest: [2; 32] }
    }

    fn saved(window: u64) -> SavedBase {
        let tensor = Tensor { name: "w".into(), shape: vec![2], data: vec![window as f32, -0.0] };
        SavedBase { window, previous: [7; 32], base: Base::plain(Tensors::new(vec![tensor]).expect("valid")) }
    }

    #[test]
    fn the_newest_sound_base_wins() {
        let root = tempfile::tempdir().expect("temporary folder");
        let state = State::open(root.path(), &agreement(), Hotkey([5; 32])).expect("new");
        assert_eq!(state.newest_base().expect("readable"), None);
        for window in [1, 2, 10] {
            state.save_base(&saved(window)).expect("saved");
        }
        assert_eq!(state.newest_base().expect("readable"), Some(saved(10)));
        let path = root.path().join("run-3/base-00000010.safetensors");
        let mut bytes = std::fs::read(&path).expect("there");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&path, bytes).expect("writable");
        assert_eq!(state.newest_base().expect("readable"), Some(saved(2)), "a damaged base counts as absent");
        state.forget_before(&["base"], 2).expect("deletable");
        assert_eq!(state.base(1).expect("readable"), None);
        assert!(state.base(2).expect("readable").is_some());
        state.forget_before(&["base"], 99).expect("deletable");
        assert_eq!(state.windows_of("base").expect("readable"), [10], "the newest stays");
    }

    #[test]
    fn files_from_the_bucket_are_kept_by_digest() {
        let root = tempfile::tempdir().expect("temporary folder");
        let state = State::open(root.path(), &agreement(), Hotkey([5; 32])).expect("new");
        let [one, two] = [Hex32([1; 32]), Hex32([2; 32])];
        state.cache(&one, b"one").expect("written");
        state.cache(&two, b"two").expect("written");
        state.save_base(&saved(1)).expect("saved");
        state.keep_cached(&[two]).expect("listed");
        assert_eq!(state.cached(&one).expect("readable"), None);
        assert_eq!(state.cached(&two).expect("readable").as_deref(), Some(&b"two"[..]));
        assert!(state.newest_base().expect("readable").is_some(), "nothing else is touched");
    }

    #[test]
    fn files_of_windows_are_found_by_age() {
        let root = tempfile::tempdir().expect("temporary folder");
        let state = State::open(root.path(), &agreement(), Hotkey([5; 32])).expect("new");
        for window in [3u64, 5, 9] {
            state.write_of("optimizer", window, &[window as u8]).expect("written");
        }
        assert_eq!(state.newest_of("optimizer", 8).expect("readable"), Some((5, vec![5])));
        assert_eq!(state.newest_of("optimizer", 2).expect("readable"), None);
        state.forget_before(&["optimizer"], 9).expect("deletable");
        assert_eq!(state.newest_of("optimizer", 8).expect("readable"), None);
    }

    #[test]
    fn the_state_of_another_chain_or_key_is_refused_and_the_folder_named() {
        let root = tempfile::tempdir().expect("temporary folder");
        State::open(root.path(), &agreement(), Hotkey([5; 32])).expect("new");
        State::open(root.path(), &agreement(), Hotkey([5; 32])).expect("the same again");
        let others = [
            (Agreement { genesis: [9; 32], ..agreement() }, [5; 32], "another chain"),
            (agreement(), [6; 32], "another hotkey"),
            (Agreement { run_digest: [9; 32], ..agreement() }, [5; 32], "another agreement"),
        ];
        for (agreement, hotkey, what) in others {
            let Err(Failure::Permanent(line)) = State::open(root.path(), &agreement, Hotkey(hotkey)) else {
                panic!("must be refused: {what}");
            };
            assert!(line.contains(what) && line.contains("run-3") && line.contains("delete"), "{line}");
        }
    }
}
