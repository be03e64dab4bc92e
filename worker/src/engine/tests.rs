//! The whole engine against candle's autograd, against finite differences and against itself.

use bistro_api::run::{Model, Preset, Training};
use bistro_protocol::tensors::Tensors;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Engine, Error, Optimizer, Work, device::tests::oracle};

pub(super) fn preset(preset: Preset) -> Model {
    Model { preset: Some(preset), config: None }
}

/// Grouped queries, heads that do not fill the width, an odd vocabulary.
pub(super) fn grouped() -> Model {
    let config = json!({
        "model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 61, "rms_norm_eps": 1e-5,
    });
    Model { preset: None, config: Some(config) }
}

/// The other family, with a head of its own and with a tied one.
pub(super) fn gpt2(tied: bool) -> Model {
    let config = json!({
        "model_type": "gpt2", "n_embd": 24, "n_inner": 40, "n_layer": 2, "n_head": 3, "vocab_size": 61,
        "n_positions": 160, "tie_word_embeddings": tied,
    });
    Model { preset: None, config: Some(config) }
}

/// Grouped queries, a tied head, and parameters enough for threads to share each operation.
pub(super) fn shared() -> Model {
    let config = json!({
        "model_type": "llama", "hidden_size": 192, "intermediate_size": 1000, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 3, "vocab_size": 1009, "tie_word_embeddings": true,
    });
    Model { preset: None, config: Some(config) }
}

/// As [`shared`], of the other family.
pub(super) fn shared_gpt2() -> Model {
    let config = json!({
        "model_type": "gpt2", "n_embd": 192, "n_layer": 4, "n_head": 6, "vocab_size": 2003, "n_positions": 256,
    });
    Model { preset: None, config: Some(config) }
}

/// Sequences with some structure, the same on every run.
pub(super) fn sequences(n: usize, length: usize, vocabulary: u32) -> Vec<Vec<u32>> {
    let token = |s: usize, t: usize| ((s * 31 + t * t * 7 + t / 3) as u32).wrapping_mul(2_654_435_761) % vocabulary;
    (0..n).map(|s| (0..=length).map(|t| token(s, t)).collect()).collect()
}

