//! A file that is one document.

use std::io::Read;

use super::{Row, Rows, Watched};
use crate::data::{Error, MAX_DOCUMENT};

/// A file that is one document.
pub struct Plain(Option<Watched>);

impl Plain {
    /// From row 0 or, with nothing left, from row 1 on.
    pub fn new(content: Watched, row: u64) -> Self {
        Self((row == 0).then_some(content))
    }
}

impl Rows for Plain {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        let Some(mut content) = self.0.take() else { return Ok(None) };
        let mut bytes = Vec::new();
        let size = (&mut content).take(MAX_DOCUMENT + 1).read_to_end(&mut bytes);
        let size = size.map_err(|error| content.watch.failed(error))?;
        let text = if size as u64 > MAX_DOCUMENT { None } else { String::from_utf8(bytes).ok() };
        if text.is_none() {
            tracing::debug!("skipped {}: not UTF-8 or too long", content.watch.key);
        }
        Ok(Some(Row { text, row: 0, offset: 0 }))
    }
}
