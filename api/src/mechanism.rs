//! What a subnet pays for, and the settings of each way to do so.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use codec::Encode;

use crate::{
    compression::Compression,
    decimal::{Decimal, literal},
    run::{one, zero},
};

/// What the subnet pays for. Exactly one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.cosine), has(self.gradientDifference), has(self.taylor), has(self.lossReduction), has(self.lossWins)].filter(x, x).size() == 1",
    "mechanism needs exactly one member: cosine, gradientDifference, taylor, lossReduction or lossWins"
))]
pub struct Mechanism {
    /// Miners publish a slice of their delta and are paid for its cosine with the gradient on their own pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<Cosine>,
    /// Miners publish a slice of the gradient on their own pages and are paid for its exactness; every node steps AdamW.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_difference: Option<GradientDifference>,
    /// Miners publish a slice of their weights and are paid for what the loss would rise without it, by Taylor's formula.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taylor: Option<Taylor>,
    /// Miners publish their delta and are paid for how much it lowers the loss on pages that nobody foresaw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_reduction: Option<LossReduction>,
    /// Miners publish whole models of their own and are paid for the pages on which theirs are the best; there is no
    /// common base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_wins: Option<LossWins>,
}

/// Settings of the mechanism `cosine`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.compression) || self.sliceRatio == 1",
    "cosine.sliceRatio must be 1 with compression, which picks by itself what is sent: set cosine.sliceRatio to 1"
))]
pub struct Cosine {
    /// A miner publishes one entry in so many.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 100_000))]
    pub slice_ratio: u32,
    /// Factor on the merged slice; absent: min(sliceRatio, 300 / innerSteps).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<Decimal>,
    /// Fraction of unpublished progress that is carried into the next window.
    #[serde(default = "zero")]
    pub residual_decay: Decimal,
    /// Scale of the published reward, R = alpha * score.
    #[serde(default = "one")]
    pub alpha: Decimal,
    /// How the delta is compressed; absent: 32 bits for each published entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[codec(skip)] // Encoded with the number of the mechanism: digests of runs without it are as before.
    pub compression: Option<Compression>,
}

/// Settings of the mechanism `gradientDifference`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub struct GradientDifference {
    /// A miner publishes one entry in so many.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 100_000))]
    pub slice_ratio: u32,
    /// Factor on training.learningRate in the outer AdamW, whose entries move only when they are published;
    /// absent: min(sliceRatio, 30).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<Decimal>,
    /// Relative error from which on a gradient earns nothing; rounding errs by less than 0.02, a missing sequence by more.
    #[serde(default = "fifth")]
    pub tolerance: Decimal,
}

/// Settings of the mechanism `taylor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub struct Taylor {
    /// A miner publishes one entry in so many.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 100_000))]
    pub slice_ratio: u32,
    /// Factor on the merged slice; absent: min(sliceRatio, 300 / innerSteps).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<Decimal>,
    /// Which step away from the merged weights a score estimates.
    #[serde(default)]
    pub formula: TaylorFormula,
    /// Terms of the series: 1, or 2 with the diagonal of the Fisher information, which costs a pass for every sequence.
    #[serde(default = "unit")]
    #[schemars(range(min = 1, max = 2))]
    pub order: u32,
}

/// Which step away from the merged weights a score estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub enum TaylorFormula {
    /// To the weights as they would be without the miner: what leaving its work out costs.
    #[default]
    LeaveOneOut,
    /// As it was published elsewhere; on shared pages it ranks miners in reverse. For comparison only.
    Published,
}

