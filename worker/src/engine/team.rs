//! How an operation uses threads: alone on the one that it was called on, or with all threads of the pool that it was
//! called in. No bit depends on how many those are.

use std::ops::Range;

use rayon::prelude::*;

use super::ops::math::{add, sum_of_squares};

/// Entries that a thread takes at once of flat buffers: 256 KiB.
const ENTRIES: usize = 1 << 16;
/// Rows whose sum is formed by itself where sums over rows are shared out: fixed, so that it shows in no bit how many
/// threads there are.
pub const ROWS: usize = 64;

/// Who computes an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Team {
    /// The calling thread.
    Alone,
    /// The pool of the calling thread.
    Shared,
}

impl Team {
    /// For products.
    pub fn parallelism(self) -> gemm::Parallelism {
        match self {
            Self::Alone => gemm::Parallelism::None,
            Self::Shared => gemm::Parallelism::Rayon(0),
        }
    }

    /// Rows of a part where rows do not depend on each other: a few parts for each thread.
    pub fn part(self, rows: usize) -> usize {
        match self {
            Self::Alone => rows.max(1),
            Self::Shared => rows.div_ceil(4 * rayon::current_num_threads()).max(1),
        }
    }

    /// Calls `f` with each item.
    pub fn each<I: Send>(self, items: Vec<I>, f: impl Fn(I) + Sync + Send) {
        match self {
            Self::Alone => items.into_iter().for_each(f),
            Self::Shared => items.into_par_iter().for_each(f),
        }
    }

    /// What `f` gives for ranges of [`ROWS`] rows, in their order; for all rows at once where nobody shares.
    pub fn blocks<R: Send>(self, rows: usize, f: impl Fn(Range<usize>) -> R + Sync + Send) -> Vec<R> {
        match self {
            Self::Alone => vec![f(0..rows)],
            Self::Shared => {
                let range = |block: usize| block * ROWS..rows.min((block + 1) * ROWS);
                (0..rows.div_ceil(ROWS)).into_par_iter().map(|block| f(range(block))).collect()
            }
        }
    }

    /// Sets all entries to zero.
    pub fn clear(self, buffer: &mut [f32]) {
        match self {
            Self::Alone => buffer.fill(0.0),
            Self::Shared => buffer.par_chunks_mut(ENTRIES).for_each(|part| part.fill(0.0)),
        }
    }

    /// `out =` the sum of `parts`, in their order, or `out +=` it with `add_to`. Gives the sum of the squares of what comes out.
    pub fn gather(self, out: &mut [f32], parts: &[&[f32]], add_to: bool) -> f64 {
        let job = |(number, out): (usize, &mut [f32])| {
            let entries = number * ENTRIES..number * ENTRIES + out.len();
            let mut parts = parts.iter().map(|part| &part[entries.clone()]);
            if !add_to && let Some(first) = parts.next() {
                out.copy_from_slice(first);
            }
            parts.for_each(|part| add(out, part));
            sum_of_squares(out)
        };
        match self {
            Self::Alone => out.chunks_mut(ENTRIES).enumerate().map(job).sum(),
            Self::Shared => out.par_chunks_mut(ENTRIES).enumerate().map(job).collect::<Vec<f64>>().iter().sum(),
        }
    }

    /// Sum over parts of a flat buffer, added in their order.
    pub fn sum(self, buffer: &[f32], f: impl Fn(&[f32]) -> f64 + Sync + Send) -> f64 {
        match self {
            Self::Alone => buffer.chunks(ENTRIES).map(f).sum(),
            Self::Shared => buffer.par_chunks(ENTRIES).map(f).collect::<Vec<f64>>().iter().sum(),
        }
    }

    /// Calls `f` with equal parts of four buffers of one length.
    pub fn zip(
        self,
        (a, b, c): (&mut [f32], &mut [f32], &mut [f32]),
        d: &[f32],
        f: impl Fn(&mut [f32], &mut [f32], &mut [f32], &[f32]) + Sync + Send,
    ) {
        match self {
            Self::Alone => f(a, b, c, d),
            Self::Shared => {
                (a.par_chunks_mut(ENTRIES), b.par_chunks_mut(ENTRIES), c.par_chunks_mut(ENTRIES), d.par_chunks(ENTRIES))
                    .into_par_iter()
                    .for_each(|(a, b, c, d)| f(a, b, c, d))
            }
        }
    }
}
