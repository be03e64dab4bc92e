//! The device's way against the engine's own kernels, on candle's CPU: what a GPU is not needed for.

use bistro_api::run::{InnerOptimizer, Model, Preset};
use bistro_protocol::tensors::{Tensor, Tensors};
use candle_core::{DType, Device};
use tokio_util::sync::CancellationToken;

use super::{Backend, Choice, Place, Precision, Units, download, graph::Graph, pass, pass::Leaves, tokens};
use crate::engine::{
    Config, Engine, Error, Optimizer, Session, Work,
    tests::{difference, gpt2, grouped, parameters, preset, sequences, shared, shared_gpt2, training},
};

/// Mean loss in nats per token and its gradient, in double precision.
pub fn oracle(config: &Config, parameters: &Tensors, sequences: &[Vec<u32>]) -> (f64, Tensors) {
    let (device, count) = (Device::Cpu, tokens(sequences));
    let graph = Graph::new(config.clone(), sequences[0].len() - 1, DType::F64, &device).expect("tables");
    let leaves = Leaves::new(parameters, DType::F64, &device).expect("uploads");
    let units = Units { sequences: sequences.len(), kept: true };
    let (sums, gradient) = pass::gradient(&graph, &leaves, sequences, 1.0 / count, units, &device).expect("computes");
    let sum: f64 = sums.iter().map(|sum| sum.to_scalar::<f64>().expect("a scalar")).sum();
    (sum / count, Tensors::new(download(leaves.names(), &gradient).expect("downloads")).expect("a set"))
}

fn place(precision: Precision) -> Place {
    Place::test(Device::Cpu, precision)
}

/// An engine with its own kernels and one on the device, of the same model.
fn both(model: &Model, length: u32, place: &Place, units: Option<Units>) -> (Engine, Engine) {
    let engine = || Engine::new(model, 61, length, 1).expect("fits");
    let mut device = engine().on(Some(place)).expect("fits");
    if let Some(units) = units {
        let backend = Backend::with(place, device.config(), length as usize, units);
        device.device = Some(backend.expect("fits"));
    }
    (engine(), device)
}

/// Largest distance of a tensor relative to its norm.
fn distance(ours: &Tensors, theirs: &Tensors) -> f64 {
    assert!(ours.same_schema(theirs));
    ours.iter().zip(theirs).map(|(a, b)| difference(&a.data, &b.data).1).fold(0.0, f64::max)
}

/// What [`against_the_engine`] measures and [`gradients`] prints.
#[derive(Debug)]
struct Deviation {
    loss: f64,
    gradient: f64,
}

/// Loss and gradient on `place` beside the engine's own kernels.
fn against_the_engine(model: &Model, length: u32, n: usize, place: &Place, units: Option<Units>) -> Deviation {
    let (mut engine, mut device) = both(model, length, place, units);
    let (parameters, sequences) = (parameters(&engine), sequences(n, length as usize, 61));
    let (wanted, wanted_gradient) = engine.gradient(&parameters, &sequences).expect("computes");
    let (loss, gradient) = device.gradient(&parameters, &sequences).expect("computes");
    assert!(gradient.iter().all(|t| t.data.iter().any(|x| *x != 0.0)), "a tensor gets no gradient");
    let alone = device.loss(&parameters, &sequences).expect("computes");
    assert!((alone - loss).abs() < 1e-6 * loss, "{alone} alone, {loss} with the gradient");
    Deviation { loss: (loss / wanted - 1.0).abs(), gradient: distance(&gradient, &wanted_gradient) }
}

