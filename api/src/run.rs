//! The agreement of a subnet: everything that all nodes must hold alike, under one id.
//!
//! A run is immutable: a change needs a higher `id`. [`crate::digest`] gives its digest, which stands
//! in every signed object. All defaults live here, once: serde applies them to files and the schema
//! carries them to the API server.

use codec::Encode;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    decimal::{Decimal, literal},
    mechanism::Mechanism,
};

/// Smallest length of every phase in blocks: main net's finality lag of 3 and 2 to spare.
pub const MIN_PHASE_BLOCKS: u32 = 5;

/// The agreement: what every node of the subnet must hold alike. Immutable under one id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.dataset.pagesPerWindow * self.dataset.pageSequences == self.training.batchSequences * self.training.innerSteps",
    "pagesPerWindow * pageSequences must equal batchSequences * innerSteps: a window trains on each of its sequences once"
), validation = (
    "!has(self.mechanism.gradientDifference) || self.training.innerSteps == 1",
    "gradientDifference publishes the gradient of one step: set training.innerSteps to 1 and training.batchSequences to pagesPerWindow * pageSequences"
), validation = (
    "!has(self.mechanism.lossReduction) || has(self.merge.rule.mean)",
    "merge.rule must be mean with lossReduction: its averager learns how much of each work counts (mechanism.lossReduction.averaging)"
), validation = (
    "!has(self.mechanism.cosine) || !has(self.mechanism.cosine.compression) || has(self.merge.rule.mean)",
    "merge.rule must be mean with cosine.compression: of an entry that few miners send, a trimmed mean or a median is zero"
), validation = (
    "self.training.innerOptimizer != 'fresh' || !has(self.mechanism.cosine) || !has(self.mechanism.cosine.compression) || !has(self.mechanism.cosine.compression.topK) || double(self.mechanism.cosine.compression.topK.decay) == 0.0",
    "cosine.compression.topK.decay must be \"0\" with training.innerOptimizer: fresh: an audit does the work of one window again, and nobody but the miner knows what it carried into it"
), validation = (
    "self.training.innerOptimizer != 'fresh' || !has(self.mechanism.lossReduction) || !has(self.mechanism.lossReduction.compression) || !has(self.mechanism.lossReduction.compression.topK) || double(self.mechanism.lossReduction.compression.topK.decay) == 0.0",
    "lossReduction.compression.topK.decay must be \"0\" with training.innerOptimizer: fresh: an audit does the work of one window again, and nobody but the miner knows what it carried into it"
))]
pub struct Run {
    /// Number of this agreement; it only grows. Every change of the run needs a higher id.
    #[schemars(range(min = 1))]
    pub id: u32,
    /// First window of this run.
    #[serde(default)]
    pub start_window: u64,
    /// Where the base of the first window comes from.
    pub from: From,
    /// Length of a window and of its phases, in blocks.
    pub schedule: Schedule,
    /// The tokenised text that the subnet trains on.
    pub dataset: Dataset,
    /// The architecture that the subnet trains.
    pub model: Model,
    /// The optimisation inside one window, and the outer step.
    pub training: Training,
    /// What the subnet pays for. Exactly one member.
    pub mechanism: Mechanism,
    /// How accepted work is merged into the next base.
    #[serde(default)]
    pub merge: Merge,
}

/// Where the first base comes from. Exactly one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.seed), has(self.run), has(self.checkpoint)].filter(x, x).size() == 1",
    "from needs exactly one of seed, run, checkpoint"
))]
pub struct From {
    /// Fresh weights, drawn from this seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The last base of an earlier run of this subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub run: Option<u32>,
    /// A base in the bucket, by its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub checkpoint: Option<String>,
}

/// Window and phases in blocks. Training takes what the other phases leave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.windowBlocks >= self.commitBlocks + self.uploadBlocks + self.mergeBlocks + 5",
    "windowBlocks must leave at least 5 blocks for training: raise windowBlocks or shorten commitBlocks, uploadBlocks or mergeBlocks"
))]
pub struct Schedule {
    /// Blocks of one window.
    #[schemars(range(min = 20, max = 1_000_000))]
    pub window_blocks: u32,
    /// Blocks for committing: the digest of the work, before anybody can read the work.
    #[schemars(range(min = 5, max = 100_000))]
    pub commit_blocks: u32,
    /// Blocks for uploading the work itself.
    #[schemars(range(min = 5, max = 100_000))]
    pub upload_blocks: u32,
    /// Blocks for the averager to merge and for everybody to follow.
    #[schemars(range(min = 5, max = 100_000))]
    pub merge_blocks: u32,
    /// Tolerated difference between the clocks of bucket and chain, in seconds.
    #[serde(default = "three")]
    #[schemars(range(max = 600))]
    pub skew_seconds: u32,
    /// The averager stores a whole base every so many windows.
    #[serde(default = "twenty")]
    #[schemars(range(min = 1, max = 10_000))]
    pub snapshot_windows: u32,
}

impl Schedule {
    /// Blocks left for training: `W - C - U - M`; `None` where the phases do not fit.
    pub fn train_blocks(&self) -> Option<u32> {
        let phases = self.commit_blocks.checked_add(self.upload_blocks)?.checked_add(self.merge_blocks)?;
        self.window_blocks.checked_sub(phases).filter(|t| *t >= MIN_PHASE_BLOCKS)
    }
}

