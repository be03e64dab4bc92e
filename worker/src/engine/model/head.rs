//! What all architectures have in common at both ends: rows of an embedding, and logits with their loss.

use crate::engine::{
    buffer::Buffer,
    ops::{cross_entropy, linear::Linear, math::add},
    team::Team,
};

/// Most logits that are held at once where threads work alone: each has some.
const ALONE: usize = 1 << 20;
/// Most logits that are held at once where all threads share them: fewer passes over the gradient of a large vocabulary.
const SHARED: usize = 1 << 24;

/// The tokens that the model sees: all but the last of each sequence.
pub fn inputs(sequences: &[Vec<u32>]) -> impl Iterator<Item = u32> {
    sequences.iter().flat_map(|s| &s[..s.len() - 1]).copied()
}

/// The tokens that it should foresee: all but the first of each sequence.
pub fn targets(sequences: &[Vec<u32>]) -> Vec<u32> {
    sequences.iter().flat_map(|s| &s[1..]).copied().collect()
}

/// `x (R,C) =` the rows of `table (V,C)` that the tokens name.
pub fn embed(x: &mut [f32], table: &[f32], tokens: impl Iterator<Item = u32>, width: usize) {
    for (token, x) in tokens.zip(x.chunks_exact_mut(width)) {
        let row = token as usize * width;
        x.copy_from_slice(&table[row..row + width]);
    }
}

/// Adds `dx (R,C)` to the rows of `dtable (V,C)` that the tokens name.
pub fn embed_backward(dtable: &mut [f32], dx: &[f32], tokens: impl Iterator<Item = u32>, width: usize) {
    for (token, dx) in tokens.zip(dx.chunks_exact(width)) {
        let row = token as usize * width;
        add(&mut dtable[row..row + width], dx);
    }
}

/// The layer that makes logits, and the cross entropy of the next token.
pub struct Head {
    /// (V,C), without a bias; where it is tied, the embedding.
    pub linear: Linear,
}

/// Logits that are held at once for so many rows of a vocabulary.
pub fn logits(team: Team, rows: usize, vocabulary: usize) -> usize {
    let most = if team == Team::Alone { ALONE } else { SHARED };
    rows.min((most / vocabulary).max(1)) * vocabulary
}

impl Head {
    /// Sum of the losses of all rows of `h (R,C)`, in nats. `logits` is scratch.
    pub fn loss(&self, team: Team, parameters: &[f32], h: &[f32], targets: &[u32], logits: &mut Buffer) -> f64 {
        let (v, c) = (self.linear.outputs, self.linear.inputs);
        logits.resize(self::logits(team, targets.len(), v));
        let rows = logits.len() / v;
        let turn = |(h, targets): (&[f32], &[u32])| {
            let logits = &mut logits[..targets.len() * v];
            self.linear.forward(team, parameters, logits, h);
            cross_entropy::loss(team, logits, targets)
        };
        h.chunks(rows * c).zip(targets.chunks(rows)).map(turn).sum()
    }

    /// As [`Head::loss`]; `dh (R,C)` becomes, and `gradient` is increased by, `scale` times the gradient of that sum.
    #[allow(clippy::too_many_arguments)]
    pub fn gradient(
        &self,
        team: Team,
        parameters: &[f32],
        gradient: &mut [f32],
        dh: &mut [f32],
        h: &[f32],
        targets: &[u32],
        scale: f32,
        logits: &mut Buffer,
    ) -> f64 {
        let (v, c) = (self.linear.outputs, self.linear.inputs);
        logits.resize(self::logits(team, targets.len(), v));
        let rows = logits.len() / v;
        let turn = |((dh, h), targets): ((&mut [f32], &[f32]), &[u32])| {
            let logits = &mut logits[..targets.len() * v];
            self.linear.forward(team, parameters, logits, h);
            let loss = cross_entropy::loss_and_gradient(team, logits, targets, scale);
            self.linear.add_gradient(team, gradient, logits, h);
            self.linear.backward(team, parameters, dh, logits);
            loss
        };
        dh.chunks_mut(rows * c).zip(h.chunks(rows * c)).zip(targets.chunks(rows)).map(turn).sum()
    }
}
