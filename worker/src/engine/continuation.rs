//! A text that a model goes on with: what it has seen is kept, so that one more token costs one more row.

use bistro_protocol::tensors::Tensors;

use super::{Engine, Error, PASS_TOKENS, within};

/// A model in the middle of a text, on the CPU.
pub struct Continuation<'a> {
    engine: &'a mut Engine,
    /// Tokens of the text so far, whose keys and values are in the first workspace.
    seen: usize,
}

impl Engine {
    /// At the beginning of a text.
    pub fn begin(&mut self, parameters: &Tensors) -> Result<Continuation<'_>, Error> {
        self.model.layout().flatten(parameters, &mut self.parameters)?;
        Ok(Continuation { engine: self, seen: 0 })
    }
}

impl Continuation<'_> {
    /// Tokens that still fit into what the model sees at once.
    pub fn room(&self) -> usize {
        self.engine.positions - self.seen
    }

    /// Forgets the text.
    pub fn restart(&mut self) {
        self.seen = 0;
    }

    /// Logits (V) of the next token after `tokens`: at least one, below V, and no more than there is room for.
    pub fn push(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let vocabulary = self.engine.config().vocabulary;
        if !(1..=self.room()).contains(&tokens.len()) || tokens.iter().any(|t| *t as usize >= vocabulary) {
            return Err(Error::Sequence { index: 0, length: self.room(), vocabulary });
        }
        let Engine { model, pool, workers, parameters, .. } = &mut *self.engine;
        let (workspace, mut logits) = (&mut workers[0].workspace, Vec::new());
        // A long prompt needs room for the activations of a part alone.
        for tokens in tokens.chunks(PASS_TOKENS) {
            let seen = self.seen;
            logits = within(pool.as_ref(), || model.extend(parameters, tokens, seen, workspace));
            self.seen += tokens.len();
        }
        Ok(logits)
    }
}
