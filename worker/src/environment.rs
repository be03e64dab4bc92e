//! The pod contract, read once at the edge: variables, folders, and the settings file.

use std::{path::PathBuf, str::FromStr};

use bistro_api::{
    Decimal, Run, Settings,
    digest::run_digest,
    mechanism::Averaging,
    run::{From, InnerOptimizer, MergeRule},
    settings::StartFrom,
};
use bistro_protocol::{clock::Clock, mechanism::Mechanism};

use crate::{
    engine::{Choice, Precision, Recipe},
    failure::Failure,
    files,
};

/// Largest settings file; a free-form model configuration has a few kilobytes.
const MAX_SETTINGS: u64 = 1 << 20;

/// What the pod says; see the table in `bistro-worker --help`.
#[derive(Clone, Debug)]
pub struct Environment {
    /// BISTRO_SETTINGS: the settings file.
    pub settings: PathBuf,
    /// BISTRO_SECRETS: folders `wallet` and `bucket`.
    pub secrets: PathBuf,
    /// BISTRO_STATE: the one folder that outlives the process.
    pub state: PathBuf,
    /// BISTRO_HTTP: address of `/metrics`, `/status`, `/healthz` and `/readyz`.
    pub http: String,
    /// BISTRO_THREADS: size of every thread pool.
    pub threads: usize,
    /// BISTRO_DEVICE: where the engine computes.
    pub device: Choice,
    /// BISTRO_PRECISION: of products while training on a GPU.
    pub precision: Precision,
    /// BISTRO_RECOMPUTE: whether activations are computed again for the backward pass instead of being kept; `None` where
    /// the memory of the container decides.
    pub recompute: Option<bool>,
    /// BISTRO_ORDINAL: which replica this is; it signs with hotkey number so.
    pub ordinal: u32,
}

impl Environment {
    /// Reads the variables; a wrong one is named.
    pub fn from_variables() -> Result<Self, Failure> {
        Ok(Self {
            settings: text("BISTRO_SETTINGS", "/etc/bistro/settings.yaml").into(),
            secrets: text("BISTRO_SECRETS", "/run/bistro/secrets").into(),
            state: text("BISTRO_STATE", "/var/lib/bistro").into(),
            http: text("BISTRO_HTTP", "0.0.0.0:8080"),
            threads: threads()?,
            device: word("BISTRO_DEVICE")?,
            precision: word("BISTRO_PRECISION")?,
            recompute: switch("BISTRO_RECOMPUTE")?,
            ordinal: number("BISTRO_ORDINAL", 0)?,
        })
    }

    /// Reads and checks the settings file.
    pub fn read_settings(&self) -> Result<Settings, Failure> {
        let path = self.settings.display();
        let bytes = files::read_bounded(&self.settings, MAX_SETTINGS).map_err(Failure::permanent)?;
        let bytes = bytes.ok_or_else(|| Failure::Permanent(format!("{path} does not exist: set BISTRO_SETTINGS")))?;
        parse(&bytes).map_err(|line| Failure::Permanent(format!("{path}: {line}")))
    }
}

/// The content of a settings file, checked; else one line that says what is wrong with it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Settings, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    // Nobody writes settings with aliases, and a few bytes of them can stand for a million values.
    let options = serde_yaml::options! { alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: 0 } };
    let settings: Settings = serde_yaml::from_str_with_options(text, options).map_err(|e| crate::failure::chain(&e))?;
    check(&settings)?;
    Ok(settings)
}

