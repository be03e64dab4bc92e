//! What a subnet pays for, and the settings of each way to do so.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use codec::Encode;

use crate::{
    decimal::{Decimal, literal},
    run::{one, zero},
};

/// What the subnet pays for. Exactly one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.cosine), has(self.gradientDifference), has(self.taylor), has(self.lossReduction)].filter(x, x).size() == 1",
    "mechanism needs exactly one member: cosine, gradientDifference, taylor or lossReduction"
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
}

/// Settings of the mechanism `cosine`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
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
    #[serde(default = "first")]
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
pub struct LossReduction {
    /// A miner publishes one entry in so many; 1 publishes the whole delta.
    #[serde(default = "whole")]
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

/// The factor on a merged slice that makes up for what was not published: what `gain` says, else a fit over the
/// measured pairs of steps and ratio, `min(c, 300 / H)`. Without it most of a slice's progress is lost and eight
/// miners learn less than one alone.
pub fn slice_gain(gain: Option<&Decimal>, slice_ratio: u32, inner_steps: u32) -> f32 {
    match gain {
        Some(gain) => gain.value_f32(),
        // Integers below 2^24: exact in f32.
        None => slice_ratio.min(300 / inner_steps.max(1)).max(1) as f32,
    }
}

fn first() -> u32 {
    1
}

fn whole() -> u32 {
    1
}

fn four() -> u32 {
    4
}

fn ten() -> u32 {
    10
}

fn fifth() -> Decimal {
    literal("0.2")
}
