//! How published work is compressed.

use codec::{Encode, Output};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decimal::{Decimal, literal};

/// How published work is compressed. Exactly one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.topK)", "compression needs exactly one member: topK"))]
pub struct Compression {
    /// The entries of largest magnitude; what is not sent is carried into the next window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<TopK>,
}

/// Settings of the compression `topK`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Encode)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "double(self.decay) >= 0.0 && double(self.decay) <= 1.0",
    "topK.decay must be at least 0 and at most 1: it is the share of what was not sent that the next window starts with"
))]
pub struct TopK {
    /// Entries that are sent of each 4096 of a tensor.
    #[serde(default = "sixty_four")]
    #[schemars(range(min = 1, max = 4096))]
    pub k: u32,
    /// How the value of an entry is sent.
    #[serde(default)]
    pub values: Values,
    /// Share of what was not sent that is added to the work of the next window. 0 drops it, and eight miners learn less than
    /// one alone.
    #[serde(default = "most")]
    pub decay: Decimal,
}

/// How the value of an entry is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Encode)]
#[serde(rename_all = "camelCase")]
pub enum Values {
    /// In two bits: its sign and one of two magnitudes.
    #[default]
    TwoBit,
    /// In 16 bits: the upper half of a 32-bit number, rounded to nearest.
    Bf16,
    /// In 32 bits, as it is.
    F32,
}

/// The number of the kind, then its settings: topK 1; none, which nobody accepts, 0.
impl Encode for Compression {
    fn encode_to<T: Output + ?Sized>(&self, dest: &mut T) {
        let Self { top_k } = self;
        match top_k {
            Some(settings) => (1u8, settings).encode_to(dest),
            None => 0u8.encode_to(dest),
        }
    }
}

fn sixty_four() -> u32 {
    64
}

/// As good as all of it, and what is never sent is forgotten: half of it in 14 windows.
fn most() -> Decimal {
    literal("0.95")
}
