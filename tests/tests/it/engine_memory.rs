//! What training has in memory is what its formula says (docs/running.md), in processes of their own.

use std::process::Command;

use bistro_api::run::Model;
use bistro_worker::engine::{Engine, Optimizer, Session};
use serde_json::{Value, json};

/// Which case a process trains.
const CASE: &str = "BISTRO_MEMORY_CASE";
/// How far the formula may be off.
const TOLERANCE: f64 = 0.15;

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a known line");
    1024 * line.trim_matches([':', '\t', ' ', 'k', 'B']).parse::<u64>().expect("a number")
}

/// Trains two steps and says what the formula gives and what the kernel saw at most.
#[test]
#[ignore = "a part of training_takes_the_memory_that_its_formula_says"]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let case: Value = serde_json::from_str(&case).expect("a case");
    let model: Model = serde_json::from_value(case["model"].clone()).expect("a model");
    let number = |name: &str| u32::try_from(case[name].as_u64().expect("a number")).expect("small");
    let (batch, length) = (number("batch"), number("length"));
    let build = if case["recompute"] == true { Engine::recomputing } else { Engine::new };
    let mut engine = build(&model, 256, length, 2).expect("sound");
    let training = json!({ "learningRate": "1e-3", "batchSequences": batch, "innerSteps": 2 });
    let training = serde_json::from_value(training).expect("sound");
    // The base, which whoever trains holds besides.
    let formula = engine.training_bytes(batch as usize) + 4 * engine.config().parameters();

    let before = status("VmRSS");
    // Forgets the peak so far.
    std::fs::write("/proc/self/clear_refs", "5").expect("one's own");
    let base = engine.initial(1).expect("drawn");
    let mut session = Session::new(&mut engine, &base, &Optimizer::fresh(), &training, 0).expect("it fits");
    for step in 0..2 {
        let sequences: Vec<Vec<u32>> =
            (0..batch).map(|s| (0..=length).map(|t| (s * 7 + t * t + step) % 256).collect()).collect();
        session.step(&sequences).expect("finite");
    }
    session.finish().expect("finite");
    drop(base);
    println!("memory {formula} {}", status("VmHWM") - before);
}

#[test]
fn training_takes_the_memory_that_its_formula_says() {
    let gpt2 = json!({ "config": {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 8192, "n_positions": 512,
        "n_embd": 320, "n_layer": 6, "n_head": 5, "layer_norm_epsilon": 1e-5,
    } });
    let cases = [
        json!({ "name": "medium", "model": { "preset": "medium" }, "batch": 4, "length": 256 }),
        json!({ "name": "medium, computed again", "model": { "preset": "medium" }, "batch": 4, "length": 256, "recompute": true }),
        json!({ "name": "gpt2", "model": gpt2, "batch": 3, "length": 512 }),
        json!({ "name": "tiny", "model": { "preset": "tiny" }, "batch": 8, "length": 1024 }),
    ];
    for case in &cases {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "engine_memory::child", "--ignored", "--nocapture", "--quiet"])
            .env(CASE, case.to_string());
        let output = command.output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("memory "));
        let line = line.unwrap_or_else(|| panic!("{case}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        let (formula, seen) = line.split_once(' ').expect("two numbers");
        let [formula, seen] = [formula, seen].map(|number| number.parse::<f64>().expect("a number"));
        println!("{}: formula {:.0} MiB, seen {:.0} MiB", case["name"], formula / 1048576.0, seen / 1048576.0);
        assert!((seen / formula - 1.0).abs() < TOLERANCE, "{case}: formula {formula}, seen {seen}");
    }
}
