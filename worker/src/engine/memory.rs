//! What training has in memory, from the shape of the model alone.
//!
//! ```text
//! bytes = 4 (5 P + U P + A + S)
//! A = R (L kept + passing)        where activations are kept
//! A = R (L C + kept + passing)    where they are computed again
//! ```
//!
//! P are the parameters: they, their gradient and two moments, and at the end of the window one of them a second time, in
//! tensors. U are the threads that have a gradient of their own, with models below 2 million parameters, else none. R are
//! the rows that go through the model at once, those of all threads together; kept is what a block keeps of a row, passing
//! what the passes hold of it for one block; S are logits, tiles of attention and, with AMX, packed matrices. Whoever trains
//! holds the base besides, P, and the moments of the window before, 2 P.

use super::{
    Engine,
    model::{Config, Family, logits},
    ops::{attention, matmul},
    team::Team,
};

/// Entries of a row.
struct Row {
    /// That a block keeps for its backward pass, with its input.
    kept: usize,
    /// Of the buffers that all blocks use in turn.
    passing: usize,
}

fn row(config: &Config) -> Row {
    let Config { width: c, intermediate: f, heads, key_heads, head, .. } = *config;
    let qkv = (heads + 2 * key_heads) * head;
    let attention = heads * head;
    match config.family {
        // Input and middle; gate and up.
        Family::Llama => {
            Row { kept: 2 * c + qkv + attention + heads + 2 + 2 * f, passing: 4 * c + qkv + attention + 1 + 3 * f }
        }
        // The same with two statistics for each norm; before the activation.
        Family::Gpt2 => {
            Row { kept: 2 * c + qkv + attention + heads + 4 + f, passing: 4 * c + qkv + attention + 2 + 2 * f }
        }
    }
}

impl Engine {
    /// Bytes that training on batches of so many sequences takes at its peak; see the head of this file. Buffers are kept
    /// for the next window.
    pub fn training_bytes(&self, batch_sequences: usize) -> u64 {
        let config = self.config();
        let Row { kept, passing } = row(config);
        let (c, layers, v) = (config.width, config.layers, config.vocabulary);
        let threads = self.pool.as_ref().map_or(1, rayon::ThreadPool::current_num_threads);
        let (teams, gradients) = match self.team {
            Team::Alone => (threads, threads),
            Team::Shared => (1, 0),
        };
        let rows = self.pass_sequences().min(batch_sequences.max(1)) * self.positions;
        let activations = if self.recompute { (layers - 1) * c + kept + passing } else { layers * kept + passing };
        let own = attention::scratch(self.positions) + matmul::scratch();
        let scratch = teams * logits(self.team, rows, v) + threads * own;
        let entries = (5 + gradients) * self.model.layout().length() + teams * rows * activations + scratch;
        4 * entries as u64
    }
}
