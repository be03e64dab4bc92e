//! Outages: chain, bucket, clock and disk of single nodes, each with another fault at the same time, then of those
//! that everybody needs; and two processes with one hotkey.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use bistro_api::{NodeStatus, Role};
use bistro_protocol::check::Verdict;
use bistro_tests::proxy::{BucketFault, ChainFault};

use crate::{
    fleet::{Fault, Fleet},
    support::PATIENCE,
};

/// An outage that is shorter than this may end before a connection that just stays silent is given up.
const NOTICED: Duration = Duration::from_secs(60);

/// What a node with a fault shows while it lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// The bucket is not reachable.
    Bucket,
    /// The chain is not reachable.
    Chain,
    /// The message says this.
    Message(&'static str),
    /// Nothing: its work counts as ever.
    Work,
    /// It may notice or not.
    Anything,
}

/// One miner and what happens to it.
struct Case {
    name: &'static str,
    fault: Fault,
    shows: Shows,
}

fn cases(length: Duration) -> Vec<Case> {
    let slowly = |shows| if length >= NOTICED { shows } else { Shows::Anything };
    let slow = BucketFault::Slow { delay: Duration::from_millis(300), bytes_per_second: 200_000 };
    let case = |name, fault, shows| Case { name, fault, shows };
    vec![
        case("steady", Fault::None, Shows::Work),
        case("refused", Fault::Bucket(BucketFault::Refused), Shows::Bucket),
        case("hanging", Fault::Bucket(BucketFault::Hanging), slowly(Shows::Bucket)),
        case("slow", Fault::Bucket(slow), Shows::Work),
        case("busy", Fault::Bucket(BucketFault::Busy), Shows::Bucket),
        case("denied", Fault::Bucket(BucketFault::Denied), Shows::Bucket),
        case("truncated", Fault::Bucket(BucketFault::Truncated), Shows::Bucket),
        case("corrupted", Fault::Bucket(BucketFault::Corrupted), Shows::Anything),
        case("stale", Fault::Bucket(BucketFault::Stale(SystemTime::now())), Shows::Message("waits for the manifest")),
        case("unchained", Fault::Chain(ChainFault::Refused), Shows::Chain),
        case("silent", Fault::Chain(ChainFault::Silent), slowly(Shows::Chain)),
        case("cut", Fault::Chain(ChainFault::Cut(Duration::from_secs(2))), Shows::Anything),
        case("full", Fault::Disk, Shows::Message("no space is left; free some or enlarge the volume")),
        case("ahead", Fault::Clock(30), Shows::Work),
        case("behind", Fault::Clock(-30), Shows::Work),
    ]
}

fn shows(status: &NodeStatus, what: Shows) -> bool {
    let away = |service: &bistro_api::status::Reachable| !service.reachable && service.error.is_some();
    match what {
        Shows::Bucket => away(&status.bucket),
        Shows::Chain => away(&status.chain),
        Shows::Message(text) => status.message.contains(text),
        Shows::Work | Shows::Anything => true,
    }
}

/// One miner for each case, a validator and an averager that are well; waits until all the work was accepted once.
async fn fleet(cases: &[Case]) -> Fleet {
    let mut fleet = Fleet::new().await;
    fleet.add(Role::Averager, "averager", "averager", Fault::None).await;
    fleet.add(Role::Validator, "validator", "validator", Fault::None).await;
    for Case { name, fault, .. } in cases {
        fleet.add(Role::Miner, name, name, *fault).await;
    }
    let names: Vec<&'static str> = cases.iter().map(|case| case.name).collect();
    accepted(&mut fleet, &names, 0, PATIENCE).await;
    fleet
}

/// Waits until the work of each of these miners was accepted in a window from `first` on.
async fn accepted(fleet: &mut Fleet, names: &[&'static str], first: u64, patience: Duration) {
    let mut missing: BTreeSet<&str> = names.iter().copied().collect();
    let what = format!("accepted work of {names:?} from window {first} on");
    let all = async |fleet: &mut Fleet| {
        for name in missing.clone() {
            let hotkey = fleet.hotkey(Role::Miner, name);
            if fleet.verdicts(hotkey, first).any(|verdict| verdict == Verdict::Accepted) {
                missing.remove(name);
            }
        }
        missing.is_empty()
    };
    fleet.until(&what, patience, all).await;
}

/// All faults at once for `length`, and longer where a node has not shown its own yet; then all are healed. Gives the
/// seconds until each node had caught up.
async fn outage(fleet: &mut Fleet, cases: &[Case], length: Duration) -> BTreeMap<&'static str, f64> {
    let (began, first) = (Instant::now(), fleet.window() + 1);
    for Case { name, fault, .. } in cases {
        let fault = match fault {
            Fault::Bucket(BucketFault::Stale(_)) => Fault::Bucket(BucketFault::Stale(SystemTime::now())),
            other => *other,
        };
        fleet.member(name).suffer(fault);
    }
    let mut silent: BTreeMap<&str, Shows> = cases.iter().map(|case| (case.name, case.shows)).collect();
    let shown = async |fleet: &mut Fleet| {
        silent.retain(|name, what| !fleet.member(name).status.as_ref().is_some_and(|status| shows(status, *what)));
        began.elapsed() >= length && silent.is_empty()
    };
    fleet.until("every node shows its fault", length + PATIENCE, shown).await;
    let working: Vec<_> = cases.iter().filter(|case| case.shows == Shows::Work).map(|case| case.name).collect();
    accepted(fleet, &working, first, PATIENCE).await;
    for case in cases.iter().filter(|case| matches!(case.fault, Fault::Bucket(_) | Fault::Chain(_))) {
        assert!(fleet.member(case.name).met() > 0, "{} met no fault", case.name);
    }

    for member in &fleet.members {
        member.heal();
    }
    let names: Vec<_> = cases.iter().map(|case| case.name).collect();
    let (healed, again) = (Instant::now(), fleet.window() + 1);
    let recovered = caught_up(fleet, &names, healed).await;
    accepted(fleet, &names, again, PATIENCE).await;
    recovered
}

