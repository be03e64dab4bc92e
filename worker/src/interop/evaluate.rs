//! `evaluate`: how well a model foretells a text.

use std::path::PathBuf;

use bistro_protocol::tensors::{Tensor, Tensors};
use clap::Args;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    choice::{Choice, Loaded, threads},
    safetensors,
};
use crate::{
    engine::{self, Engine},
    failure::Failure,
    files,
    look::{
        Format,
        table::{Table, rounded},
    },
};

/// Most bytes of a text.
const MAX_TEXT: u64 = 256 << 20;
/// Most bytes of logits that are written.
const MAX_LOGITS: u64 = 4 << 30;
/// Most bytes that the copies of the parameters, and the logits of a sequence, take together: each thread has its own.
const MAX_COPIES: usize = 4 << 30;

/// `evaluate`.
#[derive(Args)]
pub struct Evaluate {
    /// A file with text.
    #[arg(long, value_name = "FILE", required_unless_present = "pages", conflicts_with = "pages")]
    pub text: Option<PathBuf>,
    /// So many held-out pages of the run's dataset; nodes show the loss on the first 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub pages: Option<u64>,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// A safetensors file that is written: the tensor `logits`, (tokens, vocabulary).
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    #[command(flatten)]
    pub choice: Choice,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Tokens that were foretold.
    pub tokens: u64,
    /// Sum of their losses in nats.
    pub total: f64,
    /// Those that had the largest logit.
    pub hits: u64,
}

impl Measured {
    /// Nats per token.
    pub fn loss(&self) -> f64 {
        self.total / self.tokens as f64
    }

    fn plus(self, other: Self) -> Self {
        Self { tokens: self.tokens + other.tokens, total: self.total + other.total, hits: self.hits + other.hits }
    }
}

/// Loads, measures, prints.
pub async fn evaluate(what: Evaluate, stop: CancellationToken) -> Result<(), Failure> {
    let text = what.text.as_deref().map(read_text).transpose()?;
    let (loaded, pages) = what.choice.load(what.pages, stop.clone()).await?;
    let sequences = match (&text, pages) {
        (_, Some(pages)) => pages,
        (text, None) => cut(&loaded.text()?.document(text.as_deref().unwrap_or_default())?, loaded.context as usize),
    };
    let tokens: u64 = sequences.iter().map(|sequence| sequence.len() as u64 - 1).sum();
    let width = loaded.config.vocabulary;
    if what.logits.is_some() && 4 * tokens * width as u64 > MAX_LOGITS {
        let reason = format!("{tokens} tokens have more than {MAX_LOGITS} bytes of logits: take a shorter text");
        return Err(Error::Argument { argument: "logits", reason }.into());
    }
    let (format, to, bytes) = (what.format, what.logits, text.map(|text| text.len()));
    let threads = threads()?;
    // The engine computes for minutes: not on a thread that others wait for.
    let computed = tokio::task::spawn_blocking(move || -> Result<_, Error> {
        let mut logits = to.is_some().then(Vec::new);
        let measured = measure(&loaded, &sequences, threads, logits.as_mut(), &stop)?;
        if let (Some(to), Some(data)) = (to, logits) {
            let tensor = Tensor { name: "logits".to_owned(), shape: vec![tokens as usize, width], data };
            files::write_atomic_with(&to, |out| safetensors::write(out, "pt", &[&tensor]))?;
        }
        Ok((measured, loaded.what))
    });
    let (measured, model) = match computed.await.map_err(Failure::permanent)? {
        Err(Error::Engine(engine::Error::Cancelled)) => return Err(Failure::Stopped),
        other => other?,
    };
    print!("{}", table(&measured, &model, bytes).text(format));
    Ok(())
}

fn read_text(path: &std::path::Path) -> Result<String, Error> {
    let name = path.display().to_string();
    let bytes = files::read_bounded(path, MAX_TEXT)?;
    let bytes = bytes.ok_or_else(|| Error::Absent { file: name.clone(), remedy: "correct --text" })?;
    let text = String::from_utf8(bytes).map_err(|_| Error::file(&name, "is not UTF-8 text"))?;
    if text.is_empty() { Err(Error::file(&name, "is empty")) } else { Ok(text) }
}

/// Sequences of at most `context` + 1 tokens, the last of each the first of the next: every token but the first is foretold
/// once.
fn cut(tokens: &[u32], context: usize) -> Vec<Vec<u32>> {
    let starts = (0..tokens.len().saturating_sub(1)).step_by(context.max(1));
    starts.map(|start| tokens[start..tokens.len().min(start + context + 1)].to_vec()).collect()
}

