//! Text that stays the same, so that the losses of two days compare.

use std::path::Path;

use bistro_api::run::Dataset;
use bistro_protocol::{page::Pages, seed};
use bistro_worker::data::{Documents, Error, FolderDocuments};

/// Shorter documents are declarations, longer ones tables.
const DOCUMENT: std::ops::Range<usize> = 2_000..60_000;

/// Bytes of the benchmarks' text: no page of 60 windows comes often.
const FROZEN: usize = 8 << 20;

/// One token a byte.
pub struct Text(Vec<u8>);

impl Text {
    /// The text of the benchmarks, out of the folder that the Makefile makes and names in BISTRO_TEXT.
    pub fn frozen() -> Self {
        let folder = std::env::var("BISTRO_TEXT").expect("BISTRO_TEXT names the folder of text: use make");
        Self::sources(folder.as_ref(), FROZEN).expect("a folder of text")
    }

    /// The Rust sources below a folder, in an order by lot that their paths decide, the first `limit` bytes.
    pub fn sources(folder: &Path, limit: usize) -> Result<Self, Error> {
        let documents = FolderDocuments::new(folder, &["rs".to_owned()])?;
        let mut found = Vec::new();
        for file in documents.files().iter().filter(|file| DOCUMENT.contains(&(file.size as usize))) {
            let path = folder.join(&file.key);
            let read = |source| Error::Read { path: path.display().to_string(), source };
            found.push((file.key.clone(), std::fs::read(&path).map_err(read)?));
        }
        // Whole crates one after the other would put another kind of text into the held-out end.
        found.sort_by_key(|(key, _)| seed::seed("text", key));
        let mut text: Vec<u8> = found.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        text.truncate(limit);
        Ok(Self(text))
    }

    /// `length` bytes that look like a program, drawn from a fixed seed: for tests, which need no corpus.
    pub fn generated(length: usize) -> Self {
        let mut author = Author::new();
        while author.text.len() < length {
            author.file();
        }
        author.text.truncate(length);
        Self(author.text)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The beginning of a digest: two runs compare only if it is the same.
    pub fn digest(&self) -> String {
        hex::encode(&seed::seed("text", &self.0)[..8])
    }

    /// The sequences of these pages, as a node reads them.
    pub fn sequences(&self, dataset: &Dataset, pages: &Pages, numbers: &[u64]) -> Vec<Vec<u32>> {
        let length = dataset.sequence_length as usize;
        let sequence = |first: usize| self.0[first..=first + length].iter().map(|b| u32::from(*b)).collect();
        let page = |number: &u64| {
            let first = pages.first_token(*number) as usize;
            (0..dataset.page_sequences as usize).map(move |s| first + s * length)
        };
        numbers.iter().flat_map(page).map(sequence).collect()
    }
}

/// Words that any file may use; a file prefers a few of them, so that pages differ as they do in real text.
const WORDS: usize = 800;
/// Words of one file.
const LOCAL: usize = 24;
/// Deepest nesting of blocks.
const DEPTH: u64 = 3;

/// Writes files of a made-up program.
struct Author {
    state: u64,
    words: Vec<String>,
    local: Vec<String>,
    text: Vec<u8>,
}

impl Author {
    fn new() -> Self {
        let mut author = Self { state: 1, words: Vec::new(), local: Vec::new(), text: Vec::new() };
        author.words = (0..WORDS).map(|_| author.coin()).collect();
        author
    }

    /// SplitMix64 (Steele, Lea and Flood 2014): a few lines, the same everywhere.
    fn below(&mut self, n: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// One of them; the first ones far more often, as with words.
    fn one_of<'a>(&mut self, choices: &'a [String]) -> &'a str {
        let most = self.below(choices.len() as u64) + 1;
        &choices[self.below(most) as usize]
    }

    /// A new word of one to three syllables.
    fn coin(&mut self) -> String {
        let mut word = String::new();
        for _ in 0..=self.below(3) {
            for letters in ["bcdfglmnprstv", "aeiou", "nrstl "] {
                let letter = letters.as_bytes()[self.below(letters.len() as u64) as usize];
                word.extend(Some(char::from(letter)).filter(|c| *c != ' '));
            }
        }
        word
    }

    fn name(&mut self) -> String {
        let local = std::mem::take(&mut self.local);
        let first = self.one_of(&local).to_owned();
        let name = if self.below(3) == 0 { format!("{first}_{}", self.one_of(&local)) } else { first };
        self.local = local;
        name
    }

    fn file(&mut self) {
        let words = std::mem::take(&mut self.words);
        self.local = (0..LOCAL).map(|_| self.one_of(&words).to_owned()).collect();
        self.words = words;
        for _ in 0..4 + self.below(8) {
            self.function();
        }
    }

    fn write(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    fn function(&mut self) {
        let [name, argument, kind] = [self.name(), self.name(), self.kind()];
        self.write(&format!(
            "/// Returns the {name} of {argument}.\npub fn {name}({argument}: &{kind}) -> {kind} {{\n"
        ));
        self.block(1);
        self.write("}\n\n");
    }

    fn kind(&mut self) -> String {
        ["u64", "String", "Vec<u8>", "Option<usize>", "bool"][self.below(5) as usize].to_owned()
    }

    fn block(&mut self, depth: u64) {
        for _ in 0..2 + self.below(4) {
            self.statement(depth);
        }
    }

    fn statement(&mut self, depth: u64) {
        let indent = "    ".repeat(depth as usize);
        let (name, value) = (self.name(), self.expression());
        match self.below(if depth < DEPTH { 6 } else { 4 }) {
            0 => self.write(&format!("{indent}let {name} = {value};\n")),
            1 => {
                let kind = ["u64", "usize"][self.below(2) as usize];
                self.write(&format!("{indent}let mut {name}: {kind} = {value};\n"));
            }
            2 => self.write(&format!("{indent}{name}.push({value});\n")),
            3 => self.write(&format!("{indent}self.{name} += {value};\n")),
            choice => {
                let open = if choice == 4 { format!("if {name} == {value}") } else { format!("for {name} in {value}") };
                self.write(&format!("{indent}{open} {{\n"));
                self.block(depth + 1);
                self.write(&format!("{indent}}}\n"));
            }
        }
    }

    fn expression(&mut self) -> String {
        let name = self.name();
        match self.below(5) {
            0 => name,
            1 => format!("{name}.len() + {}", self.below(10)),
            2 => format!("self.{name}({})", self.name()),
            3 => format!("&{name}[{}..]", self.below(10)),
            _ => format!("{name}.iter().map(|x| x.{}()).collect()", self.name()),
        }
    }
}
