//! Kills: any process at any moment, as kill -9 does, and started again on what it left.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bistro_api::Role;
use bistro_protocol::{check::Verdict, hotkey::Hotkey, seed};

use crate::{
    fleet::{Fault, Fleet},
    support::PATIENCE,
};

/// Longest time that a killed process stays away.
const AWAY: Duration = Duration::from_secs(3);

/// Numbers that a seed gives: which node, when, for how long.
struct Draws {
    seed: u64,
    count: u64,
}

impl Draws {
    /// A number in [0, 1).
    fn next(&mut self) -> f64 {
        self.count += 1;
        let bytes = seed::seed("churn", &(self.seed, self.count));
        f64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Kills so many processes of these nodes, one every `every` on average, and starts each again; then waits until all of
/// them have gone on.
async fn churn(fleet: &mut Fleet, kills: u64, every: Duration, seed: u64) {
    let mut draws = Draws { seed, count: 0 };
    let mut away: BTreeMap<&'static str, Instant> = BTreeMap::new();
    for _ in 0..kills {
        let next = Instant::now() + 2 * every.mul_f64(draws.next());
        while Instant::now() < next {
            let back: Vec<_> = away.iter().filter(|(_, at)| **at <= Instant::now()).map(|(name, _)| *name).collect();
            for name in back {
                away.remove(name);
                fleet.member(name).worker.start();
            }
            fleet.look().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let here: Vec<_> = fleet.members.iter().map(|m| m.name).filter(|name| !away.contains_key(name)).collect();
        let name = here[(draws.next() * here.len() as f64) as usize];
        fleet.member(name).worker.kill().await;
        away.insert(name, Instant::now() + AWAY.mul_f64(draws.next()));
    }
    for name in away.into_keys() {
        fleet.member(name).worker.start();
    }
    let last = fleet.window() + 1;
    let all = async |fleet: &mut Fleet| {
        fleet.members.iter().all(|m| m.status.as_ref().is_some_and(|s| s.base_window > Some(last)))
    };
    fleet.until("everybody is back", PATIENCE, all).await;
}

async fn fleet(miners: &[&'static str], validators: &[&'static str]) -> Fleet {
    let mut fleet = Fleet::new().await;
    fleet.add(Role::Averager, "averager", "averager", Fault::None).await;
    for name in validators {
        fleet.add(Role::Validator, name, name, Fault::None).await;
    }
    for name in miners {
        fleet.add(Role::Miner, name, name, Fault::None).await;
    }
    let registered = async |fleet: &mut Fleet| {
        fleet.members.iter().all(|m| m.status.as_ref().is_some_and(|s| s.base_window > Some(0)))
    };
    fleet.until("everybody works", PATIENCE, registered).await;
    fleet
}

/// What became of every window of every miner, and the rules that hold for all of it.
fn judge(fleet: &mut Fleet, miners: &[&'static str], validators: &[&'static str]) -> String {
    let ledger = fleet.audit();
    let hotkeys: Vec<Hotkey> = miners.iter().map(|name| fleet.hotkey(Role::Miner, name)).collect();
    let count = |verdict| ledger.count(&hotkeys, verdict);
    let accepted = count(Verdict::Accepted);
    assert!(accepted > 0 && ledger.admitted >= accepted, "work counted, and all that counted was merged");
    assert_eq!(ledger.empty, 0, "the averager knows every window");
    assert_eq!(ledger.compared, ledger.windows, "somebody showed the base of every window");
    for name in validators {
        let status = fleet.member(name).status.clone().expect("it answered");
        let known: BTreeSet<String> = status.scores.iter().map(|s| s.hotkey.clone()).collect();
        let all: BTreeSet<String> = hotkeys.iter().map(Hotkey::ss58).collect();
        assert_eq!(known, all, "{name} knows every miner");
        let sound = |average: f64| average.abs() <= 1.25;
        assert!(status.scores.iter().all(|s| sound(s.average)), "{name}: {:?}", status.scores);
    }
    for member in &fleet.members {
        let left = unfinished(&member.worker.state());
        assert!(left <= 1, "{} keeps {left} unfinished files", member.name);
    }
    format!(
        "windows={} admitted={} accepted={accepted} no_commit={} no_artifact={} late={} other=0 digests_equal=true",
        ledger.windows,
        ledger.admitted,
        count(Verdict::NoCommit),
        count(Verdict::NoArtifact),
        count(Verdict::Late),
    )
}

/// Files that were being written when the process was killed; one may be under way right now.
fn unfinished(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => unfinished(&entry.path()),
        _ => usize::from(entry.file_name().to_string_lossy().ends_with(".tmp")),
    };
    entries.flatten().map(count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dozen_kills_lose_nothing() {
    let (miners, validators) = (["first", "second"], ["validator"]);
    let mut fleet = fleet(&miners, &validators).await;
    churn(&mut fleet, 12, Duration::from_millis(2500), 1).await;
    judge(&mut fleet, &miners, &validators);
    fleet.stop().await;
}

/// KILLS and SEED choose another run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: make bench-churn"]
async fn bench_churn() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (kills, seed) = (number("KILLS", 200), number("SEED", 1));
    let (miners, validators) = (["first", "second", "third"], ["left", "right"]);
    let began = Instant::now();
    let mut fleet = fleet(&miners, &validators).await;
    churn(&mut fleet, kills, Duration::from_millis(2500), seed).await;
    let figures = judge(&mut fleet, &miners, &validators);
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!("BENCH churn kills={kills} {figures} minutes={minutes:.1}");
    fleet.stop().await;
}