/// Measures all sequences, each of at least two tokens, on several threads; the sum is in their order. `logits` takes those
/// of all tokens in a row.
fn measure(
    loaded: &Loaded,
    sequences: &[Vec<u32>],
    threads: usize,
    mut logits: Option<&mut Vec<f32>>,
    stop: &CancellationToken,
) -> Result<Measured, Error> {
    let positions = sequences.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1);
    if positions == 0 {
        let reason = "the text has fewer than two tokens: nothing can be foretold".to_owned();
        return Err(Error::Argument { argument: "text", reason });
    }
    let floats = loaded.parameters.elements().saturating_add(positions.saturating_mul(loaded.config.vocabulary));
    let copies = MAX_COPIES / floats.saturating_mul(4).max(1);
    let count = threads.min(copies).min(sequences.len()).max(1);
    // At most the context, which is 32 bits wide.
    let engines: Result<Vec<Engine>, Error> = (0..count).map(|_| loaded.engine(positions as u32, 1)).collect();
    let mut engines = engines?;
    let keep = logits.is_some();
    let mut sum = Measured::default();
    for round in sequences.chunks(count) {
        if stop.is_cancelled() {
            return Err(engine::Error::Cancelled.into());
        }
        let one = |engine: &mut Engine, sequence: &[u32]| of_sequence(engine, &loaded.parameters, sequence, keep);
        let results: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = engines
                .iter_mut()
                .zip(round)
                .map(|(engine, sequence)| scope.spawn(move || one(engine, sequence)))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            started.into_iter().map(join).collect()
        });
        for result in results {
            let (measured, rows) = result?;
            sum = sum.plus(measured);
            if let (Some(all), Some(rows)) = (logits.as_deref_mut(), rows) {
                all.extend(rows);
            }
        }
    }
    Ok(sum)
}

/// All tokens of a sequence but the first; and their logits where they are kept.
fn of_sequence(
    engine: &mut Engine,
    parameters: &Tensors,
    sequence: &[u32],
    keep: bool,
) -> Result<(Measured, Option<Vec<f32>>), engine::Error> {
    let (inputs, targets) = (&sequence[..sequence.len() - 1], &sequence[1..]);
    let width = engine.config().vocabulary;
    if let Some(index) = targets.iter().position(|token| *token as usize >= width) {
        return Err(engine::Error::Sequence { index, length: sequence.len(), vocabulary: width });
    }
    let logits = engine.logits(parameters, inputs)?;
    let rows = logits.chunks_exact(width).zip(targets).map(|(row, target)| of_token(row, *target as usize));
    let measured = rows.fold(Measured::default(), Measured::plus);
    if !measured.total.is_finite() {
        return Err(engine::Error::Loss);
    }
    Ok((measured, keep.then_some(logits)))
}

fn of_token(row: &[f32], target: usize) -> Measured {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
    let total = sum.ln() - f64::from(row[target] - most);
    // Of equal logits the first counts.
    let hits = row.iter().position(|x| *x == most) == Some(target);
    Measured { tokens: 1, total, hits: hits.into() }
}

fn table(measured: &Measured, model: &str, bytes: Option<usize>) -> Table {
    let mut table = Table::new(&["model", "tokens", "loss", "perplexity", "accuracy", "bitsPerByte"]);
    let bits = |bytes: usize| rounded(measured.total / std::f64::consts::LN_2 / bytes as f64, 6);
    table.push(vec![
        model.into(),
        measured.tokens.into(),
        rounded(measured.loss(), 6),
        rounded(measured.loss().exp(), 4),
        rounded(measured.hits as f64 / measured.tokens as f64, 6),
        bytes.map_or(Value::Null, bits),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_foretold_once() {
        let tokens: Vec<u32> = (0..10).collect();
        for context in 1..12 {
            let sequences = cut(&tokens, context);
            let targets: Vec<u32> = sequences.iter().flat_map(|s| &s[1..]).copied().collect();
            assert_eq!(targets, tokens[1..]);
            assert!(sequences.iter().all(|s| (2..=context + 1).contains(&s.len())));
        }
        assert!(cut(&[7], 3).is_empty() && cut(&[], 3).is_empty());
    }

    #[test]
    fn a_token_is_measured_as_the_definition_says() {
        let row = [1.0f32, 3.0, 3.0, -50.0];
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        for target in 0..4 {
            let Measured { tokens, total, hits } = of_token(&row, target);
            let wanted = sum.ln() - f64::from(row[target]);
            assert!((total - wanted).abs() < 1e-12 && tokens == 1 && (hits == 1) == (target == 1), "{total} {wanted}");
        }
        assert!(!of_token(&[f32::NAN, 0.0], 0).total.is_finite());
    }
}