/// A prepared dataset in the bucket and how it is cut into pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub struct Dataset {
    /// Folder in the bucket that holds index.json and the shards.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"))]
    pub prefix: String,
    /// blake3 of index.json in hex, as `bistro-worker dataset prepare` prints it.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub digest: String,
    /// Tokens of one sequence.
    #[schemars(range(min = 8, max = 131_072))]
    pub sequence_length: u32,
    /// Sequences of one page.
    #[schemars(range(min = 1, max = 65_536))]
    pub page_sequences: u32,
    /// Pages that one miner trains on in one window.
    #[schemars(range(min = 1, max = 65_536))]
    pub pages_per_window: u32,
}

/// The architecture. Exactly one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.preset) != has(self.config)", "model needs exactly one of preset and config"))]
pub struct Model {
    /// A model that the worker knows by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// The content of a Hugging Face config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub config: Option<serde_json::Value>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true, "nullable": true })
}

/// Models that the worker knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub enum Preset {
    /// About 50 thousand parameters: Llama-style, on bytes, for tests.
    Test,
    /// About 0.8 million parameters: Llama-style, on bytes.
    Tiny,
    /// About 5 million parameters: Llama-style, 8,192 tokens, tied.
    Small,
    /// About 14 million parameters: Llama-style, 8,192 tokens, tied.
    Medium,
    /// About 124 million parameters: GPT-2, 50,257 tokens, at most 1,024 of them in a sequence, tied.
    Gpt2,
    /// About 1.1 billion parameters: Llama-style with grouped queries, 32,000 tokens.
    #[serde(rename = "llama-1b")]
    Llama1b,
}

/// What happens inside one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub struct Training {
    /// Step size of the inner AdamW.
    pub learning_rate: Decimal,
    /// Windows over which the learning rate rises linearly from zero.
    #[serde(default)]
    pub warmup_windows: u32,
    /// How the learning rate goes on after the warmup.
    #[serde(default)]
    pub decay: Decay,
    /// Decay rates of AdamW's first and second moment.
    #[serde(default = "betas")]
    #[schemars(length(min = 2, max = 2))]
    pub betas: Vec<Decimal>,
    /// Decoupled weight decay of AdamW.
    #[serde(default = "tenth")]
    pub weight_decay: Decimal,
    /// Gradients with a larger norm are scaled down to it.
    #[serde(default = "one")]
    pub gradient_clip: Decimal,
    /// Sequences of one inner step.
    #[schemars(range(min = 1, max = 65_536))]
    pub batch_sequences: u32,
    /// Optimizer steps of one window.
    #[schemars(range(min = 1, max = 65_536))]
    pub inner_steps: u32,
    /// Whether the moments of AdamW are kept between windows (learns faster) or start fresh (can be recomputed).
    #[serde(default)]
    pub inner_optimizer: InnerOptimizer,
    /// Factor on the merged work, before the mechanism's own gain.
    #[serde(default = "one")]
    pub outer_learning_rate: Decimal,
}

/// How the learning rate goes on after the warmup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub enum Decay {
    /// It stays.
    #[default]
    Constant,
}

/// What becomes of AdamW's moments between windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub enum InnerOptimizer {
    /// They are the miner's private state.
    #[default]
    Kept,
    /// They start at zero in every window, so that anyone can recompute the work.
    Fresh,
}

/// How accepted work becomes the next base.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub struct Merge {
    /// The rule. Exactly one member.
    #[serde(default)]
    pub rule: MergeRule,
}

/// The merge rule. Exactly one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.mean), has(self.trimmedMean), has(self.median)].filter(x, x).size() == 1",
    "merge.rule needs exactly one member: mean, trimmedMean or median"
))]
pub struct MergeRule {
    /// The arithmetic mean: the best where scores decide who is admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Mean>,
    /// The mean of each entry without its largest and smallest values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trimmed_mean: Option<TrimmedMean>,
    /// The median of each entry: halves the damage of attackers that are paid; biased where pages differ in kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<Median>,
}

impl Default for MergeRule {
    fn default() -> Self {
        Self { mean: Some(Mean {}), trimmed_mean: None, median: None }
    }
}

/// The arithmetic mean has no settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Mean {}

/// The median has no settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Median {}

/// Settings of the trimmed mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.fraction.matches('^0(\\\\.[0-4][0-9]*)?$')",
    "trimmedMean.fraction must be written like 0.25, at least 0 and below 0.5"
))]
pub struct TrimmedMean {
    /// Share of the values that is left out at each end, rounded down to whole values.
    #[serde(default = "quarter")]
    pub fraction: Decimal,
}

pub(crate) fn zero() -> Decimal {
    literal("0")
}
fn quarter() -> Decimal {
    literal("0.25")
}
fn tenth() -> Decimal {
    literal("0.1")
}
pub(crate) fn one() -> Decimal {
    literal("1.0")
}
fn betas() -> Vec<Decimal> {
    vec![literal("0.9"), literal("0.95")]
}
fn three() -> u32 {
    3
}
fn twenty() -> u32 {
    20
}
