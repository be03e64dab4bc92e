//! The chain and the bucket outlive the process, however it ends.

use crate::support::{Client, FAST, register};
use bistro_devnet::{Devnet, Error, Options};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};
use subxt::rpcs::rpc_params;
use subxt_signer::sr25519::dev;

fn options(folder: &Path) -> Options {
    Options { data: folder.to_path_buf(), block_time: FAST, ..Options::default() }
}

/// A devnet in a process of its own, which can be killed.
struct Process {
    child: Child,
    ready: String,
}

impl Process {
    fn start(folder: &Path) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bistro-devnet"))
            .args(["--rpc", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--block-time", "50ms", "--data"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut ready).expect("a line");
        Process { child, ready }
    }

    fn word(&self, name: &str) -> &str {
        let word = self.ready.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.unwrap_or_else(|| panic!("no {name} in {:?}", self.ready))
    }

    fn kill(mut self) -> std::process::ExitStatus {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends")
    }

    fn terminate(mut self) -> std::process::ExitStatus {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(status.success());
        self.child.wait().expect("it ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_continues_the_same_chain() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = Process::start(folder.path());
    assert!(first.ready.starts_with("bistro-devnet ready "), "{:?}", first.ready);
    let genesis = first.word("genesis").to_owned();
    let client = Client::connect(first.word("rpc")).await;
    client.send(&dev::alice(), &register(1, &dev::bob())).await.expect("registered");
    let head = client.api.at_current_block().await.expect("a block");
    let (number, hash) = (head.block_number(), head.block_hash());
    first.kill();

    // Killed again and again, at no particular moment.
    for _ in 0..3 {
        let next = Process::start(folder.path());
        assert_eq!(next.word("genesis"), genesis);
        next.kill();
    }

    let last = Process::start(folder.path());
    assert_eq!(last.word("genesis"), genesis);
    let client = Client::connect(last.word("rpc")).await;
    assert_eq!(client.legacy.chain_get_block_hash(Some(number.into())).await.expect("an answer"), Some(hash));
    let state: Option<String> =
        client.rpc.request("state_getStorage", rpc_params!["0x3a636f6465", hash]).await.expect("the state is there");
    assert_eq!(state, None);
    assert_eq!(client.read::<_, u16>("SubnetworkN", (1u16,)).await, 1);
    client.send(&dev::alice(), &register(1, &dev::charlie())).await.expect("the chain goes on");
    assert_eq!(client.read::<_, u16>("SubnetworkN", (1u16,)).await, 2);
    assert!(last.terminate().success(), "SIGTERM ends it cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_devnet_that_is_dropped_can_be_started_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = Devnet::start(options(folder.path())).await.expect("starts");
    let genesis = first.genesis();
    let busy = Devnet::start(options(folder.path())).await;
    assert!(matches!(busy, Err(Error::InUse { .. })));
    drop(first);
    let second = Devnet::start(options(folder.path())).await.expect("starts again");
    assert_eq!(second.genesis(), genesis);
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_new_chains_never_share_a_genesis() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let first = Devnet::start(options(folders[0].path())).await.expect("starts");
    let second = Devnet::start(options(folders[1].path())).await.expect("starts");
    assert_ne!(first.genesis(), second.genesis());
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_format_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("chain")).expect("made");
    std::fs::write(folder.path().join("chain/blocks.log"), "something else entirely").expect("written");
    let refused = Devnet::start(options(folder.path())).await.err().expect("refused");
    assert!(bistro_devnet::error_chain(&refused).contains("another --data folder"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn torn_records_are_cut_off() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = Devnet::start(options(folder.path())).await.expect("starts");
    let genesis = first.genesis();
    Client::connect(&first.rpc_url()).await.blocks(5).await;
    first.shutdown().await;
    for entry in std::fs::read_dir(folder.path().join("chain")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("a file");
        let length = file.metadata().expect("a length").len();
        file.set_len(length - 3).expect("cut");
    }
    let second = Devnet::start(options(folder.path())).await.expect("starts again");
    assert_eq!(second.genesis(), genesis);
    Client::connect(&second.rpc_url()).await.blocks(3).await;
    second.shutdown().await;
}
