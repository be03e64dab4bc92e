//! Flat buffers that begin where a register's worth of memory does.
//!
//! What a row of 64 bytes spans two lines of the cache is read and written twice; allocators give 16 bytes.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, of a register and of a tile's row.
const LINE: usize = 64;

/// Entries that are kept where they are, as those of a vector are.
#[derive(Debug, Default)]
pub struct Buffer {
    /// The entries and room around them.
    room: Vec<f32>,
    first: usize,
    length: usize,
}

impl Buffer {
    /// Keeps the first of the entries that are there, up to `length`; zeros follow.
    pub fn resize(&mut self, length: usize) {
        if self.first + length > self.room.len() {
            // More than asked for where it grew before, so that growing by and by does not copy every time.
            let most = if self.length == 0 { length } else { length.max(self.length + self.length / 2) };
            let room = vec![0.0; most + LINE / size_of::<f32>()];
            let first = room.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
            let before = std::mem::replace(self, Self { room, first, length: self.length });
            self[..].copy_from_slice(&before);
        } else if length > self.length {
            self.room[self.first + self.length..self.first + length].fill(0.0);
        }
        self.length = length;
    }

    /// So many zeros.
    pub fn zero(&mut self, length: usize) {
        self.resize(length);
        self.fill(0.0);
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.room[self.first..self.first + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.room[self.first..self.first + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_zeros_follow_and_lines_are_whole() {
        let mut buffer = Buffer::default();
        let mut expected: Vec<f32> = Vec::new();
        for (i, length) in [3, 100, 50, 70, 1000, 0, 10, 1_000_000].into_iter().enumerate() {
            buffer.resize(length);
            expected.resize(length, 0.0);
            assert!(buffer[..] == expected[..], "{length}");
            assert_eq!(buffer.as_ptr().align_offset(LINE), 0, "{length}");
            buffer.fill(i as f32);
            expected.fill(i as f32);
        }
        buffer.zero(7);
        assert_eq!(buffer[..], [0.0; 7]);
    }
}
