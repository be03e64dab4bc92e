//! Attacks on what is published, all in one window of a running subnet: each is named by its verdict, nobody else
//! notices, and nobody who attacks is paid.

use bistro_api::{Role, status::WindowRecord};
use bistro_protocol::{
    artifact,
    check::{Commit, Verdict},
    hotkey::Hotkey,
    object::{self, Agreement, Hex32, Kind},
    record::Verdicts,
    slice,
    tensors::{Tensor, Tensors},
};
use bistro_worker::{
    bucket,
    chain::{DevWallet, Hotkey as Wallet},
    engine::Engine,
};
use bytes::Bytes;
use futures::future::join_all;

use crate::support::{Node, Subnet, wait};

/// What each attacker does, and the one word that it gets for it.
const ATTACKS: [(&str, Verdict); 17] = [
    ("commit-of-another-key", Verdict::Forged),
    ("artifact-of-another-key", Verdict::Forged),
    ("commit-late", Verdict::Late),
    ("commit-replayed", Verdict::WrongWindow),
    ("artifact-replayed", Verdict::WrongWindow),
    ("stale-base", Verdict::StaleBase),
    ("stale-older", Verdict::StaleBase),
    ("another-run", Verdict::RunMismatch),
    ("commit-garbage", Verdict::Unreadable),
    ("commit-huge", Verdict::Unreadable),
    ("commit-names-too-much", Verdict::Oversize),
    ("header-bomb", Verdict::Unreadable),
    ("no-artifact", Verdict::NoArtifact),
    ("artifact-changed", Verdict::NotCommitted),
    ("artifact-grown", Verdict::NotCommitted),
    ("nan", Verdict::NotFinite),
    ("partial", Verdict::WrongSchema),
];
/// Needs honest work beside it to be told from.
const SHOUT: (&str, Verdict) = ("x1000", Verdict::Norm);
/// Comes while others are looking already: who looks before it comes finds nothing, who looks after it finds it late.
const LATE: &str = "artifact-late";

/// What an attacker puts under its own hotkey in the window.
struct Plan {
    commit: Vec<u8>,
    artifact: Option<Vec<u8>>,
}

/// Everything that an attacker knows.
struct Scene<'a> {
    subnet: &'a Subnet,
    window: u64,
    base: [u8; 32],
    /// Digest of an older base.
    before: [u8; 32],
    shape: Vec<(String, Vec<usize>)>,
}