/// First parameters with norms moved away from 1 and larger embeddings, so that no gradient is tiny.
pub(super) fn parameters(engine: &Engine) -> Tensors {
    let mut i = 0u32;
    engine.initial(7).expect("initial").map(|x| {
        i = i.wrapping_add(1);
        let wobble = (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 - 0.5;
        if x == 1.0 { 1.0 + 0.5 * wobble } else { x + 0.02 * wobble }
    })
}

pub(super) fn training(batch: u32, steps: u32) -> Training {
    let value = json!({"learningRate": "3e-3", "batchSequences": batch, "innerSteps": steps});
    serde_json::from_value(value).expect("well formed")
}

pub(super) fn train(
    engine: &mut Engine,
    base: &Tensors,
    sequences: &[Vec<u32>],
    training: &Training,
    optimizer: &mut Optimizer,
) -> super::Trained {
    let work = Work { base, sequences, training, windows: 0 };
    engine.train(&work, optimizer, &CancellationToken::new(), |_| ()).expect("trains")
}

/// 1 - cos and relative distance of two vectors.
pub(super) fn difference(a: &[f32], b: &[f32]) -> (f64, f64) {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let minus: Vec<f32> = a.iter().zip(b).map(|(x, y)| x - y).collect();
    (1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(), (dot(&minus, &minus) / dot(b, b)).sqrt())
}

#[test]
fn every_gradient_equals_candle_s_in_double_precision() {
    let models = [
        (preset(Preset::Test), 80, 3),
        (grouped(), 150, 2),
        (preset(Preset::Tiny), 40, 2),
        (gpt2(true), 150, 2),
        (gpt2(false), 70, 3),
        (shared(), 90, 12),
        (shared_gpt2(), 130, 9),
    ];
    for (model, length, n) in models {
        let mut engine = Engine::new(&model, 61, length, 2).expect("fits");
        let parameters = parameters(&engine);
        let sequences = sequences(n, length as usize, 61);
        let (loss, gradient) = engine.gradient(&parameters, &sequences).expect("computes");
        let (wanted_loss, wanted) = oracle(engine.config(), &parameters, &sequences);
        assert!((loss - wanted_loss).abs() < 1e-6 * wanted_loss, "loss {loss} instead of {wanted_loss}");
        assert!(gradient.same_schema(&wanted));
        for (ours, theirs) in gradient.iter().zip(&wanted) {
            assert!(ours.data.iter().all(|x| x.is_finite()), "{}", ours.name);
            assert!(ours.data.iter().any(|x| *x != 0.0), "{} gets no gradient", ours.name);
            let (angle, distance) = difference(&ours.data, &theirs.data);
            assert!(angle < 1e-10 && distance < 1e-5, "{}: 1 - cos {angle:e}, distance {distance:e}", ours.name);
        }
        assert!((engine.loss(&parameters, &sequences).expect("computes") - loss).abs() < 1e-12);
    }
}

/// Along the gradient of one tensor the loss changes by its squared norm: independent of any autograd.
#[test]
fn every_gradient_equals_central_differences() {
    for model in [grouped(), gpt2(true)] {
        compare_with_central_differences(&model);
    }
}

fn compare_with_central_differences(model: &Model) {
    let mut engine = Engine::new(model, 61, 24, 1).expect("fits");
    let parameters = parameters(&engine);
    let sequences = sequences(2, 24, 61);
    let (_, gradient) = engine.gradient(&parameters, &sequences).expect("computes");
    for tensor in &gradient {
        let norm = Tensors::new(vec![tensor.clone()]).expect("one tensor").norm();
        let mut at = |step: f64| {
            let mut moved = parameters.clone();
            for (name, data) in parameters.iter().map(|t| &t.name).zip(moved.data_mut()) {
                if *name == tensor.name {
                    data.iter_mut().zip(&tensor.data).for_each(|(x, g)| *x += (step / norm * f64::from(*g)) as f32);
                }
            }
            engine.loss(&moved, &sequences).expect("computes")
        };
        let mut slope = |step: f64| (at(step) - at(-step)) / (2.0 * step);
        // Richardson's extrapolation removes the third derivative, which is large for the embedding.
        let measured = (4.0 * slope(5e-3) - slope(1e-2)) / 3.0;
        assert!((measured / norm - 1.0).abs() < 5e-3, "{}: {measured} instead of {norm}", tensor.name);
    }
}

#[test]
fn an_untrained_model_is_as_good_as_guessing() {
    for kind in [Preset::Test, Preset::Tiny] {
        let mut engine = Engine::new(&preset(kind), 256, 64, 1).expect("fits");
        let base = engine.initial(42).expect("initial");
        let loss = engine.loss(&base, &sequences(4, 64, 256)).expect("computes");
        assert!((loss - 256f64.ln()).abs() < 0.3, "{loss}");
    }
}

#[test]
fn training_learns_a_text_by_heart() {
    let text = b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of ";
    let mut engine = Engine::new(&preset(Preset::Test), 256, 64, 1).expect("fits");
    let base = engine.initial(1).expect("initial");
    let sequences: Vec<Vec<u32>> =
        (0..4).map(|i| text[8 * i..8 * i + 65].iter().map(|b| u32::from(*b)).collect()).collect();
    let steps: Vec<Vec<u32>> = (0..150).flat_map(|_| sequences.clone()).collect();
    let mut optimizer = Optimizer::fresh();
    let trained = train(&mut engine, &base, &steps, &training(4, 150), &mut optimizer);
    assert_eq!((trained.tokens, optimizer.steps()), (4 * 64 * 150, 150));
    let loss = engine.loss(&trained.parameters, &sequences).expect("computes");
    assert!(loss < 0.1, "{loss}");
}

#[test]
fn neither_threads_nor_recomputation_change_a_bit() {
    for (model, vocabulary) in [(preset(Preset::Test), 256), (shared(), 1009), (shared_gpt2(), 2003)] {
        let sequences = sequences(7, 256, vocabulary);
        let outcome = |mut engine: Engine| {
            let base = engine.initial(3).expect("initial");
            let (loss, gradient) = engine.gradient(&base, &sequences).expect("computes");
            let only_loss = engine.loss(&base, &sequences).expect("computes");
            let mut optimizer = Optimizer::fresh();
            let trained = train(&mut engine, &base, &sequences[..6], &training(3, 2), &mut optimizer);
            let digests = [gradient.digest(), trained.parameters.digest()];
            ([loss, only_loss, trained.loss].map(f64::to_bits), digests, optimizer)
        };
        let engine = |threads| Engine::new(&model, vocabulary, 256, threads).expect("fits");
        let one = outcome(engine(1));
        assert_eq!(one, outcome(engine(1)));
        assert_eq!(one, outcome(engine(2)));
        assert_eq!(one, outcome(engine(3)));
        assert_eq!(one, outcome(Engine::recomputing(&model, vocabulary, 256, 2).expect("fits")));
    }
}

/// Logits after some tokens are what the loss is made of, and do not depend on what follows.
#[test]
fn logits_give_the_loss() {
    for model in [grouped(), gpt2(true)] {
        let mut engine = Engine::new(&model, 61, 24, 1).expect("fits");
        let parameters = parameters(&engine);
        let sequence = sequences(1, 24, 61).remove(0);
        let logits = engine.logits(&parameters, &sequence[..24]).expect("computes");
        let losses = logits.chunks(61).zip(&sequence[1..]).map(|(row, target)| {
            let sum: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
            sum.ln() - f64::from(row[*target as usize])
        });
        let loss = engine.loss(&parameters, std::slice::from_ref(&sequence)).expect("computes");
        assert!((losses.sum::<f64>() / 24.0 - loss).abs() < 1e-5);
        let few = engine.logits(&parameters, &sequence[..5]).expect("computes");
        assert!(few.len() == 5 * 61 && few.iter().zip(&logits).all(|(a, b)| (a - b).abs() < 1e-5));
        assert!(engine.logits(&parameters, &[]).is_err() && engine.logits(&parameters, &[61]).is_err());
    }
}

/// A text in pieces gives what it gives at once; whatever was computed in between, and from the beginning again.
#[test]
fn a_continued_text_is_the_text() {
    let small = [(grouped(), 61, 24), (gpt2(true), 61, 24)];
    for (model, vocabulary, length) in small.into_iter().chain([(shared(), 1009, 200), (shared_gpt2(), 2003, 200)]) {
        let mut engine = Engine::new(&model, vocabulary, length as u32, 2).expect("fits");
        let parameters = parameters(&engine);
        let text = &sequences(1, length, vocabulary)[0][..length];
        let wanted = engine.logits(&parameters, text).expect("computes");
        let wanted: Vec<&[f32]> = wanted.chunks(vocabulary as usize).collect();
        let mut continuation = engine.begin(&parameters).expect("fits");
        for pieces in [&[5, 1, 1, length - 8, 1][..], &[length], &[1, length - 1]] {
            let mut seen = 0;
            for piece in pieces {
                let logits = continuation.push(&text[seen..seen + piece]).expect("there is room");
                seen += piece;
                let (_, apart) = difference(&logits, wanted[seen - 1]);
                assert!(apart < 1e-5, "{pieces:?} after {seen}: {apart}");
            }
            assert!(continuation.room() == 0 && continuation.push(&[0]).is_err());
            continuation.restart();
        }
        assert!(continuation.push(&[]).is_err() && continuation.push(&[vocabulary]).is_err());
    }
}

#[test]
fn the_mean_over_many_sequences_is_the_mean_of_the_parts() {
    let mut engine = Engine::new(&preset(Preset::Test), 256, 128, 1).expect("fits");
    let base = engine.initial(3).expect("initial");
    let all = sequences(10, 128, 256);
    let (loss, gradient) = engine.gradient(&base, &all).expect("computes");
    let parts: Vec<_> = all.chunks(2).map(|part| engine.gradient(&base, part).expect("computes")).collect();
    assert!((loss - parts.iter().map(|p| p.0).sum::<f64>() / 5.0).abs() < 1e-6);
    for (i, tensor) in gradient.iter().enumerate() {
        let mean: Vec<f32> = (0..tensor.data.len())
            .map(|j| parts.iter().map(|p| p.1.iter().nth(i).expect("same schema").data[j]).sum::<f32>() / 5.0)
            .collect();
        assert!(difference(&tensor.data, &mean).1 < 1e-5, "{}", tensor.name);
    }
}

/// After each step, and with another number of threads.
#[test]
fn training_that_is_resumed_at_any_step_changes_no_bit() {
    const STEPS: usize = 4;
    for (model, vocabulary) in [(preset(Preset::Test), 256), (shared(), 1009), (shared_gpt2(), 2003)] {
        let engine = |threads| Engine::new(&model, vocabulary, 32, threads).expect("fits");
        let (mut before, mut after) = (engine(1), engine(2));
        let base = before.initial(5).expect("initial");
        let all = sequences(2 * STEPS, 32, vocabulary);
        let mut whole = Optimizer::fresh();
        let at_once = train(&mut before, &base, &all, &training(2, STEPS as u32), &mut whole);
        for done in 1..STEPS {
            let (first, rest) = all.split_at(2 * done);
            let mut optimizer = Optimizer::fresh();
            let stopped = train(&mut before, &base, first, &training(2, done as u32), &mut optimizer);
            let mut optimizer = Optimizer::from_bytes(&optimizer.into_bytes().expect("saves")).expect("loads");
            let rest =
                train(&mut after, &stopped.parameters, rest, &training(2, (STEPS - done) as u32), &mut optimizer);
            assert_eq!(rest.parameters.digest(), at_once.parameters.digest(), "after {done} steps");
            assert_eq!(optimizer, whole, "after {done} steps");
        }
    }
}

#[test]
fn fresh_moments_ignore_the_past() {
    let mut engine = Engine::new(&preset(Preset::Test), 256, 32, 1).expect("fits");
    let base = engine.initial(5).expect("initial");
    let all = sequences(2, 32, 256);
    let mut training = training(2, 1);
    let mut used = Optimizer::fresh();
    let first = train(&mut engine, &base, &all, &training, &mut used);
    let kept = train(&mut engine, &base, &all, &training, &mut used.clone());
    training.inner_optimizer = bistro_api::run::InnerOptimizer::Fresh;
    let fresh = train(&mut engine, &base, &all, &training, &mut used);
    assert_eq!(fresh, first);
    assert_ne!(fresh, kept);
}

#[test]
fn a_cancelled_window_leaves_the_moments_alone() {
    let mut engine = Engine::new(&preset(Preset::Test), 256, 32, 1).expect("fits");
    let base = engine.initial(5).expect("initial");
    let (all, training, cancelled) = (sequences(8, 32, 256), training(2, 4), CancellationToken::new());
    let mut optimizer = Optimizer::fresh();
    let mut seen = Vec::new();
    let work = Work { base: &base, sequences: &all, training: &training, windows: 0 };
    let outcome = engine.train(&work, &mut optimizer, &cancelled, |step| {
        seen.push(step.number);
        if step.number == 2 {
            cancelled.cancel();
        }
    });
    assert!(matches!(outcome, Err(Error::Cancelled)));
    assert_eq!((seen, optimizer), (vec![1, 2], Optimizer::fresh()));
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut engine = Engine::new(&preset(Preset::Test), 256, 8, 1).expect("fits");
    let base = engine.initial(5).expect("initial");
    let good = sequences(1, 8, 256);
    let error = |result: Result<(f64, Tensors), Error>| result.expect_err("does not fit").to_string();
    assert_eq!(error(engine.gradient(&base, &[])), "got 0 sequences but training needs 1");
    assert_eq!(
        error(engine.gradient(&base, &[good[0].clone(), vec![0; 8]])),
        "sequence 1 does not fit: needs 9 tokens below 256"
    );
    assert_eq!(error(engine.gradient(&base, &[vec![256; 9]])), "sequence 0 does not fit: needs 9 tokens below 256");
    assert!(error(engine.gradient(&Tensors::default(), &good)).starts_with("tensors do not fit the model"));

    let mut broken = base.clone();
    broken.data_mut().nth(3).expect("tensors")[5] = f32::INFINITY;
    let name = base.iter().nth(3).expect("tensors").name.clone();
    assert_eq!(error(engine.gradient(&broken, &good)), format!("parameter of {name:?} is not finite"));
    assert!(engine.loss(&broken, &good).is_err());
}
