//! `generate`: what a model writes on.

use std::io::{IsTerminal, Write};

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    choice::{Choice, Loaded, threads},
    sample::Sampler,
    text::Text,
};
use crate::{
    engine::{self, Continuation, Engine},
    failure::Failure,
};

/// `generate`.
#[derive(Args)]
pub struct Generate {
    /// What the model goes on from; empty: the beginning of a document.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: String,
    /// Most tokens that are made; the token that ends a document ends earlier.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub tokens: u64,
    /// 0 takes the most likely token each time; 1 draws by the model's own likelihoods; more is bolder.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Draws only among so many most likely tokens.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub top_k: Option<u64>,
    /// Draws only among the most likely tokens that have this share together.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// The same seed draws the same text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Shape,
    #[command(flatten)]
    pub choice: Choice,
}

/// How the text is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// As it comes.
    #[default]
    Text,
    /// An object with the tokens of prompt and text, at the end.
    Json,
}

/// Loads, and writes on until it is enough.
pub async fn generate(what: Generate, stop: CancellationToken) -> Result<(), Failure> {
    let sampler = Sampler::new(what.temperature, what.top_k, what.top_p, what.seed)?;
    let (loaded, _) = what.choice.load(None, stop.clone()).await?;
    let threads = threads()?;
    let (prompt, count, shape) = (what.prompt, what.tokens, what.format);
    // The engine computes for minutes: not on a thread that others wait for.
    let written = tokio::task::spawn_blocking(move || write(&loaded, &prompt, count, shape, sampler, threads, &stop));
    Ok(written.await.map_err(Failure::permanent)??)
}

fn write(
    loaded: &Loaded,
    prompt: &str,
    count: u64,
    shape: Shape,
    mut sampler: Sampler,
    threads: usize,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let text = loaded.text()?;
    let start = start(text, prompt)?;
    let mut engine = loaded.engine(loaded.context, threads)?;
    let (mut writer, mut decoder) = (Writer::new(&mut engine, loaded, start.clone())?, text.decoder());
    let mut screen = Screen::new(shape == Shape::Text);
    let mut made = Vec::new();
    while (made.len() as u64) < count && !stop.is_cancelled() && !screen.closed {
        let token = sampler.draw(&writer.logits()?);
        made.push(token);
        if text.separator() == Some(token) {
            break;
        }
        screen.show(&decoder.next(token)?);
        writer.push(token);
    }
    screen.show(&decoder.finish()?);
    let written = screen.finish();
    if shape == Shape::Json {
        println!("{}", json!({ "model": loaded.what, "prompt": start, "tokens": made, "text": written }));
    }
    Ok(())
}

/// The tokens of a prompt; that of an empty one is the token between two documents.
fn start(text: &Text, prompt: &str) -> Result<Vec<u32>, Error> {
    let mut tokens = text.prompt(prompt)?;
    if tokens.is_empty() {
        let reason = || "is empty, and the model has no token that begins a document: write something".to_owned();
        tokens.push(text.separator().ok_or_else(|| Error::Argument { argument: "prompt", reason: reason() })?);
    }
    Ok(tokens)
}

/// The model and the text.
struct Writer<'a> {
    continuation: Continuation<'a>,
    tokens: Vec<u32>,
    /// Those that the model has not seen yet.
    new: usize,
    /// Most tokens that it sees at once.
    context: usize,
}

impl<'a> Writer<'a> {
    fn new(engine: &'a mut Engine, loaded: &Loaded, tokens: Vec<u32>) -> Result<Self, Error> {
        let (new, context) = (tokens.len(), loaded.context as usize);
        Ok(Self { continuation: engine.begin(&loaded.parameters)?, tokens, new, context })
    }

    fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.new += 1;
    }

    /// Logits of the next token. A text that is longer than what the model sees at once goes on from its last half of that.
    fn logits(&mut self) -> Result<Vec<f32>, Error> {
        if self.new > self.continuation.room() {
            self.continuation.restart();
            self.new = self.tokens.len().min(self.context.div_ceil(2));
        }
        let logits = self.continuation.push(&self.tokens[self.tokens.len() - self.new..])?;
        self.new = 0;
        if logits.iter().all(|x| x.is_finite()) { Ok(logits) } else { Err(engine::Error::Loss.into()) }
    }
}

/// Shows text as it comes, in whole letters; nothing in it moves the cursor of a terminal.
struct Screen {
    on: bool,
    /// Nobody reads any more.
    closed: bool,
    terminal: bool,
    /// All that came.
    bytes: Vec<u8>,
    /// Those that were shown.
    shown: usize,
}

impl Screen {
    fn new(on: bool) -> Self {
        Self { on, closed: false, terminal: std::io::stdout().is_terminal(), bytes: Vec::new(), shown: 0 }
    }

    fn show(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let new = &self.bytes[self.shown..];
        let whole = match std::str::from_utf8(new) {
            Ok(_) => new.len(),
            // The beginning of a letter waits for its end; what can be none is shown at once.
            Err(fault) if fault.error_len().is_none() => fault.valid_up_to(),
            Err(_) => new.len() - incomplete(new),
        };
        self.put(self.shown + whole);
    }

    fn put(&mut self, to: usize) {
        let text = String::from_utf8_lossy(&self.bytes[self.shown..to]).into_owned();
        self.shown = to;
        if self.on {
            let harmless =
                |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c };
            let text = if self.terminal { text.chars().map(harmless).collect() } else { text };
            self.print(&text);
        }
    }

    /// Who closed the pipe reads no more.
    fn print(&mut self, text: &str) {
        let mut out = std::io::stdout().lock();
        let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.on &= printed.is_ok();
        self.closed |= printed.is_err();
    }

    /// Shows what is left, ends the line, and gives the whole text.
    fn finish(mut self) -> String {
        self.put(self.bytes.len());
        if self.on {
            self.print("\n");
        }
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Bytes at the end that may be the beginning of a letter.
fn incomplete(bytes: &[u8]) -> usize {
    let valid = |from: usize| std::str::from_utf8(&bytes[from..]);
    (1..=bytes.len().min(3))
        .find(|n| valid(bytes.len() - n).is_err_and(|fault| fault.valid_up_to() == 0 && fault.error_len().is_none()))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_shown_whole() {
        let mut screen = Screen { on: false, closed: false, terminal: false, bytes: Vec::new(), shown: 0 };
        let mut shown = Vec::new();
        for byte in [b"a\xc3\xa9".as_slice(), "👍".as_bytes(), b"\xff\xe2\x82", b"b"].concat() {
            screen.show(&[byte]);
            shown.push(screen.shown);
        }
        assert_eq!(shown, [1, 1, 3, 3, 3, 3, 7, 8, 8, 8, 11]);
        assert_eq!(screen.finish(), "aé👍\u{fffd}\u{fffd}b");
    }

    #[test]
    fn an_empty_prompt_is_the_beginning_of_a_document() {
        assert_eq!(start(&Text::bytes(), "").expect("it has a separator"), [0]);
        assert_eq!(start(&Text::bytes(), "ab").expect("two bytes"), [97, 98]);
    }
}
