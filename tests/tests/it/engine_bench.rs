//! `make bench-engine`: training beside torch, eager and compiled: the same architecture, parameters, batches and recipe, in
//! processes that take turns. What is right or wrong is asserted, what is fast or slow is printed.

use std::{
    io::{BufRead, Write},
    path::Path,
    process::Command,
    time::Instant,
};

use bistro_api::run::{Model, Training};
use bistro_protocol::tensor_file;
use bistro_tests::beside::{Beside, median};
use bistro_worker::engine::{Engine, Optimizer, Session};
use serde_json::{Value, json};

/// How often each side is timed.
const ROUNDS: usize = 7;
/// Threads of each side.
const THREADS: usize = 2;
/// Most that the losses of a step may be apart, in nats.
const APART: f64 = 1e-3;
/// Most that the gradient of a tensor may differ from torch's in f64: 1 - cosine, and relative distance.
const GRADIENT: (f64, f64) = (1e-10, 1e-5);
/// Which of the cases a process computes.
const CASE: &str = "BISTRO_BENCH_CASE";

/// Preset or [`GROUPED`], sequences of a batch, tokens of a sequence, steps that are timed at once: about a second of them.
const CASES: [(&str, u32, u32, usize); 5] =
    [("tiny", 8, 128, 32), ("small", 4, 256, 6), (GROUPED, 4, 256, 6), ("medium", 4, 256, 3), ("gpt2", 1, 256, 2)];
/// As `small`, but four heads of queries share one of keys and values.
const GROUPED: &str = "grouped";

fn case(name: &str) -> (Model, Training, u32) {
    let (_, batch, length, _) = CASES.iter().find(|case| case.0 == name).expect("a case");
    let grouped = json!({
        "model_type": "llama", "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": true,
    });
    let model = if name == GROUPED { json!({ "config": grouped }) } else { json!({ "preset": name }) };
    let model = serde_json::from_value(model).expect("a model");
    let training = json!({ "learningRate": "1e-3", "batchSequences": batch, "innerSteps": 1 });
    (model, serde_json::from_value(training).expect("sound"), *length)
}

fn engine(name: &str, threads: usize) -> Engine {
    let (model, _, length) = case(name);
    Engine::new(&model, 256, length, threads).expect("sound")
}

/// The batch of a step: bytes with some structure, the same in every process.
fn batch(name: &str, step: usize) -> Vec<Vec<u32>> {
    let (_, training, length) = case(name);
    let token =
        |s: usize, t: usize| ((s * 31 + t * t * 7 + t / 3 + step * 13) as u32).wrapping_mul(2_654_435_761) >> 24;
    (0..training.batch_sequences as usize).map(|s| (0..=length as usize).map(|t| token(s, t)).collect()).collect()
}

/// Peak of the memory of this process, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// The process that is measured: trains when it is told to, and says how long that took and what the losses were.
#[test]
#[ignore = "a part of make bench-engine"]
fn bench_engine_child() {
    let Ok(name) = std::env::var(CASE) else { return };
    let mut engine = engine(&name, THREADS);
    let (_, training, _) = case(&name);
    let base = engine.initial(1).expect("drawn");
    let mut session = Session::new(&mut engine, &base, &Optimizer::fresh(), &training, 0).expect("it fits");
    drop(base);
    let mut step = 0;
    for line in std::io::stdin().lock().lines() {
        let steps: usize = line.expect("a line").parse().expect("a number of steps");
        let (mut losses, start) = (Vec::new(), Instant::now());
        for _ in 0..steps {
            losses.push(session.step(&batch(&name, step)).expect("finite").0);
            step += 1;
        }
        let answer = json!({ "seconds": start.elapsed().as_secs_f64(), "losses": losses, "peak": peak() });
        println!("{answer}");
        std::io::stdout().flush().expect("somebody reads");
    }
}

/// Starts this test program again, for one case.
fn ours(name: &str) -> Beside {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "engine_bench::bench_engine_child", "--ignored", "--nocapture", "--quiet"])
        .env(CASE, name);
    let mut ours = Beside::start(command).expect("this program starts");
    // What the test harness says before a test.
    assert!(ours.line().is_some() && ours.line().is_some());
    ours
}