/// Waits until each of these nodes reaches chain and bucket and is at most one window behind the chain, twice in a row:
/// an answer can be older than the fault.
async fn caught_up(fleet: &mut Fleet, names: &[&'static str], since: Instant) -> BTreeMap<&'static str, f64> {
    let mut recovered = BTreeMap::new();
    let mut well: BTreeMap<&str, u32> = BTreeMap::new();
    let all = async |fleet: &mut Fleet| {
        let window = fleet.window();
        for name in names {
            let status = fleet.member(name).status.clone();
            let fine = status.is_some_and(|s| {
                s.chain.reachable && s.bucket.reachable && s.base_window.is_some_and(|base| base + 1 >= window)
            });
            let times = well.entry(*name).or_default();
            *times = if fine { *times + 1 } else { 0 };
            if *times == 2 {
                recovered.entry(*name).or_insert(since.elapsed().as_secs_f64());
            }
        }
        recovered.len() == names.len()
    };
    fleet.until("everybody catches up", PATIENCE, all).await;
    recovered
}

/// The averager and the validator have faults at the same time: everybody waits and says so, then goes on.
async fn outage_of_the_needed(
    fleet: &mut Fleet,
    (averager, validator): (Fault, Fault),
    length: Duration,
) -> BTreeMap<&'static str, f64> {
    let began = Instant::now();
    fleet.member("averager").suffer(averager);
    fleet.member("validator").suffer(validator);
    let waiting = async |fleet: &mut Fleet| {
        let says = |status: &NodeStatus| status.message.contains("waits for the manifest of window");
        let says = fleet.member("steady").status.as_ref().is_some_and(says);
        began.elapsed() >= length && says
    };
    fleet.until("the miners say what they wait for", length + PATIENCE, waiting).await;
    for name in ["averager", "validator"] {
        assert!(fleet.member(name).met() > 0, "the {name} met no fault");
        fleet.member(name).heal();
    }
    let (healed, again) = (Instant::now(), fleet.window() + 1);
    let recovered = caught_up(fleet, &["averager", "validator", "steady"], healed).await;
    accepted(fleet, &["steady"], again, PATIENCE).await;
    recovered
}

/// A second process with the keys of `steady`: one of the two stops and says why, the other goes on.
async fn twins(fleet: &mut Fleet) {
    fleet.rivals = BTreeSet::from(["steady", "twin"]);
    fleet.add(Role::Miner, "twin", "steady", Fault::None).await;
    let one_stops = async |fleet: &mut Fleet| {
        ["steady", "twin"].into_iter().any(|name| fleet.member(name).worker.ended().is_some())
    };
    fleet.until("one of two processes with one hotkey stops", PATIENCE, one_stops).await;
    let stopped = |fleet: &mut Fleet, name| fleet.member(name).worker.ended();
    let (stops, goes_on) = if stopped(fleet, "steady").is_some() { ("steady", "twin") } else { ("twin", "steady") };
    let hotkey = fleet.hotkey(Role::Miner, "steady");
    let (status, log) = (stopped(fleet, stops), fleet.member(stops).worker.tail());
    assert_eq!(status.and_then(|s| s.code()), Some(2), "it must not be started again");
    let named = log.lines().any(|line| line.contains("key-taken") && line.contains(&hotkey.ss58()));
    assert!(named, "{log}");
    let again = fleet.window() + 1;
    accepted(fleet, &["steady"], again, PATIENCE).await;
    assert!(stopped(fleet, goes_on).is_none(), "the other one goes on");
}

/// Ends a run: the manifests are one history, with the digests that all nodes had.
async fn end(fleet: Fleet) {
    let ledger = fleet.audit();
    assert!(ledger.compared > 0 && ledger.admitted > 0, "there was something to compare");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_named_stop_nobody_else_and_heal() {
    let length = Duration::from_secs(20);
    let cases = cases(length);
    let mut fleet = fleet(&cases).await;
    outage(&mut fleet, &cases, length).await;
    let faults = (Fault::Bucket(BucketFault::Busy), Fault::Chain(ChainFault::Refused));
    outage_of_the_needed(&mut fleet, faults, length).await;
    twins(&mut fleet).await;
    end(fleet).await;
}

/// The same with outages of five minutes (OUTAGE_SECONDS).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: make soak"]
async fn soak() {
    let seconds = std::env::var("OUTAGE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(300);
    let length = Duration::from_secs(seconds);
    let cases = cases(length);
    let mut fleet = fleet(&cases).await;
    let print = |fault: &str, recovered: f64| {
        println!(
            "BENCH soak fault={fault} seconds={seconds} recovered_after_seconds={recovered:.1} digests_equal=true"
        );
    };
    for (name, recovered) in outage(&mut fleet, &cases, length).await {
        print(name, recovered);
    }
    let needed = [
        ("bucket-busy", "chain-refused", Fault::Bucket(BucketFault::Busy), Fault::Chain(ChainFault::Refused)),
        ("chain-silent", "bucket-truncated", Fault::Chain(ChainFault::Silent), Fault::Bucket(BucketFault::Truncated)),
    ];
    for (of_averager, of_validator, averager, validator) in needed {
        let recovered = outage_of_the_needed(&mut fleet, (averager, validator), length).await;
        print(&format!("averager-{of_averager}"), recovered["averager"]);
        print(&format!("validator-{of_validator}"), recovered["validator"]);
    }
    twins(&mut fleet).await;
    end(fleet).await;
}
