use bistro_api::{NodeStatus, Role};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::up::text::width;

fn heading() -> Heading {
    let schedule = json!({"windowBlocks": 40, "commitBlocks": 8, "uploadBlocks": 8, "mergeBlocks": 8});
    Heading {
        subnet: "alps".to_owned(),
        netuid: 7,
        run: 1,
        schedule: serde_json::from_value(schedule).expect("a schedule"),
        windows: Some(20),
    }
}

fn status(members: Value) -> NodeStatus {
    let reachable = json!({"reachable": true});
    let mut status = json!({"role": "miner", "phase": "waiting", "chain": reachable, "bucket": reachable});
    for (name, value) in members.as_object().expect("members") {
        status[name] = value.clone();
    }
    serde_json::from_value(status).expect("a status")
}

fn history(windows: std::ops::Range<u64>) -> Value {
    let record = |window: u64| {
        let loss = 2.0 + 3.0 / (window as f64 + 1.0);
        json!({"window": window, "baseDigest": format!("d{window}"), "heldOutLoss": loss, "admitted": 1})
    };
    windows.map(record).collect()
}

/// Five nodes in the commit phase of window 117: one speaks, one asks for too much, one fell silent and came back once.
fn board() -> Board {
    let labels = ["marmot-0", "eagle-0", "ibex-0", "ibex-1", "ibex-2"];
    let roles = [Role::Averager, Role::Validator, Role::Miner, Role::Miner, Role::Miner];
    let mut board = Board::new(std::iter::zip(labels, roles).map(|(l, role)| (l.to_owned(), l.to_owned(), role)));
    let at = Duration::from_secs;
    let mut answer = |label: &str, window: u64, accepted: u64, members: Value| {
        let mut all = json!({"block": 40 * window + 18, "window": window, "history": history(0..window + 1),
            "heldOutLoss": 2.322, "verdicts": {"accepted": accepted}});
        for (name, value) in members.as_object().expect("members") {
            all[name] = value.clone();
        }
        board.observe(label, status(all), at(60)).expect("the same bases");
    };
    for (window, accepted) in [(12, 3), (13, 4)] {
        answer(
            "marmot-0",
            window,
            3 * accepted,
            json!({"role": "averager", "phase": "waiting", "downloadedBytes": 61_500_000,
            "uploadedBytes": 3_440_000}),
        );
        answer(
            "eagle-0",
            window,
            3 * accepted,
            json!({"role": "validator", "phase": "scoring", "uid": 0, "weight": 0.0,
            "incentive": 0.0, "downloadedBytes": 61_500_000, "uploadedBytes": 9_000}),
        );
        let miner = |uid: u64, score: f64| {
            json!({"uid": uid, "hotkey": format!("5{uid}"), "score": score, "weight": score / 3.0, "incentive": 0.38,
            "phase": "committing", "uploadedBytes": 860_000 * uid, "downloadedBytes": 20_000_000_000_u64})
        };
        answer("ibex-0", window, accepted, miner(1, 1.05));
        let mut ibex = miner(2, 0.99);
        ibex["message"] =
            json!("\u{1b}[2J\u{1b}]0;evil\u{7} 氷河 waiting for datasets/rust/index.json: is the Job done?");
        answer("ibex-1", window, accepted, ibex);
    }
    answer("ibex-2", 13, 9, json!({"uid": 3, "phase": "training"}));
    board.restarting("ibex-2", "was ended by signal 9", at(700));
    board
}

fn events() -> Vec<Occurrence> {
    let event = |seconds, line: &str| Occurrence { at: Duration::from_secs(seconds), line: line.to_owned() };
    vec![
        event(62, "job dataset is done"),
        event(700, "ibex-2 was ended by signal 9, starting again in 0.5 s"),
        event(4000, "ibex-1: \u{1b}[31mred\u{1b}[0m"),
    ]
}

fn shown(board: &Board, events: &[Occurrence], width: usize, height: usize) -> Vec<String> {
    let view = View { board, heading: &heading(), events, now: Duration::from_secs(754) };
    frame(&view, Size { width, height }).iter().map(Line::text).collect()
}