/// What a schema cannot say, or what a file written by hand may get wrong.
fn check(settings: &Settings) -> Result<(), String> {
    let Settings { run, chain, scoring, .. } = settings;
    Clock::new(&run.schedule).map_err(|e| e.to_string())?;
    let sequences = u64::from(run.dataset.pages_per_window) * u64::from(run.dataset.page_sequences);
    let steps = u64::from(run.training.batch_sequences) * u64::from(run.training.inner_steps);
    if sequences != steps || sequences == 0 {
        return Err(format!(
            "run: pagesPerWindow * pageSequences is {sequences} and batchSequences * innerSteps is {steps}: make them equal"
        ));
    }
    check_mechanism(run)?;
    check_start(settings)?;
    let MergeRule { mean, trimmed_mean, median } = &run.merge.rule;
    if !exactly_one(&[mean.is_some(), trimmed_mean.is_some(), median.is_some()]) {
        return Err("run.merge.rule: name exactly one rule: mean, trimmedMean or median".into());
    }
    if trimmed_mean.as_ref().is_some_and(|t| !(0.0..0.5).contains(&t.fraction.value())) {
        return Err("run.merge.rule.trimmedMean.fraction: must be at least 0 and below 0.5".into());
    }
    let From { seed, run: earlier, checkpoint } = &run.from;
    if !exactly_one(&[seed.is_some(), earlier.is_some(), checkpoint.is_some()]) {
        return Err("run.from: name exactly one of seed, run, checkpoint".into());
    }
    if earlier.is_some_and(|earlier| earlier >= run.id) {
        return Err(format!("run.from.run: an earlier run has an id below {}", run.id));
    }
    if chain.endpoints.is_empty() {
        return Err("chain.endpoints: name at least one, for example ws://subtensor:9944".into());
    }
    let average = scoring.moving_average.value();
    if !(0.0..1.0).contains(&average) {
        return Err(format!("scoring.movingAverage: {average} is not in [0, 1): 0.9 is usual"));
    }
    if scoring.power.value() <= 0.0 {
        return Err("scoring.power: must be above 0; 3 is usual".into());
    }
    Ok(())
}

fn check_start(settings: &Settings) -> Result<(), String> {
    let StartFrom { base, best, hotkey, checkpoint } = &settings.start_from;
    if !exactly_one(&[base.is_some(), best.is_some(), hotkey.is_some(), checkpoint.is_some()]) {
        return Err("startFrom: name exactly one of base, best, hotkey, checkpoint".into());
    }
    if base.is_none() && settings.run.mechanism.loss_wins.is_none() {
        return Err("startFrom: this subnet has one base for all; remove it, or use the mechanism lossWins".into());
    }
    Ok(())
}