/// Settings of the mechanism `lossReduction`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.compression) || self.sliceRatio == 1",
    "lossReduction.sliceRatio must be 1 with compression, which picks by itself what is sent: leave lossReduction.sliceRatio out"
))]
pub struct LossReduction {
    /// A miner publishes one entry in so many; 1 publishes the whole delta.
    #[serde(default = "unit")]
    #[schemars(range(min = 1, max = 100_000))]
    pub slice_ratio: u32,
    /// Factor on the merged delta; absent: min(sliceRatio, 300 / innerSteps).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<Decimal>,
    /// Pages that a score is measured on; picked when the window is over.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 1024))]
    pub test_pages: u32,
    /// How the averager weighs the work of the miners. Exactly one member.
    #[serde(default)]
    pub averaging: Averaging,
    /// How the delta is compressed; absent: 32 bits for each published entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[codec(skip)] // As that of `cosine`.
    pub compression: Option<Compression>,
}

/// How the averager weighs work. Exactly one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.uniform), has(self.scoreWeighted), has(self.parameterized)].filter(x, x).size() == 1",
    "averaging needs exactly one member: uniform, scoreWeighted or parameterized"
))]
pub struct Averaging {
    /// All alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uniform: Option<Uniform>,
    /// By how much each alone lowers the loss on the averager's pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_weighted: Option<ScoreWeighted>,
    /// One weight for each miner and tensor, learned by gradient steps on the averager's pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameterized: Option<Parameterized>,
}

impl Default for Averaging {
    fn default() -> Self {
        Self { uniform: None, score_weighted: None, parameterized: Some(Parameterized::default()) }
    }
}

/// Uniform averaging has no settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Uniform {}

/// Averaging by scores has no settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScoreWeighted {}

/// Settings of learned averaging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Encode)]
#[serde(rename_all = "camelCase", default)]
pub struct Parameterized {
    /// Gradient steps of the weights in each window.
    #[schemars(range(min = 1, max = 1000))]
    pub steps: u32,
    /// Sequences of one step.
    #[schemars(range(min = 1, max = 4096))]
    pub sequences: u32,
    /// Largest change of a weight in one step.
    pub rate: Decimal,
}

impl Default for Parameterized {
    fn default() -> Self {
        Self { steps: 20, sequences: 16, rate: literal("0.3") }
    }
}

/// Settings of the mechanism `lossWins`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "double(self.floor) > 0.0",
    "lossWins.floor must be above 0: without it a copy with a little noise wins half of the pages; 0.001 is usual"
), validation = (
    "double(self.epsilon) >= double(self.floor) && double(self.epsilon) < 1.0",
    "lossWins.epsilon must be at least floor and below 1: it is what a new model must be better by, and falls to floor; 0.005 is usual"
))]
pub struct LossWins {
    /// Pages that models are compared on in each window; picked when the window is over.
    #[serde(default = "sixteen")]
    #[schemars(range(min = 1, max = 128))]
    pub test_pages: u32,
    /// Share of its loss by which a model must be beaten the moment it was committed to.
    #[serde(default = "half_percent")]
    pub epsilon: Decimal,
    /// Share of its loss by which a model must always be beaten.
    #[serde(default = "tenth_percent")]
    pub floor: Decimal,
    /// Blocks in which epsilon falls to floor.
    #[serde(default = "five_days")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub decay_blocks: u32,
}

/// The factor on a merged slice that makes up for what was not published: what `gain` says, else the ratio, but not more
/// than `most`. Without it most of a slice's progress is lost and eight miners learn less than one alone.
pub fn slice_gain(gain: Option<&Decimal>, slice_ratio: u32, most: u32) -> f32 {
    match gain {
        Some(gain) => gain.value_f32(),
        // Integers below 2^24: exact in f32.
        None => slice_ratio.min(most).max(1) as f32,
    }
}

fn unit() -> u32 {
    1
}

fn four() -> u32 {
    4
}

fn sixteen() -> u32 {
    16
}

/// At 12 seconds each.
fn five_days() -> u32 {
    36_000
}

fn half_percent() -> Decimal {
    literal("0.005")
}

fn tenth_percent() -> Decimal {
    literal("0.001")
}

fn ten() -> u32 {
    10
}

fn fifth() -> Decimal {
    literal("0.2")
}