fn ask(program: &mut Beside, call: &str) -> Value {
    let mut answer = program.ask(call);
    // The test harness says between the answers when a test takes long.
    while !answer.starts_with('{') {
        answer = program.line().expect("the program answers");
    }
    serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no answer: {answer:?}"))
}

/// Describes a case to torch: parameters, the architecture in the words of Hugging Face, batches and recipe.
fn describe(name: &str, steps: usize, at: &Path) {
    let (mut engine, (_, training, length)) = (engine(name, 1), case(name));
    let base = engine.initial(1).expect("drawn");
    std::fs::write(at.join("parameters.safetensors"), tensor_file::write(&[], &base)).expect("written");
    let (_, gradient) = engine.gradient(&base, &batch(name, 0)).expect("finite");
    std::fs::write(at.join("gradient.safetensors"), tensor_file::write(&[], &gradient)).expect("written");
    let batches: Vec<_> = (0..steps * (ROUNDS + 1)).map(|step| batch(name, step)).collect();
    let described = json!({
        "config": engine.config().to_hugging_face(length as usize), "batches": batches,
        "learningRate": 1e-3, "betas": training.betas, "weightDecay": training.weight_decay, "clip": training.gradient_clip,
    });
    std::fs::write(at.join("case.json"), described.to_string()).expect("written");
}

#[test]
#[ignore = "a benchmark: make bench-engine"]
fn bench_engine() {
    let only = std::env::var("MODEL").ok().filter(|only| !only.is_empty());
    for &(name, sequences, length, steps) in
        CASES.iter().filter(|case| only.as_deref().is_none_or(|only| only == case.0))
    {
        let at = tempfile::tempdir().expect("a folder");
        describe(name, steps, at.path());
        let torch = |how: &str| {
            let arguments = [at.path().to_string_lossy().into_owned(), THREADS.to_string(), how.to_owned()];
            Beside::python("train.py", &arguments).expect("torch is there: make python").0
        };
        let mut sides = [ours(name), torch("eager"), torch("compile")];
        let mut times = [const { Vec::new() }; 3];
        let (mut losses, mut peaks) = ([const { Vec::<f64>::new() }; 3], [0; 3]);
        for round in 0..=ROUNDS {
            for (number, side) in sides.iter_mut().enumerate() {
                let answer = ask(side, &steps.to_string());
                // The first round fills caches and compiles.
                if round > 0 {
                    times[number].push(answer["seconds"].as_f64().expect("a number"));
                }
                losses[number].extend(answer["losses"].as_array().into_iter().flatten().filter_map(Value::as_f64));
                peaks[number] = answer["peak"].as_u64().expect("a number");
            }
        }
        let tokens = (steps as u32 * sequences * length) as f64;
        let [ours, eager, compile] = times.map(|times| tokens / median(times));
        let apart = |torch: &[f64]| losses[0].iter().zip(torch).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let apart = apart(&losses[1]).max(apart(&losses[2]));
        println!(
            "BENCH engine.train model={name} ours={ours:.0} eager={eager:.0} compile={compile:.0} ratio={:.2} ratio_eager={:.2} rss_mib={} torch_rss_mib={} compile_rss_mib={} losses_apart={apart:.1e} last_loss={:.4} threads={THREADS}",
            ours / eager.max(compile),
            ours / eager,
            peaks[0],
            peaks[1],
            peaks[2],
            losses[0][losses[0].len() - 1],
        );
        drop(sides);
        let found = ask(&mut torch("gradient"), "compare");
        let [angle, distance] = ["oneMinusCos", "relL2"].map(|name| found[name].as_f64().expect("a number"));
        println!(
            "BENCH engine.grad model={name} one_minus_cos={angle:.1e} rel_l2={distance:.1e} worst={}",
            found["worst"]
        );
        assert!(losses.iter().all(|side| side.len() == steps * (ROUNDS + 1)) && apart <= APART, "{name}: losses");
        assert!(angle <= GRADIENT.0 && distance <= GRADIENT.1, "{name}: gradient");
        assert!(peaks[0] <= peaks[1].min(peaks[2]), "{name}: memory");
    }
}