fn check_mechanism(run: &Run) -> Result<(), String> {
    let Some(mechanism) = Mechanism::of(&run.mechanism) else {
        return Err(
            "run.mechanism: name exactly one mechanism: cosine, gradientDifference, taylor, lossReduction or lossWins"
                .into(),
        );
    };
    Recipe::new(&run.training).map_err(|e| format!("run.{e}"))?;
    // In f32, where the outer step counts, it may round up to 1.
    if run.training.betas.iter().any(|beta| beta.value_f32() >= 1.0) {
        return Err("run.training.betas: must be below 1 also as 32-bit numbers: 0.9 and 0.95 are usual".into());
    }
    let factor = mechanism.factor(&run.training);
    if !(factor.is_finite() && factor > 0.0) {
        return Err(format!(
            "run.mechanism.{0}.gain and run.training.outerLearningRate: their product is {factor}: it must be above 0",
            mechanism.name()
        ));
    }
    check_compression(run, mechanism)?;
    match mechanism {
        Mechanism::Cosine(settings) if settings.residual_decay.value() != 0.0 => {
            Err("run.mechanism.cosine.residualDecay: only \"0\" works: progress that is not published is dropped"
                .into())
        }
        Mechanism::GradientDifference(_) if run.training.inner_steps != 1 => {
            Err("run.training.innerSteps: must be 1 with gradientDifference, which publishes the gradient of one step"
                .into())
        }
        Mechanism::GradientDifference(settings) if !above_zero(&settings.tolerance) => {
            Err("run.mechanism.gradientDifference.tolerance: must be above 0; 0.2 is usual".into())
        }
        Mechanism::Taylor(settings) if !(1..=2).contains(&settings.order) => {
            Err("run.mechanism.taylor.order: must be 1 or 2".into())
        }
        Mechanism::LossWins(settings) => {
            let (floor, epsilon) = (settings.floor.value(), settings.epsilon.value());
            match () {
                () if !above_zero(&settings.floor) => {
                    Err("run.mechanism.lossWins.floor: must be above 0; 0.001 is usual".into())
                }
                () if !(floor..1.0).contains(&epsilon) => {
                    Err("run.mechanism.lossWins.epsilon: must be at least floor and below 1; 0.005 is usual".into())
                }
                () if settings.test_pages == 0 || settings.decay_blocks == 0 => {
                    Err("run.mechanism.lossWins: testPages and decayBlocks must be at least 1".into())
                }
                () => Ok(()),
            }
        }
        Mechanism::LossReduction(settings) => {
            let Averaging { uniform, score_weighted, parameterized } = &settings.averaging;
            if !exactly_one(&[uniform.is_some(), score_weighted.is_some(), parameterized.is_some()]) {
                return Err(
                    "run.mechanism.lossReduction.averaging: name exactly one of uniform, scoreWeighted, parameterized"
                        .into(),
                );
            }
            if run.merge.rule.mean.is_none() {
                return Err(
                    "run.merge.rule: must be mean with lossReduction, whose averager weighs the work itself".into()
                );
            }
            if settings.test_pages == 0 {
                return Err("run.mechanism.lossReduction.testPages: must be at least 1".into());
            }
            match parameterized {
                Some(settings) if settings.steps == 0 || settings.sequences == 0 || !above_zero(&settings.rate) => Err(
                    "run.mechanism.lossReduction.averaging.parameterized: steps, sequences and rate must be above 0"
                        .into(),
                ),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// The rules of compressed work, as the API server has them.
fn check_compression(run: &Run, mechanism: Mechanism<'_>) -> Result<(), String> {
    if mechanism.compression().is_none() {
        return Ok(());
    }
    let field = format!("run.mechanism.{}", mechanism.name());
    let Some(top_k) = mechanism.top_k() else {
        return Err(format!("{field}.compression: name exactly one kind: topK"));
    };
    let decay = top_k.decay.value();
    match () {
        () if mechanism.slice_ratio() != 1 => Err(format!(
            "{field}.sliceRatio: must be 1 with compression, which picks by itself what is sent: set it to 1"
        )),
        () if !(1..=4096).contains(&top_k.k) => Err(format!("{field}.compression.topK.k: must be 1 to 4096")),
        () if !(0.0..=1.0).contains(&decay) => {
            Err(format!("{field}.compression.topK.decay: must be at least 0 and at most 1"))
        }
        () if run.training.inner_optimizer == InnerOptimizer::Fresh && decay != 0.0 => Err(format!(
            "{field}.compression.topK.decay: must be \"0\" with run.training.innerOptimizer fresh: an audit does the work of one window again, and nobody but the miner knows what it carried into it"
        )),
        () if run.merge.rule.mean.is_none() => Err(format!(
            "run.merge.rule: must be mean with {field}.compression: of an entry that few miners send, a trimmed mean or a median is zero"
        )),
        () => Ok(()),
    }
}

fn exactly_one(named: &[bool]) -> bool {
    named.iter().filter(|named| **named).count() == 1
}

fn above_zero(decimal: &Decimal) -> bool {
    decimal.value().is_finite() && decimal.value() > 0.0
}

/// Digest of the agreement in `settings`.
pub fn digest_of(settings: &Settings) -> [u8; 32] {
    run_digest(&settings.run)
}

/// BISTRO_THREADS, or all cores.
pub fn threads() -> Result<usize, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match number("BISTRO_THREADS", cores)? {
        0 => Err(Failure::Permanent("BISTRO_THREADS must be at least 1".into())),
        threads => Ok(threads),
    }
}

fn text(name: &str, default: &str) -> String {
    std::env::var(name).ok().filter(|v| !v.is_empty()).unwrap_or_else(|| default.to_owned())
}

/// On, off, or unset.
fn switch(name: &str) -> Result<Option<bool>, Failure> {
    match text(name, "auto").as_str() {
        "auto" => Ok(None),
        "0" => Ok(Some(false)),
        "1" => Ok(Some(true)),
        value => Err(Failure::Permanent(format!("{name}={value:?} is neither 0 nor 1 nor auto"))),
    }
}

/// One of a few words; its type says which.
fn word<T: FromStr<Err = &'static str> + Default>(name: &str) -> Result<T, Failure> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => {
            value.parse().map_err(|wrong| Failure::Permanent(format!("{name}={value:?} {wrong}")))
        }
        _ => Ok(T::default()),
    }
}