impl Scene<'_> {
    fn work(&self, value: f32) -> Tensors {
        let tensor = |(name, shape): &(String, Vec<usize>)| Tensor {
            name: name.clone(),
            shape: shape.clone(),
            data: vec![value; shape.iter().product()],
        };
        Tensors::new(self.shape.iter().map(tensor).collect()).expect("valid")
    }

    fn plan(&self, attack: &str, wallet: &DevWallet) -> Plan {
        let agreement = self.subnet.agreement();
        let other_run = Agreement { run_digest: [9; 32], ..agreement.clone() };
        let stranger = Wallet::development("//Stranger");
        let (own, window) = (wallet.hotkey.keypair(), self.window);
        let artifact = |agreement: &Agreement, window, key, base, work: &Tensors| {
            artifact::encode(agreement, window, Kind::Delta, key, base, work)
        };
        let honest = artifact(&agreement, window, own, self.base, &self.work(1e-6));
        let file = match attack {
            "artifact-of-another-key" => artifact(&agreement, window, stranger.keypair(), self.base, &self.work(1e-6)),
            "artifact-replayed" => artifact(&agreement, window - 1, own, self.base, &self.work(1e-6)),
            "stale-base" => artifact(&agreement, window, own, [7; 32], &self.work(1e-6)),
            "stale-older" => artifact(&agreement, window, own, self.before, &self.work(1e-6)),
            "another-run" => artifact(&other_run, window, own, self.base, &self.work(1e-6)),
            "header-bomb" => [&(1u64 << 40).to_le_bytes()[..], &[b' '; 512]].concat(),
            "nan" => artifact(&agreement, window, own, self.base, &self.work(f32::NAN)),
            "partial" => {
                let part = Tensors::new(self.work(1e-6).iter().skip(1).cloned().collect()).expect("valid");
                artifact(&agreement, window, own, self.base, &part)
            }
            "x1000" => artifact(&agreement, window, own, self.base, &self.work(1000.0)),
            _ => honest,
        };
        let seal = |window, key, commit: &Commit| object::seal(&agreement, window, Kind::Commit, key, commit);
        let commit = match attack {
            "commit-of-another-key" => seal(window, stranger.keypair(), &Commit::of(&file)),
            "commit-replayed" => seal(window - 1, own, &Commit::of(&file)),
            "commit-garbage" => b"{\"protocol\":1}\nnot a signature".to_vec(),
            "commit-huge" => vec![b'{'; 100_000],
            "commit-names-too-much" => seal(window, own, &Commit { digest: Hex32([1; 32]), size: u64::MAX }),
            _ => seal(window, own, &Commit::of(&file)),
        };
        let artifact = match attack {
            "no-artifact" => None,
            "artifact-changed" => {
                let mut changed = file;
                *changed.last_mut().expect("not empty") ^= 1;
                Some(changed)
            }
            "artifact-grown" => Some([file, vec![0; 8]].concat()),
            _ => Some(file),
        };
        Plan { commit, artifact }
    }

    /// Does it, at the moments that the attack wants.
    async fn attack(&self, attack: &str, wallet: &DevWallet) {
        let (chain, clock) = (&self.subnet.chain, self.subnet.clock());
        let (agreement, bucket) = (self.subnet.agreement(), self.subnet.bucket(wallet).await);
        let hotkey = Hotkey(wallet.hotkey.public());
        let put = async |kind, bytes: Vec<u8>| {
            let key = agreement.key(&hotkey, self.window, kind);
            bucket.put_new(&key, Bytes::from(bytes)).await.expect("it may write there");
        };
        let Plan { commit, artifact } = self.plan(attack, wallet);
        chain.wait_for(clock.reveal(self.window)).await;
        if attack == "commit-late" {
            let closes = chain.wait_for(clock.commits_close(self.window)).await;
            // One more second: deadlines are whole seconds.
            while bucket.now_ms().is_none_or(|now| now < closes.timestamp_ms + 1000) {
                bucket.head("nothing").await.expect("the bucket answers");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        put(Kind::Commit, commit).await;
        let deadline = match attack {
            LATE => clock.uploads_close(self.window) + 5,
            _ => clock.commits_close(self.window),
        };
        chain.wait_for(deadline).await;
        if let Some(artifact) = artifact {
            put(Kind::Delta, artifact).await;
        }
    }
}

/// A foreign key is not there to be squatted: the bucket refuses the write.
async fn squat(subnet: &Subnet, attacker: &DevWallet, victim: &DevWallet, window: u64) {
    let key = subnet.agreement().key(&Hotkey(victim.hotkey.public()), window, Kind::Commit);
    let refused = subnet.bucket(attacker).await.put_new(&key, Bytes::from_static(b"mine")).await;
    assert!(matches!(refused, Err(bucket::Error::Denied { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_on_a_window_is_named_and_earns_nothing() {
    let subnet = Subnet::start().await;
    let averager = subnet.node(Role::Averager, "averager");
    let validator = subnet.node(Role::Validator, "validator");
    let miners = ["a", "b", "c"].map(|name| subnet.node(Role::Miner, name));
    let attacks: Vec<_> = ATTACKS.into_iter().chain([SHOUT, (LATE, Verdict::Late)]).collect();
    let wallets = join_all(attacks.iter().map(|(attack, _)| subnet.register(Role::Miner, attack))).await;

    // Something was merged: else there is no older base to start from.
    averager.until(|s| s.history.iter().any(|r| r.admitted > 0)).await;
    // A window that everybody is registered for and that has not begun.
    let window = subnet.clock().window_of(subnet.chain.head().number) + 1;
    let status = averager.until(|s| s.base_window >= Some(window)).await;
    let digest = |record: &WindowRecord| {
        let mut digest = [0; 32];
        hex::decode_to_slice(&record.base_digest, &mut digest).expect("a digest");
        digest
    };
    let base = digest(status.history.iter().find(|r| r.window == window).expect("it remembers"));
    // The newest other one: a window that admitted nothing has left the base as it was.
    let older = status.history.iter().rfind(|r| r.window < window && digest(r) != base).expect("the first base");
    let (before, windows) = (digest(older), window - older.window);
    let engine = Engine::new(&subnet.settings.run.model, 256, subnet.settings.run.dataset.sequence_length, 1);
    let schema = engine.and_then(|e| e.initial(1)).expect("a model");
    let scene = Scene { subnet: &subnet, window, base, before, shape: slice::shape(&schema, 4) };
    squat(&subnet, &wallets[0], &subnet.wallet(Role::Miner, "a"), window).await;
    join_all(attacks.iter().zip(&wallets).map(|((attack, _), wallet)| scene.attack(attack, wallet))).await;

    let manifest = subnet.manifest(window).await;
    let verdicts: Verdicts = subnet.object(&subnet.wallet(Role::Validator, "validator"), window, Kind::Verdicts).await;
    for ((attack, expected), wallet) in attacks.iter().zip(&wallets) {
        let hotkey = Hotkey(wallet.hotkey.public());
        let said = manifest.neurons.iter().find(|e| e.hotkey == hotkey).map(|e| e.verdict);
        let own = verdicts.verdicts.iter().find(|j| j.hotkey == hotkey).map(|j| (j.verdict, j.disputed));
        if *attack == LATE {
            let own = own.map(|(verdict, _)| verdict);
            assert!(
                [said, own].iter().all(|v| matches!(v, Some(Verdict::Late | Verdict::NoArtifact))),
                "{said:?} {own:?}"
            );
            continue;
        }
        assert_eq!(said, Some(*expected), "{attack}");
        assert_eq!(own, Some((*expected, None)), "{attack}: the validator finds the same");
    }
    let behind = |attack: &str| {
        let at = attacks.iter().position(|(name, _)| *name == attack).expect("an attack");
        let hotkey = Hotkey(wallets[at].hotkey.public());
        let said = manifest.neurons.iter().find(|e| e.hotkey == hotkey).and_then(|e| e.behind);
        (said, verdicts.verdicts.iter().find(|j| j.hotkey == hotkey).and_then(|j| j.behind))
    };
    assert_eq!(behind("stale-older"), (Some(windows), Some(windows)), "who fell behind learns by how much");
    assert_eq!(behind("stale-base"), (None, None), "a base that the run never had");
    for name in ["a", "b", "c"] {
        assert_eq!(subnet.verdict(window, &subnet.wallet(Role::Miner, name)).await, Some(Verdict::Accepted), "{name}");
    }
    let status = validator.until(|s| s.first_weights_block.is_some() && s.base_window > Some(window + 1)).await;
    let weight = |wallet: &DevWallet| {
        status.scores.iter().find(|s| s.hotkey == wallet.hotkey.ss58()).map_or(0.0, |s| s.weight + s.average)
    };
    assert!(wallets.iter().all(|wallet| weight(wallet) == 0.0), "{:?}", status.scores);
    let nodes: Vec<Node> = [averager, validator].into_iter().chain(miners).collect();
    let digest = async |node: &Node| {
        let status = node.until(|s| s.base_window > Some(window)).await;
        status.history.iter().find(|r| r.window == window + 1).map(|r| r.base_digest.clone())
    };
    let first = wait(async || digest(&nodes[0]).await).await;
    for node in nodes {
        assert_eq!(digest(&node).await.as_ref(), Some(&first));
        node.stop().await;
    }
    subnet.devnet.shutdown().await;
}
