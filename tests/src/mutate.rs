//! Hostile inputs, made from valid ones.
//!
//! Bytes at random never come past the first check of a decoder. So each input starts as a valid one and is damaged in
//! one to four places, and what stands before the parser is made right again: the length of a header, a signature.

use std::ops::Range;

use bistro_protocol::object::{Kind, seal_line};

use crate::decoders::keypair;

/// How the inputs of a decoder are built.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Text without inner structure.
    Text,
    /// JSON, or YAML written as such.
    Json,
    /// A line of JSON with its signature.
    Sealed(Kind),
    /// A safetensors file.
    Tensors,
}

/// A small fast generator (splitmix64); the same inputs for the same seed, on every machine.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.draw()) * n as u128) >> 64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// Up to `most` neighbouring places in `n`.
    fn range(&mut self, n: usize, most: usize) -> Range<usize> {
        let start = self.below(n + 1);
        let length = self.below(most) + 1;
        start..(start + length).min(n)
    }
}

const BYTES: &[u8] = b"\0\x01\x7f\x80\xff\"\\{}[]:,0-9.eE \n\t/#&*!|>%@`'";
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "-0",
    "00",
    "0.5",
    "1e999",
    "-1e-999",
    "255",
    "65536",
    "4294967296",
    "9007199254740993",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "NaN",
    "null",
];
const TOKENS: &[&str] = &[
    "{}",
    "[]",
    "\"\"",
    "null",
    "true",
    "[[",
    "{\"\":",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{2028}",
    "é",
    ",",
    ",,",
    ":",
    "\"x\":1,",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "---\n",
    "- ",
    "? ",
    "__metadata__",
    "\0",
];

/// An endless stream of damaged inputs.
pub struct Mutator<'a> {
    form: Form,
    seeds: &'a [Vec<u8>],
    random: Random,
    input: Vec<u8>,
}

impl<'a> Mutator<'a> {
    /// Inputs of this form out of these valid ones.
    pub fn new(form: Form, seeds: &'a [Vec<u8>], seed: u64) -> Self {
        Self { form, seeds, random: Random(seed), input: Vec::new() }
    }

    /// The next input.
    pub fn damaged(&mut self) -> &[u8] {
        let seeds = self.seeds;
        let seed = &seeds[self.random.below(seeds.len())];
        self.input.clear();
        match self.form {
            Form::Text | Form::Json => {
                self.input.extend_from_slice(seed);
                self.damage();
            }
            Form::Sealed(kind) => self.sealed(kind, seed),
            Form::Tensors => self.tensors(seed),
        }
        &self.input
    }

    /// Damages the line and keeps the signature; seldom signs again, because that takes longer than all the rest.
    fn sealed(&mut self, kind: Kind, seed: &[u8]) {
        let newline = seed.iter().position(|b| *b == b'\n').unwrap_or(seed.len());
        if self.random.one_in(8) {
            self.input.extend_from_slice(seed);
            return self.damage();
        }
        self.input.extend_from_slice(&seed[..newline]);
        self.damage();
        if self.random.one_in(64) {
            self.input = seal_line(kind, &keypair(), std::mem::take(&mut self.input));
        } else {
            self.input.extend_from_slice(&seed[newline..]);
        }
    }

    /// Damages header or file; mostly fills the header up and corrects its length.
    fn tensors(&mut self, seed: &[u8]) {
        let (header, data) = split_tensors(seed);
        if self.random.one_in(4) {
            self.input.extend_from_slice(seed);
            return self.damage();
        }
        self.input.extend_from_slice(header.trim_ascii_end());
        self.damage();
        if !self.random.one_in(8) {
            self.input.resize(self.input.len().next_multiple_of(8), b' ');
        }
        let length = (self.input.len() as u64).to_le_bytes();
        self.input.splice(0..0, length);
        self.input.extend_from_slice(data);
    }

    /// One input in 64 stays whole: the way on which everything is right is worth a test too.
    fn damage(&mut self) {
        let places = if self.random.one_in(64) { 0 } else { 1 + self.random.below(4) };
        for _ in 0..places {
            self.damage_once();
        }
    }

    fn damage_once(&mut self) {
        let (random, input) = (&mut self.random, &mut self.input);
        let n = input.len();
        match random.below(16) {
            0 | 1 if n > 0 => input[random.below(n)] ^= 1 << random.below(8),
            2 | 3 if n > 0 => input[random.below(n)] = BYTES[random.below(BYTES.len())],
            4 if n > 0 => input.truncate(random.below(n)),
            5 | 6 => drop(input.drain(random.range(n, 32))),
            7 => {
                let again = input[random.range(n, 64)].to_vec();
                insert(input, random.below(n + 1), &again);
            }
            8 => {
                let other = &self.seeds[random.below(self.seeds.len())];
                let part = &other[random.range(other.len(), 64)];
                insert(input, random.below(n + 1), part);
            }
            9 => {
                let number = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 20, 1 << 32, n as u64, random.draw()];
                let number = number[random.below(8)].to_le_bytes();
                let place = if random.one_in(4) { 0 } else { random.below(n + 1) };
                let width = (1 << random.below(4)).min(n - place);
                input[place..place + width].copy_from_slice(&number[..width]);
            }
            10 | 11 => {
                let place = random.below(n + 1);
                let number = number_behind(input, place);
                input.splice(number, random.pick(NUMBERS).bytes());
            }
            12 | 13 => {
                let token = random.pick(TOKENS);
                insert(input, random.below(n + 1), token.as_bytes());
            }
            14 => {
                let (from, to) = (random.below(n + 1), random.below(n + 1));
                let member = member_behind(input, from).map(|m| input[m].to_vec());
                insert(input, to, &member.unwrap_or_default());
            }
            _ => {
                // Seldom long: most of what a long input shows, a short one shows sooner.
                let most = if random.one_in(64) { 8192 } else { 64 };
                let token = random.pick(&["[", "{\"a\":", "1,", "[],", "\"\",", " ", "a", "\\u0000", "9", "]", "}"]);
                let many = token.repeat(random.below(most / token.len()) + 1);
                insert(input, random.below(n + 1), many.as_bytes());
            }
        }
    }
}

