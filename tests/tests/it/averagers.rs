//! An averager that censors, and one that lies: neither moves the pay, and nobody follows a lie.

use std::sync::Arc;

use bistro_api::Role;
use bistro_protocol::{
    artifact,
    check::{Commit, Verdict},
    hotkey::Hotkey,
    manifest::{Blocks, Entry, Manifest},
    merge::merge,
    object::{self, Bits64, Hex32, Kind},
    record::Verdicts,
    tensors::Tensors,
};
use bistro_worker::{collect::collect, follow::Follower, node::Node, roles::prepare, telemetry::Telemetry};
use tokio_util::sync::CancellationToken;

use crate::support::{self, Subnet};

/// An averager that can be made to lie.
struct Averager {
    node: Arc<Node>,
    follower: Follower,
}

/// What an averager lies about.
struct Lie {
    /// Who is said to have published nothing.
    censored: Option<Hotkey>,
    /// Changes what is merged; the manifest promises the base that this gives.
    merged: fn(&mut Tensors),
    /// Changes what is signed.
    manifest: fn(&mut Manifest),
}

impl Default for Lie {
    fn default() -> Self {
        Self { censored: None, merged: |_| (), manifest: |_| () }
    }
}

impl Averager {
    async fn start(subnet: &Subnet) -> Self {
        let environment = subnet.environment("averager");
        let settings = environment.read_settings().expect("written by the test");
        let telemetry = Telemetry::new(Role::Averager);
        let node = prepare::node(Role::Averager, settings, environment, telemetry, CancellationToken::new()).await;
        let node = Arc::new(node.expect("it gets ready"));
        let follower = Follower::start(&node).await.expect("it has a base");
        Self { node, follower }
    }

    /// Issues the manifest of the next window.
    async fn window(&mut self, Lie { censored, merged: invent, manifest: twist }: Lie) -> u64 {
        let (node, window) = (&*self.node, self.follower.window);
        let facts = node.facts(window).await.expect("the chain answers").expect("it remembers");
        let collected = collect(node, &facts, &self.follower.base, self.follower.digest).await;
        let collected = collected.expect("the bucket answers").expect("the chain remembers");
        let kept: Vec<_> = collected.works.into_iter().filter(|w| Some(w.hotkey) != censored).collect();
        let works: Vec<_> = kept.iter().filter_map(|w| w.outcome.as_ref().ok()).collect();
        let reveal = node.block_hash(node.clock.reveal(window)).await.expect("a block");
        let mut manifest = Manifest {
            blocks: Some(Blocks { start: facts.start, reveal: Hex32(reveal) }),
            median_norm: collected.median_norm.map(Bits64),
            ..Manifest::empty(self.follower.previous, self.follower.digest)
        };
        manifest.neurons = facts
            .neurons
            .iter()
            .map(|(uid, hotkey)| {
                let work = kept.iter().find(|w| w.uid == *uid);
                let verdict = work.map_or(Verdict::NoCommit, |w| w.verdict());
                Entry { uid: *uid, hotkey: *hotkey, verdict, artifact: work.and_then(|w| w.artifact()), behind: None }
            })
            .collect();
        if let Some(mut merged) = merge(&node.settings.run.merge.rule, &works) {
            invent(&mut merged);
            manifest.admitted = kept.iter().filter(|w| w.outcome.is_ok()).map(|w| w.uid).collect();
            let slice = node.slice(window, &self.follower.base.parameters).await.expect("a slice");
            let mut base = self.follower.base.clone();
            node.outer_step(&mut base, &slice, &merged, window);
            manifest.base_after = Hex32(base.digest());
            let (keypair, before) = (node.wallet.keypair(), self.follower.digest);
            let file = artifact::encode(&node.agreement, window, Kind::Aggregate, keypair, before, &merged);
            manifest.aggregate = Some(Commit::of(&file).digest);
            node.publish(window, Kind::Aggregate, file).await.expect("published");
        }
        twist(&mut manifest);
        let sealed = object::seal(&node.agreement, window, Kind::Manifest, node.wallet.keypair(), &manifest);
        node.publish(window, Kind::Manifest, sealed).await.expect("published");
        window
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn censorship_does_not_move_the_pay_and_a_lie_is_not_followed() {
    let subnet = Subnet::start().await;
    let mut averager = Averager::start(&subnet).await;
    let validator = subnet.node(Role::Validator, "validator");
    let miners = ["heard", "silenced"].map(|name| subnet.node(Role::Miner, name));
    let wallet = subnet.wallet(Role::Miner, "silenced");
    let silenced = Hotkey(wallet.hotkey.public());
    let works = async |averager: &mut Averager| {
        let window = averager.window(Lie { censored: Some(silenced), ..Lie::default() }).await;
        averager.follower.follow(&averager.node).await.expect("it follows its own manifest");
        window
    };
    // Until both miners have worked for some windows.
    let mut window = works(&mut averager).await;
    for _ in 0..4 {
        window = works(&mut averager).await;
    }
    let verdicts: Verdicts = subnet.object(&subnet.wallet(Role::Validator, "validator"), window, Kind::Verdicts).await;
    let judged = verdicts.verdicts.iter().find(|j| j.hotkey == silenced).expect("the validator saw its work");
    assert_eq!((judged.verdict, judged.disputed), (Verdict::Accepted, Some(Verdict::NoCommit)));
    let manifest = subnet.manifest(window).await;
    assert!(manifest.neurons.iter().any(|e| e.hotkey == silenced && e.verdict == Verdict::NoCommit));
    let status = validator.until(|s| s.scores.iter().any(|m| m.hotkey == silenced.ss58() && m.average > 0.0)).await;
    let paid = status.scores.iter().find(|m| m.hotkey == silenced.ss58()).expect("scored");
    assert_eq!(paid.verdict, "accepted");
    assert!(paid.weight > 0.0 || status.first_weights_block.is_none(), "{paid:?}");

    // Now it gives everybody a base that is not made of the work: who has the work sees it, and goes on seeing it.
    let flip = |merged: &mut Tensors| merged.data_mut().flatten().for_each(|x| *x = -*x);
    let invented = averager.window(Lie { merged: flip, ..Lie::default() }).await;
    averager.follower.follow(&averager.node).await.expect("it follows its own manifest");
    let refuses = async |node: support::Node| {
        let line = node.failed().await;
        assert!(line.contains("aggregate-mismatch") && line.contains(&format!("window {invented} ")), "{line}");
    };
    refuses(validator).await;
    // Only now, since two that run at once with one hotkey take each other's keys.
    refuses(subnet.node(Role::Validator, "validator")).await;

    // Now it promises a base that its aggregate does not give: that everybody sees.
    averager.window(Lie { manifest: |manifest| manifest.base_after = Hex32([6; 32]), ..Lie::default() }).await;
    for node in miners {
        let line = node.failed().await;
        assert!(line.contains("digest-mismatch"), "{line}");
    }
    averager.node.stop.cancel();
    subnet.devnet.shutdown().await;
}