fn number<T: FromStr>(name: &str, default: T) -> Result<T, Failure> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => {
            value.parse().map_err(|_| Failure::Permanent(format!("{name}={value:?} is not a whole number")))
        }
        _ => Ok(default),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is wrong with a sound file whose mechanism, training and merge are these instead.
    fn complaint(mechanism: Value, training: Value, merge: Value) -> Option<String> {
        let mut settings = json!({
            "namespace": "default", "name": "n", "subnet": "s", "netuid": 1,
            "chain": { "endpoints": ["ws://a:1"] }, "bucket": { "name": "abc" },
            "run": {
                "id": 1, "from": { "seed": 1 }, "model": { "preset": "test" },
                "schedule": { "windowBlocks": 40, "commitBlocks": 8, "uploadBlocks": 8, "mergeBlocks": 8 },
                "dataset": { "prefix": "d", "digest": "0".repeat(64), "sequenceLength": 32, "pageSequences": 2, "pagesPerWindow": 4 },
                "training": { "learningRate": "1e-2", "batchSequences": 4, "innerSteps": 2 },
                "mechanism": mechanism, "merge": merge,
            },
        });
        let fields = settings["run"]["training"].as_object_mut().expect("an object");
        fields.extend(training.as_object().expect("an object").clone());
        parse(settings.to_string().as_bytes()).err()
    }

    #[test]
    fn mechanisms_that_do_not_fit_are_named() {
        let (two, one, mean) = (json!({}), json!({ "innerSteps": 1, "batchSequences": 8 }), json!({}));
        let compressed = |kind: Value| json!({ "cosine": { "sliceRatio": 1, "compression": kind } });
        let betas = |beta: &str| json!({ "innerSteps": 1, "batchSequences": 8, "betas": [beta, "0.95"] });
        let parameterized =
            |settings: Value| json!({ "lossReduction": { "averaging": { "parameterized": settings } } });
        for (mechanism, training, merge, named) in [
            (json!({}), &two, &mean, "exactly one mechanism"),
            (json!({ "cosine": {}, "taylor": {} }), &two, &mean, "exactly one mechanism"),
            (json!({ "cosine": { "gain": "0" } }), &two, &mean, "cosine.gain"),
            (json!({ "cosine": { "residualDecay": "0.9" } }), &two, &mean, "residualDecay"),
            (json!({ "gradientDifference": {} }), &two, &mean, "innerSteps: must be 1"),
            (json!({ "gradientDifference": { "tolerance": "0" } }), &one, &mean, "tolerance"),
            (json!({ "taylor": { "order": 3 } }), &two, &mean, "order"),
            (json!({ "lossReduction": { "averaging": {} } }), &two, &mean, "averaging"),
            (json!({ "lossReduction": {} }), &two, &json!({ "rule": { "median": {} } }), "merge.rule"),
            (json!({ "lossReduction": { "testPages": 0 } }), &two, &mean, "testPages"),
            (json!({ "lossWins": { "testPages": 0 } }), &two, &mean, "testPages"),
            (json!({ "lossWins": { "floor": "0" } }), &two, &mean, "lossWins.floor"),
            (json!({ "lossWins": { "epsilon": "1e-4" } }), &two, &mean, "lossWins.epsilon"),
            (json!({ "lossWins": { "epsilon": "1" } }), &two, &mean, "lossWins.epsilon"),
            (json!({ "gradientDifference": {} }), &betas("0.99999999"), &mean, "betas"),
            (json!({ "gradientDifference": {} }), &betas("1"), &mean, "betas"),
            (parameterized(json!({ "steps": 0 })), &two, &mean, "steps"),
            (parameterized(json!({ "rate": "-1" })), &two, &mean, "rate"),
            (compressed(json!({})), &two, &mean, "name exactly one kind: topK"),
            (json!({ "cosine": { "compression": { "topK": {} } } }), &two, &mean, "sliceRatio: must be 1"),
            (compressed(json!({ "topK": { "k": 0 } })), &two, &mean, "topK.k"),
            (compressed(json!({ "topK": { "k": 4097 } })), &two, &mean, "topK.k"),
            (compressed(json!({ "topK": { "decay": "1.1" } })), &two, &mean, "topK.decay"),
            (compressed(json!({ "topK": { "decay": "-1" } })), &two, &mean, "topK.decay"),
            (compressed(json!({ "topK": {} })), &json!({ "innerOptimizer": "fresh" }), &mean, "must be \"0\""),
            (compressed(json!({ "topK": {} })), &two, &json!({ "rule": { "median": {} } }), "merge.rule"),
        ] {
            let complaint = complaint(mechanism.clone(), training.clone(), merge.clone()).expect("refused");
            assert!(complaint.contains(named), "{mechanism}: {complaint}");
        }
        for (mechanism, training) in [
            (json!({ "cosine": {} }), &two),
            (json!({ "gradientDifference": {} }), &one),
            (json!({ "taylor": { "order": 2, "formula": "published" } }), &two),
            (json!({ "lossReduction": {} }), &two),
            (json!({ "lossWins": {} }), &two),
            (compressed(json!({ "topK": { "k": 4096, "values": "bf16", "decay": "1" } })), &two),
            (compressed(json!({ "topK": { "decay": "0.0" } })), &json!({ "innerOptimizer": "fresh" })),
            (json!({ "lossReduction": { "compression": { "topK": {} } } }), &two),
        ] {
            assert_eq!(complaint(mechanism, training.clone(), mean.clone()), None);
        }
    }
}