/// Llama: grouped, tied and of threads that share; GPT-2: with a head of its own and with a tied one.
fn models() -> [(&'static str, Model, u32, usize); 7] {
    [
        ("test", preset(Preset::Test), 80, 3),
        ("grouped", grouped(), 150, 2),
        ("tiny", preset(Preset::Tiny), 40, 2),
        ("gpt2-tied", gpt2(true), 150, 2),
        ("gpt2", gpt2(false), 70, 3),
        ("shared", shared(), 90, 3),
        ("shared-gpt2", shared_gpt2(), 130, 2),
    ]
}

fn gradients(place: &Place, bound: f64) {
    for (name, model, length, n) in models() {
        let Deviation { loss, gradient } = against_the_engine(&model, length, n, place, None);
        println!("{place}: model={name} loss={loss:.1e} gradient={gradient:.1e}");
        assert!(loss < 1e-6 && gradient < bound, "{name}: loss {loss:e}, gradient {gradient:e}");
    }
}

#[test]
fn loss_and_gradients_are_those_of_the_engine() {
    gradients(&place(Precision::F32), 1e-5);
}

#[test]
fn neither_units_nor_recomputation_change_the_gradient() {
    for model in [grouped(), gpt2(true)] {
        for units in [(1, true), (2, false), (5, false)] {
            let units = Units { sequences: units.0, kept: units.1 };
            let found = against_the_engine(&model, 24, 5, &place(Precision::F32), Some(units));
            assert!(found.loss < 1e-6 && found.gradient < 1e-5, "{units:?}: {found:?}");
        }
    }
}

#[test]
fn units_fit_their_bound() {
    let config = |model: &Model| Config::new(model, 61, 128).expect("sound");
    let tiny = Units::new(&config(&preset(Preset::Tiny)), 128);
    assert!(tiny.kept && tiny.sequences * 128 >= 4096, "{tiny:?}");
    let large = Units::new(&config(&Model { preset: Some(Preset::Llama1b), config: None }), 2048);
    assert!(!large.kept && large.sequences >= 1, "{large:?}");
}

#[test]
fn logits_are_those_of_the_engine() {
    for model in [grouped(), gpt2(true), gpt2(false)] {
        let (mut engine, mut device) = both(&model, 24, &place(Precision::F32), None);
        let parameters = parameters(&engine);
        for n in [1, 7, 24] {
            let tokens = &sequences(1, 24, 61)[0][..n];
            let wanted = engine.logits(&parameters, tokens).expect("computes");
            let found = device.logits(&parameters, tokens).expect("computes");
            let (_, distance) = difference(&found, &wanted);
            assert!(found.len() == wanted.len() && distance < 1e-5, "{distance:e}");
        }
    }
}

fn steps(engine: &mut Engine, base: &Tensors, all: &[Vec<u32>], inner: InnerOptimizer) -> (f64, Tensors, Optimizer) {
    let mut training = training(2, all.len() as u32 / 2);
    training.inner_optimizer = inner;
    let mut optimizer = Optimizer::fresh();
    let work = Work { base, sequences: all, training: &training, windows: 0 };
    let trained = engine.train(&work, &mut optimizer, &CancellationToken::new(), |_| ()).expect("trains");
    (trained.loss, trained.parameters, optimizer)
}

/// All entries of `to - from`.
fn moved(to: &Tensors, from: &Tensors) -> Vec<f32> {
    let minus = |(a, b): (&Tensor, &Tensor)| a.data.iter().zip(&b.data).map(|(a, b)| a - b).collect::<Vec<_>>();
    to.iter().zip(from).flat_map(minus).collect()
}

fn trains(place: &Place) {
    for model in [grouped(), gpt2(true)] {
        let (mut engine, mut device) = both(&model, 32, place, None);
        let (base, all) = (parameters(&engine), sequences(12, 32, 61));
        let (wanted_loss, wanted, wanted_moments) = steps(&mut engine, &base, &all, InnerOptimizer::Kept);
        let (loss, parameters, moments) = steps(&mut device, &base, &all, InnerOptimizer::Kept);
        assert!((loss / wanted_loss - 1.0).abs() < 1e-5, "{loss} instead of {wanted_loss}");
        // AdamW divides by roots: an entry whose gradient is nearly nothing may move either way.
        let (angle, _) = difference(&moved(&parameters, &base), &moved(&wanted, &base));
        assert!(angle < 1e-5 && distance(&parameters, &wanted) < 1e-3, "1 - cos {angle:e} of what was learned");
        assert_eq!(moments.steps(), wanted_moments.steps());
        assert!(distance(&moments.m, &wanted_moments.m) < 1e-3, "{:e}", distance(&moments.m, &wanted_moments.m));
        assert!(distance(&moments.v, &wanted_moments.v) < 1e-3, "{:e}", distance(&moments.v, &wanted_moments.v));
    }
}

/// Six steps with clipping and decay: the same losses, and local parameters that moved the same way.
#[test]
fn training_is_that_of_the_engine() {
    trains(&place(Precision::F32));
}

#[test]
fn one_step_differs_by_no_more_than_its_gradient() {
    let (mut engine, mut device) = both(&grouped(), 32, &place(Precision::F32), None);
    let (base, all) = (parameters(&engine), sequences(2, 32, 61));
    let training = training(2, 1);
    let optimizer = Optimizer::fresh();
    let mut ours = Session::new(&mut device, &base, &optimizer, &training, 0).expect("fits");
    let mut theirs = Session::new(&mut engine, &base, &optimizer, &training, 0).expect("fits");
    let ((loss, norm), (wanted_loss, wanted_norm)) =
        (ours.step(&all).expect("steps"), theirs.step(&all).expect("steps"));
    assert!((loss / wanted_loss - 1.0).abs() < 1e-6 && (norm / wanted_norm - 1.0).abs() < 1e-5);
    let ((_, ours), (_, theirs)) = (ours.finish().expect("finishes"), theirs.finish().expect("finishes"));
    assert!(distance(&ours.m, &theirs.m) < 1e-5 && distance(&ours.v, &theirs.v) < 2e-5);
}

/// Saved in the middle, in the format of the CPU, training ends with the same bits.
#[test]
fn moments_saved_and_loaded_in_the_middle_change_no_bit() {
    let (_, mut device) = both(&gpt2(true), 32, &place(Precision::F32), None);
    let (base, all) = (parameters(&device), sequences(12, 32, 61));
    let (_, at_once, whole) = steps(&mut device, &base, &all, InnerOptimizer::Kept);
    let (_, half, moments) = steps(&mut device, &base, &all[..6], InnerOptimizer::Kept);
    let mut moments = Optimizer::from_bytes(&moments.into_bytes().expect("saves")).expect("loads");
    let training = training(2, 3);
    let work = Work { base: &half, sequences: &all[6..], training: &training, windows: 0 };
    let rest = device.train(&work, &mut moments, &CancellationToken::new(), |_| ()).expect("trains");
    assert_eq!((rest.parameters.digest(), moments), (at_once.digest(), whole));
}

/// bf16 changes products in training by its rounding, nothing that is scored, and nothing that a validator may compute again.
#[test]
fn bf16_is_for_training_alone() {
    rounds(place);
}

fn rounds(place: impl Fn(Precision) -> Place) {
    for model in [grouped(), gpt2(true)] {
        let (mut exact, mut rounded) =
            (both(&model, 32, &place(Precision::F32), None).1, both(&model, 32, &place(Precision::Bf16), None).1);
        let (base, all) = (parameters(&exact), sequences(4, 32, 61));
        let (loss, gradient) = exact.gradient(&base, &all).expect("computes");
        let (same_loss, same) = rounded.gradient(&base, &all).expect("computes");
        assert_eq!((loss.to_bits(), gradient.digest()), (same_loss.to_bits(), same.digest()));
        assert_eq!(exact.loss(&base, &all).expect("computes"), rounded.loss(&base, &all).expect("computes"));

        let fresh = |engine: &mut Engine| steps(engine, &base, &all, InnerOptimizer::Fresh).1.digest();
        assert_eq!(fresh(&mut exact), fresh(&mut rounded));

        let kept = |engine: &mut Engine| steps(engine, &base, &all[..2], InnerOptimizer::Kept);
        let ((loss, _, wanted), (rounded_loss, _, found)) = (kept(&mut exact), kept(&mut rounded));
        let (off, moved) = ((rounded_loss / loss - 1.0).abs(), distance(&found.m, &wanted.m));
        println!("bf16: loss {off:.1e} first-moments {moved:.1e}");
        assert!(off < 1e-2 && moved > 1e-4 && moved < 5e-2, "loss {off:e}, first moments {moved:e}");
    }
}

#[test]
fn what_does_not_fit_is_an_error_on_a_device_too() {
    let (_, mut device) = both(&grouped(), 8, &place(Precision::F32), None);
    let (base, good) = (parameters(&device), sequences(2, 8, 61));
    let error = |result: Result<(f64, Tensors), Error>| result.expect_err("does not fit").to_string();
    assert!(error(device.gradient(&Tensors::default(), &good)).starts_with("tensors do not fit the model"));
    assert!(error(device.gradient(&base, &[])).starts_with("got 0 sequences"));
    let mut broken = base.clone();
    broken.data_mut().nth(3).expect("tensors")[5] = f32::NAN;
    let named = format!("parameter of {:?} is not finite", base.iter().nth(3).expect("tensors").name);
    assert_eq!(error(device.gradient(&broken, &good)), named);
    assert_eq!(device.loss(&broken, &good).expect_err("not finite").to_string(), named);
    let optimizer = Optimizer::fresh();
    let training = training(2, 1);
    let mut session = Session::new(&mut device, &broken, &optimizer, &training, 0).expect("fits");
    assert_eq!(session.step(&good).expect_err("not finite").to_string(), named);
    assert!(Session::new(&mut device, &Tensors::default(), &optimizer, &training, 0).is_err());
}

#[test]
fn devices_and_precisions_are_read() {
    let choices =
        [("auto", Choice::Auto), ("cpu", Choice::Cpu), ("cuda", Choice::Cuda(0)), ("cuda:3", Choice::Cuda(3))];
    for (text, choice) in choices {
        assert_eq!(text.parse(), Ok(choice));
    }
    for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:70000", "CUDA", "cpu:0"] {
        assert!(text.parse::<Choice>().is_err(), "{text}");
    }
    assert_eq!(("f32".parse(), "bf16".parse()), (Ok(Precision::F32), Ok(Precision::Bf16)));
    assert!("fp16".parse::<Precision>().is_err());
}

