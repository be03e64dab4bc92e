//! The runs that benchmarks and tests play.

use bistro_api::{Run, run::InnerOptimizer};
use serde_json::{Value, json};

/// Steps of a window.
const STEPS: u32 = 8;

/// What one run differs in.
#[derive(Clone, Copy, Debug)]
pub struct Knobs<'a> {
    /// Its name in resources.
    pub mechanism: &'a str,
    /// A miner publishes one entry in so many.
    pub ratio: u32,
    /// `None`: as the protocol chooses it.
    pub gain: Option<&'a str>,
    /// Where work is compressed, to two bits: `k`, and the share of what was not sent that is carried on.
    pub top_k: Option<(u32, &'a str)>,
    /// Step size of the inner AdamW.
    pub learning_rate: &'a str,
    /// Whether moments are kept.
    pub optimizer: InnerOptimizer,
    /// Steps of a window; one of `gradientDifference`. Its pages are fewer accordingly.
    pub steps: u32,
    /// Which of several runs that differ by chance alone, from 1 on: by first base, pages and slices.
    pub number: u32,
}

impl<'a> Knobs<'a> {
    /// What a run is if nothing is said.
    pub const DEFAULT: Self = Self {
        mechanism: "cosine",
        ratio: 1,
        gain: None,
        top_k: None,
        learning_rate: "3e-3",
        optimizer: InnerOptimizer::Kept,
        steps: STEPS,
        number: 1,
    };
}

impl Default for Knobs<'_> {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Small: 0.13 million parameters, 8 steps of 4 sequences of 64 bytes. What is known of the protocol by simulation
/// was found at this size.
pub fn small(knobs: Knobs<'_>) -> Run {
    let model = json!({ "config": {
        "model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
        "num_attention_heads": 4, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
    }});
    run(knobs, model, 64, 4)
}

/// As [`small`], with the model of the tests: 0.04 million parameters.
pub fn smallest(knobs: Knobs<'_>) -> Run {
    run(knobs, json!({ "preset": "test" }), 64, 4)
}

/// manifests/quickstart.yaml: 0.86 million parameters, 8 steps of 8 sequences of 128 bytes.
pub fn quickstart(knobs: Knobs<'_>) -> Run {
    run(knobs, json!({ "preset": "tiny" }), 128, 8)
}

fn run(knobs: Knobs<'_>, model: Value, sequence_length: u32, batch_sequences: u32) -> Run {
    let mut settings = json!({ "sliceRatio": knobs.ratio });
    if let Some(gain) = knobs.gain {
        settings["gain"] = json!(gain);
    }
    if let Some((k, decay)) = knobs.top_k {
        settings["compression"] = json!({ "topK": { "k": k, "decay": decay } });
    }
    // A gradient is the work of one step over all sequences of a window.
    let merged = if knobs.mechanism == "gradientDifference" { knobs.steps } else { 1 };
    // Pages of two steps; half of a page where a window has but one.
    let (page_steps, pages) = if knobs.steps < 2 { (1, 1) } else { (2, knobs.steps / 2) };
    let run = json!({
        "id": knobs.number, "from": { "seed": 41 + knobs.number },
        "schedule": { "windowBlocks": 40, "commitBlocks": 8, "uploadBlocks": 8, "mergeBlocks": 8 },
        "dataset": {
            // The arena reads no bucket: nothing looks for this digest.
            "prefix": "text", "digest": "0".repeat(64),
            "sequenceLength": sequence_length, "pageSequences": page_steps * batch_sequences, "pagesPerWindow": pages,
        },
        "model": model,
        "training": {
            "learningRate": knobs.learning_rate, "batchSequences": batch_sequences * merged, "innerSteps": knobs.steps / merged,
            "innerOptimizer": knobs.optimizer,
        },
        "mechanism": { knobs.mechanism: settings },
    });
    serde_json::from_value(run).expect("a sound run")
}