#[test]
fn frames_of_three_widths() {
    for width in [60, 100, 160] {
        insta::assert_snapshot!(format!("width_{width}"), shown(&board(), &events(), width, 40).join("\n"));
    }
}

#[test]
fn before_the_first_answer() {
    let board = Board::new([("a".to_owned(), "marmot-0".to_owned(), Role::Averager)]);
    insta::assert_snapshot!(shown(&board, &[], 100, 40).join("\n"));
}

#[test]
fn a_low_terminal_counts_the_rows_that_it_leaves_out() {
    let node = |i: usize| (format!("n{i}"), format!("ibex-{i}"), Role::Miner);
    let board = Board::new((0..16).map(node));
    let lines = shown(&board, &[], 80, 14);
    assert_eq!(lines.len(), 13);
    let rows = lines.iter().filter(|line| line.starts_with("ibex-")).count();
    assert_eq!(lines.last().map(String::as_str), Some(format!("... and {} more", 16 - rows).as_str()));
    let lines = shown(&board, &events(), 80, 14);
    assert!(lines.iter().any(|line| line.contains("ibex-1: ")), "the last event is shown: {lines:?}");
    let lines = shown(&board, &events(), 80, 24);
    assert_eq!(lines.iter().filter(|line| line.starts_with("ibex-")).count(), 16, "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.contains("ibex-1: ")), "and the last event: {lines:?}");
}

#[test]
fn the_bar_ends_with_the_window() {
    for (block, full) in [(0, 2), (39, 80)] {
        let mut board = Board::new([("a".to_owned(), "marmot-0".to_owned(), Role::Averager)]);
        board.observe("a", status(json!({"block": 4000 + block})), Duration::ZERO).expect("one base");
        let lines = shown(&board, &[], 80, 24);
        assert_eq!(lines[1].chars().filter(|c| *c == '█').count(), full, "{lines:?}");
    }
}

prop_compose! {
    fn any_status()(
        numbers in proptest::collection::vec(proptest::option::of(any::<f64>().prop_filter("JSON has no others", |f| f.is_finite())), 4),
        (block, window, uid, bytes) in any::<(Option<u64>, u64, Option<u16>, u64)>(),
        message in any::<String>(),
        verdicts in proptest::collection::btree_map(any::<String>(), any::<u64>(), 0..4),
        losses in proptest::collection::vec(proptest::option::of(any::<f64>().prop_filter("finite", |f| f.is_finite())), 0..20),
    ) -> NodeStatus {
        let first = window.saturating_sub(losses.len() as u64);
        let record = |(i, loss): (usize, &Option<f64>)|
            json!({"window": first + i as u64, "baseDigest": "d", "heldOutLoss": loss});
        let history: Vec<Value> = losses.iter().enumerate().map(record).collect();
        status(json!({"block": block, "window": window, "uid": uid, "heldOutLoss": numbers[0], "score": numbers[1],
            "weight": numbers[2], "incentive": numbers[3], "uploadedBytes": bytes, "message": message,
            "verdicts": verdicts, "history": history}))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_frame_is_larger_than_the_terminal(
        statuses in proptest::collection::vec(proptest::collection::vec(any_status(), 0..3), 1..6),
        lines in proptest::collection::vec(any::<String>(), 0..7),
        (columns, rows) in (1_usize..200, 1_usize..40),
        now in 0..1_000_000_u64,
    ) {
        let label = |i: usize| format!("node-{i}");
        let mut board = Board::new((0..statuses.len()).map(|i| (label(i), label(i), Role::Miner)));
        for (i, status) in statuses.into_iter().enumerate().flat_map(|(i, s)| s.into_iter().map(move |s| (i, s))) {
            board.observe(&label(i), status, Duration::ZERO).expect("one base");
        }
        board.unanswered(&label(0), "it is silent", Duration::ZERO);
        let events: Vec<_> = lines.into_iter().map(|line| Occurrence { at: Duration::ZERO, line }).collect();
        let view = View { board: &board, heading: &heading(), events: &events, now: Duration::from_secs(now) };
        let frame = frame(&view, Size { width: columns, height: rows });
        prop_assert!(frame.len() < rows.max(2));
        for line in frame {
            let text = line.text();
            prop_assert!(width(&text) <= columns, "{text:?}");
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}