#[test]
fn the_cpu_needs_no_device_and_trains_in_f32() {
    assert!(Place::find(Choice::Cpu, Precision::F32).expect("always there").is_none());
    let error = Place::find(Choice::Cpu, Precision::Bf16).expect_err("no bf16").to_string();
    assert_eq!(error, "the CPU: trains in f32 only: leave BISTRO_PRECISION out");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_program_without_cuda_says_what_to_do() {
    assert!(Place::find(Choice::Auto, Precision::F32).expect("the CPU").is_none());
    let error = Place::find(Choice::Cuda(1), Precision::F32).expect_err("not built for it").to_string();
    assert_eq!(
        error,
        "cuda:1: this program was built without CUDA: take the CUDA image (make build-cuda), or BISTRO_DEVICE=cpu"
    );
}

/// What only a GPU can show; each says so where none answers.
#[cfg(feature = "cuda")]
mod on_a_gpu {
    use std::time::Instant;

    use super::*;

    fn gpu(precision: Precision) -> Option<Place> {
        let place = Place::find(Choice::Auto, Precision::F32).expect("a GPU that is there computes");
        if place.is_none() {
            eprintln!("!!! NO GPU ANSWERS: NOTHING WAS CHECKED HERE");
        }
        place.map(|place| Place::test(place.device().clone(), precision))
    }

    #[test]
    fn loss_and_gradients_are_those_of_the_engine() {
        gpu(Precision::F32).inspect(|place| gradients(place, 2e-5));
    }

    #[test]
    fn training_is_that_of_the_engine() {
        gpu(Precision::F32).inspect(trains);
    }

    #[test]
    fn bf16_is_for_training_alone() {
        gpu(Precision::F32).inspect(|place| rounds(|precision| Place::test(place.device().clone(), precision)));
    }

    #[test]
    fn the_same_work_gives_the_same_bits() {
        let Some(place) = gpu(Precision::F32) else { return };
        let (_, mut device) = both(&shared_gpt2(), 130, &place, None);
        let (base, all) = (parameters(&device), sequences(8, 130, 61));
        let mut once = || steps(&mut device, &base, &all, InnerOptimizer::Kept);
        assert_eq!(once(), once());
    }

    #[test]
    #[ignore = "a benchmark: make bench-cuda"]
    fn bench_cuda() {
        let models = [
            ("small", Preset::Small, 256, 64),
            ("gpt2", Preset::Gpt2, 1024, 16),
            ("llama-1b", Preset::Llama1b, 1024, 8),
        ];
        for (precision, label) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
            for (name, model, length, batch) in &models {
                let Some(place) = gpu(precision) else { return };
                let mut engine =
                    Engine::new(&preset(*model), 256, *length, 1).and_then(|e| e.on(Some(&place))).expect("fits");
                let (base, optimizer) = (engine.initial(1).expect("initial"), Optimizer::fresh());
                let (all, training) = (sequences(*batch, *length as usize, 256), training(*batch as u32, 1));
                let mut session = Session::new(&mut engine, &base, &optimizer, &training, 0).expect("fits");
                let mut step = || session.step(&all).expect("steps");
                step();
                let start = Instant::now();
                let last = (0..5).map(|_| step().0).last().expect("five");
                let rate = 5.0 * *batch as f64 * f64::from(*length) / start.elapsed().as_secs_f64();
                println!("BENCH cuda model={name} precision={label} tokens_per_second={rate:.0} loss={last:.3}");
            }
        }
    }
}
