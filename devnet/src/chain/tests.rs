//! The chain without its clock: what is kept, what is discarded, what a restart finds.

use super::*;
use crate::runtime::VERSION;
use std::path::Path;

/// Any time; the chain moves it on by itself.
const NOW: u64 = 1_800_000_000_000;

fn open(folder: &Path) -> Chain {
    let options = Options { data: folder.to_path_buf(), ..Options::default() };
    Chain::open(&options).expect("the chain opens")
}

fn produce(chain: &Chain, count: usize) {
    for _ in 0..count {
        chain.produce(NOW).expect("a block");
    }
}

fn hashes(chain: &Chain) -> Vec<H256> {
    (0..=chain.best()).filter_map(|number| chain.hash(number)).collect()
}

/// The state of a block is the one that its header commits to.
fn assert_state_of(chain: &Chain, number: u32) {
    let hash = chain.hash(number).expect("a block");
    let (_, state) = chain.state(Some(hash)).expect("a state");
    let root = execute::on_copy(&state, || sp_io::storage::root(VERSION.state_version()));
    let header = chain.header(number).expect("readable").expect("a header");
    assert_eq!(root, header.state_root.as_bytes(), "block {number}");
}

#[test]
fn old_states_are_discarded_and_old_blocks_are_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let chain = open(folder.path());
    produce(&chain, 300);
    let old = chain.hash(44).expect("a block");
    assert_eq!(chain.state(Some(old)).err(), Some(StateError::Discarded(old)));
    let unknown = H256::repeat_byte(1);
    assert_eq!(chain.state(Some(unknown)).err(), Some(StateError::UnknownBlock(unknown)));
    assert_state_of(&chain, 45);
    assert_state_of(&chain, 300);
    for number in [0, 1, 44, 45, 300] {
        let block = chain.block(number).expect("readable").expect("a block");
        assert_eq!(block.header.hash(), chain.hash(number).expect("a hash"));
        assert_eq!(chain.number(block.hash), Some(number));
        assert_eq!(block.body.len(), usize::from(number > 0), "the timestamp");
    }
    assert!(chain.block(301).expect("readable").is_none());
}

#[test]
fn a_chain_that_is_opened_again_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut expected: Vec<H256> = Vec::new();
    for count in [0, 1, 254, 1, 1, 260, 300] {
        let chain = open(folder.path());
        assert!(hashes(&chain).starts_with(&expected));
        assert!(expected.is_empty() || chain.best() as usize + 1 == expected.len());
        assert_state_of(&chain, chain.best());
        assert_state_of(&chain, chain.best().saturating_sub(255));
        produce(&chain, count);
        expected = hashes(&chain);
    }
    let segments = std::fs::read_dir(folder.path().join("chain")).expect("a folder").count();
    assert!(segments < 10, "old segments are deleted: {segments} files");
}

#[test]
fn whatever_a_power_cut_leaves_opens_at_an_earlier_block() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let chain = open(folder.path());
    produce(&chain, 20);
    let all = hashes(&chain);
    drop(chain);
    for (file, cut) in [("blocks.log", 1), ("state", 1), ("blocks.log", 700), ("state", 900)] {
        for entry in std::fs::read_dir(folder.path().join("chain")).expect("a folder") {
            let path = entry.expect("an entry").path();
            let newest = format!("state-{:010}.log", 0);
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            if name == file || (file == "state" && name == newest) {
                let log = std::fs::OpenOptions::new().write(true).open(&path).expect("a file");
                let length = log.metadata().expect("a length").len();
                log.set_len(length - cut).expect("cut");
            }
        }
        let chain = open(folder.path());
        assert!(all.starts_with(&hashes(&chain)), "{file} cut by {cut}");
        assert_state_of(&chain, chain.best());
    }
    let chain = open(folder.path());
    let best = chain.best();
    assert!(best < 20);
    produce(&chain, 3);
    drop(chain);
    // What the cut off blocks left behind is not taken for the new ones.
    let chain = open(folder.path());
    assert_eq!(chain.best(), best + 3);
    for number in 1..=chain.best() {
        assert_state_of(&chain, number);
    }
}

#[test]
fn finality_follows_by_the_lag() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let chain = open(folder.path());
    produce(&chain, 2);
    assert_eq!((chain.best(), chain.finalized()), (2, 0));
    produce(&chain, 5);
    assert_eq!((chain.best(), chain.finalized()), (7, 4));
}