fn insert(input: &mut Vec<u8>, place: usize, part: &[u8]) {
    input.splice(place..place, part.iter().copied());
}

/// The first number at or behind a place.
fn number_behind(input: &[u8], place: usize) -> Range<usize> {
    let start = input[place..].iter().position(u8::is_ascii_digit).map_or(input.len(), |i| place + i);
    let length = input[start..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'.').count();
    start..start + length
}

/// What stands between the next comma and the one behind it.
fn member_behind(input: &[u8], place: usize) -> Option<Range<usize>> {
    let start = place + input[place..].iter().position(|b| *b == b',')?;
    let end = start + 1 + input[start + 1..].iter().position(|b| matches!(b, b',' | b'}' | b']'))?;
    Some(start..end)
}

/// Header and data of a safetensors file that is valid.
fn split_tensors(file: &[u8]) -> (&[u8], &[u8]) {
    let length = file.first_chunk().map_or(0, |n| u64::from_le_bytes(*n)) as usize;
    let behind = file.get(8..).unwrap_or_default();
    behind.split_at(length.min(behind.len()))
}

/// Inputs that are meant to fill the memory: everywhere where the seed has a value, one of about `size` bytes instead, and
/// such a value under a name that nobody knows.
pub fn bombs(form: Form, seed: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (json, wrap): (&[u8], &dyn Fn(Vec<u8>) -> Vec<u8>) = match form {
        Form::Text => return fillers(size).into_iter().map(String::into_bytes).collect(),
        Form::Json => (seed, &|json| json),
        Form::Sealed(kind) => {
            let newline = seed.iter().position(|b| *b == b'\n').unwrap_or(seed.len());
            (&seed[..newline], &move |json| seal_line(kind, &keypair(), json))
        }
        Form::Tensors => {
            let (header, data) = split_tensors(seed);
            let wrap = move |mut header: Vec<u8>| {
                header.resize(header.len().next_multiple_of(8), b' ');
                [&(header.len() as u64).to_le_bytes(), header.as_slice(), data].concat()
            };
            return bombs_in(header, &fillers(size), &wrap);
        }
    };
    bombs_in(json, &fillers(size), wrap)
}

fn bombs_in(json: &[u8], fillers: &[String], wrap: &dyn Fn(Vec<u8>) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    for filler in fillers {
        let named = format!("\"unknown\":{filler},");
        for (place, byte) in json.iter().enumerate() {
            let with =
                |range: Range<usize>, part: &str| [&json[..range.start], part.as_bytes(), &json[range.end..]].concat();
            match byte {
                b'{' => made.push(wrap(with(place + 1..place + 1, &named))),
                b':' | b'[' => made.push(wrap(with(value_at(json, place + 1), filler))),
                _ => {}
            }
        }
    }
    made
}

/// The extent of the JSON value that starts here.
fn value_at(json: &[u8], start: usize) -> Range<usize> {
    let (mut depth, mut quoted) = (0, false);
    for (i, byte) in json.iter().enumerate().skip(start) {
        match byte {
            b'"' if i == start || json[i - 1] != b'\\' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            b',' | b'}' | b']' if depth == 0 => return start..i,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    start..json.len()
}

/// Values of about `size` bytes, each a way to ask for more memory than that.
fn fillers(size: usize) -> Vec<String> {
    let list = |item: &str| format!("[{}{item}]", format!("{item},").repeat(size / (item.len() + 1)));
    let keys: String = (0..size / 10).map(|i| format!("\"k{i:x}\":1,")).collect();
    let nested = |open: &str, close: &str| {
        let depth = 120.min(size / open.len());
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    };
    vec![
        list("1"),
        list("[]"),
        list("{}"),
        list("\"\""),
        list("null"),
        list("0.5"),
        list(&nested("[", "]")),
        list(&nested("{\"\":", "}")),
        format!("{{{keys}\"\":1}}"),
        format!("{{{}\"\":1}}", "\"\":1,".repeat(size / 5)),
        format!("\"{}\"", "a".repeat(size)),
        format!("\"{}\"", "\\u0000".repeat(size / 6)),
        "1".repeat(size),
        format!("1e{}", "1".repeat(size)),
        format!("0.{}1", "0".repeat(size)),
        "[".repeat(size),
        "{\"\":".repeat(size / 4),
        " ".repeat(size),
        // YAML: one text many times, and lists of lists that all are the same one.
        format!("[&t \"{}\"{}]", "a".repeat(size), " ,*t ".repeat(90)),
        format!("[&t \"{}\"{}]", "a".repeat(size), " ,*t ".repeat(16)),
        format!(
            "[&a0 [1]{}]",
            (0..9).map(|i| format!(",&a{} [{}*a{i} ]", i + 1, format!("*a{i} ,").repeat(8))).collect::<String>()
        ),
    ]
}
