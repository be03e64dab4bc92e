//! The entries of largest magnitude of each chunk.
//!
//! Magnitudes are compared as the bits of `|x|`, which order as the numbers do. A chunk is gone through three times, in
//! loops without branches that are vectors: its magnitudes are taken down; the largest of each of 256 groups is found; and
//! what reaches a bound is marked. The bound is the k-th largest of the groups' largest, found by halving to a few bits:
//! at least k entries reach it, of random ones few more. Among those the k-th largest is found exactly, by halving too.

use std::sync::{Mutex, PoisonError};

use super::{CHUNK, Error, kept};
use crate::simd::{prefetch, simd};

/// Groups of a chunk: an entry and every 256th behind it.
const GROUPS: usize = 256;
/// Entries of a group.
const ROWS: usize = CHUNK / GROUPS;
/// A bit for each entry.
const WORDS: usize = CHUNK / 64;
/// Candidates are counted so many at once.
const SIDE: usize = 16;
/// Bits of a group's maximum that are not looked at: 8 bits of exponent and 6 of mantissa remain.
const COARSE: u32 = 17;
/// Chunks of a job: 1 MiB of entries.
const JOB: usize = 64;
/// Bits of the magnitude of an infinity; what is above is no number.
const INFINITE: u32 = 0x7f80_0000;

/// The picked entries of one tensor: those of each chunk in order, by index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    /// Places inside the chunk, strictly increasing in each.
    pub indices: Vec<u16>,
    /// The entries there.
    pub values: Vec<f32>,
}

impl Picked {
    /// Room for what is kept of `len` entries.
    pub(super) fn of(len: usize, k: usize) -> Self {
        let count = super::kept_of(len, k);
        Self { indices: vec![0; count], values: vec![0.0; count] }
    }
}

/// What a chunk is looked at with; as large as the first cache.
pub(super) struct Selector {
    magnitudes: Box<[u32; CHUNK]>,
    maxima: [u32; GROUPS],
    masks: [u32; GROUPS],
    /// Of the candidates.
    places: Box<[u16; CHUNK]>,
    /// Their magnitudes; behind the last zeros up to a whole row.
    among: Box<[u32; CHUNK]>,
}

impl Selector {
    pub(super) fn new() -> Self {
        Self {
            magnitudes: Box::new([0; CHUNK]),
            maxima: [0; GROUPS],
            masks: [0; GROUPS],
            places: Box::new([0; CHUNK]),
            among: Box::new([0; CHUNK]),
        }
    }

    /// The `indices.len()` entries of largest magnitude in a chunk, the lower index first among equals, in the order of
    /// their places. `false` where an entry is not finite.
    pub(super) fn pick(&mut self, chunk: &[f32], indices: &mut [u16], values: &mut [f32]) -> bool {
        if !pick(self, chunk, indices) {
            return false;
        }
        for (value, index) in values.iter_mut().zip(indices) {
            *value = chunk[usize::from(*index)];
        }
        true
    }
}

/// Picks the `k` entries of largest magnitude of each chunk of 4096 (of a shorter last one its share, [`kept`]), the
/// lower index first among equals, on `threads` threads; they do not change what is picked. `k` is brought into
/// 1..=4096. An entry that is not finite is an error.
pub fn select(data: &[f32], k: usize, threads: usize) -> Result<Picked, Error> {
    let k = k.clamp(1, CHUNK);
    let mut picked = Picked::of(data.len(), k);
    let mut jobs = Vec::new();
    divide(&mut jobs, 0, data, None, k, &mut picked);
    match work(jobs, k, 0.0, threads) {
        None => Ok(picked),
        Some(tensor) => Err(Error::NotFinite(tensor)),
    }
}

/// Some chunks of one tensor, and where their picked entries go.
pub(super) struct Job<'a> {
    tensor: usize,
    data: &'a [f32],
    residual: Option<&'a mut [f32]>,
    indices: &'a mut [u16],
    values: &'a mut [f32],
}

/// Cuts a tensor into jobs.
pub(super) fn divide<'a>(
    jobs: &mut Vec<Job<'a>>,
    tensor: usize,
    data: &'a [f32],
    residual: Option<&'a mut [f32]>,
    k: usize,
    picked: &'a mut Picked,
) {
    let mut residuals = residual.map(|r| r.chunks_mut(JOB * CHUNK));
    let picked = picked.indices.chunks_mut(JOB * k).zip(picked.values.chunks_mut(JOB * k));
    for (data, (indices, values)) in data.chunks(JOB * CHUNK).zip(picked) {
        let residual = residuals.as_mut().and_then(Iterator::next);
        jobs.push(Job { tensor, data, residual, indices, values });
    }
}

/// Does all jobs; the number of the first tensor with an entry that is not finite.
pub(super) fn work(jobs: Vec<Job<'_>>, k: usize, decay: f32, threads: usize) -> Option<usize> {
    let threads = threads.min(jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    let some = || {
        let (mut selector, mut wrong) = (Selector::new(), None);
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(job) = job else { return wrong };
            let tensor = job.tensor;
            if !job.run(&mut selector, k, decay) {
                wrong = Some(wrong.map_or(tensor, |first: usize| first.min(tensor)));
            }
        }
    };
    if threads <= 1 {
        return some();
    }
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(some)).collect();
        let own = some();
        others.into_iter().filter_map(|one| one.join().expect("it does not panic")).chain(own).min()
    })
}

impl Job<'_> {
    /// Whether every entry is finite.
    fn run(self, selector: &mut Selector, k: usize, decay: f32) -> bool {
        let Self { data, residual, indices, values, .. } = self;
        let mut picked = indices.chunks_mut(k).zip(values.chunks_mut(k));
        let mut pick = |chunk: &[f32]| {
            let (indices, values) = picked.next().expect("room was made for each chunk");
            debug_assert_eq!(indices.len(), kept(chunk.len(), k));
            selector.pick(chunk, indices, values)
        };
        match residual {
            None => data.chunks(CHUNK).all(pick),
            Some(residual) => data.chunks(CHUNK).zip(residual.chunks_mut(CHUNK)).all(|(delta, residual)| {
                carry(delta, residual, decay);
                pick(residual)
            }),
        }
    }
}

simd! {
    /// `residual = delta + decay * residual`; the product is rounded before the sum.
    fn carry(delta: &[f32], residual: &mut [f32], decay: f32) {
        for (residual, delta) in residual.iter_mut().zip(delta) {
            let carried = decay * *residual;
            *residual = delta + carried;
        }
    }
}

simd! {
    fn pick(selector: &mut Selector, chunk: &[f32], indices: &mut [u16]) -> bool {
        let Selector { magnitudes, maxima, masks, places, among } = selector;
        let (n, k) = (chunk.len(), indices.len());
        if n < CHUNK {
            magnitudes.fill(0);
        }
        take_down(chunk, magnitudes);
        largest_of_groups(magnitudes, maxima);
        let most = maxima.iter().fold(0, |most, m| if *m > most { *m } else { most });
        if most >= INFINITE {
            return false;
        }
        // What is behind the last entry is zero and reaches nothing but zero: then no place is left out.
        let least = kth_largest(maxima, k, 0, most, 1 << COARSE);
        let found = if least == 0 {
            everything(&magnitudes[..n], places, among)
        } else {
            reaching(magnitudes, least, masks);
            gather(maxima, masks, least, magnitudes, places, among)
        };
        let rows = found.next_multiple_of(SIDE);
        among[found..rows].fill(0);
        let exact = kth_largest(&among[..rows], k, least, most, 1);
        // Who is in, by place; and of equals only the first.
        let mut chosen = [0u64; WORDS];
        let mut count = 0;
        for (place, magnitude) in places[..found].iter().zip(&among[..found]) {
            let reached = *magnitude >= exact;
            chosen[usize::from(*place) / 64 % WORDS] |= u64::from(reached) << (*place % 64);
            count += usize::from(reached);
        }
        if count > k {
            leave_out(&mut chosen, count - k, magnitudes, exact);
        }
        ranks(&chosen, &places[..found], indices);
        true
    }
}

/// Takes the last `more` of those that are `exact` out.
#[inline(always)]
fn leave_out(chosen: &mut [u64; WORDS], mut more: usize, magnitudes: &[u32; CHUNK], exact: u32) {
    for place in (0..CHUNK).rev() {
        let bit = 1 << (place % 64);
        if more > 0 && chosen[place / 64] & bit != 0 && magnitudes[place] == exact {
            chosen[place / 64] &= !bit;
            more -= 1;
        }
    }
}

/// Writes the chosen places in their order: a place goes where the number of chosen ones before it says.
#[inline(always)]
fn ranks(chosen: &[u64; WORDS], places: &[u16], indices: &mut [u16]) {
    let mut before = [0u32; WORDS];
    let mut sum = 0u32;
    for (before, word) in before.iter_mut().zip(chosen) {
        *before = sum;
        sum = sum.wrapping_add(word.count_ones());
    }
    for place in places {
        let (word, bit) = (usize::from(*place) / 64 % WORDS, *place % 64);
        let rank = before[word].wrapping_add((chosen[word] & ((1 << bit) - 1)).count_ones());
        if let (true, Some(index)) = (chosen[word] >> bit & 1 == 1, indices.get_mut(rank as usize)) {
            *index = *place;
        }
    }
}

/// Magnitudes of a chunk; the next one is on its way meanwhile.
#[inline(always)]
fn take_down(chunk: &[f32], magnitudes: &mut [u32; CHUNK]) {
    for (magnitudes, entries) in magnitudes.chunks_exact_mut(SIDE).zip(chunk.chunks(SIDE)) {
        prefetch(entries, CHUNK);
        for (m, x) in magnitudes.iter_mut().zip(entries) {
            *m = x.to_bits() & !(1 << 31);
        }
    }
}

/// The largest of each group: every 256th entry is in the same one.
#[inline(always)]
fn largest_of_groups(magnitudes: &[u32; CHUNK], maxima: &mut [u32; GROUPS]) {
    for (group, most) in maxima.iter_mut().enumerate() {
        *most = magnitudes[group];
        for row in 1..ROWS {
            *most = magnitudes[group + row * GROUPS].max(*most);
        }
    }
}

/// How many of the values are at least `least`.
#[inline(always)]
fn count(values: &[u32], least: u32) -> usize {
    values.iter().fold(0u32, |sum, x| sum.wrapping_add(u32::from(*x >= least))) as usize
}

/// A number that at least `k` of the values reach, `known` for one and with `most` above none: the largest, or less than
/// `step` below it.
#[inline(always)]
fn kth_largest(values: &[u32], k: usize, known: u32, most: u32, step: u32) -> u32 {
    // The k-th of a bell is less than two octaves below the largest: looked at first.
    let (mut least, mut beyond) = (known, most + 1);
    let near = beyond.saturating_sub(1 << 24).max(known);
    if count(values, near) >= k {
        least = near;
    } else {
        beyond = near;
    }
    while beyond - least > step {
        let middle = least + (beyond - least) / 2;
        let reached = count(values, middle) >= k;
        least = if reached { middle } else { least };
        beyond = if reached { beyond } else { middle };
    }
    least
}

/// For each group, which of its entries reach `least`: bit r is row r.
#[inline(always)]
fn reaching(magnitudes: &[u32; CHUNK], least: u32, masks: &mut [u32; GROUPS]) {
    for (group, mask) in masks.iter_mut().enumerate() {
        *mask = 0;
        for row in 0..ROWS {
            *mask |= u32::from(magnitudes[group + row * GROUPS] >= least) << row;
        }
    }
}

/// Places and magnitudes of the entries that reach `least`, group by group; how many.
#[inline(always)]
fn gather(
    maxima: &[u32; GROUPS],
    masks: &[u32; GROUPS],
    least: u32,
    magnitudes: &[u32; CHUNK],
    places: &mut [u16; CHUNK],
    among: &mut [u32; CHUNK],
) -> usize {
    let mut groups = [0u8; GROUPS];
    let mut reached = 0;
    for (group, most) in maxima.iter().enumerate() {
        // Below 256.
        groups[reached % GROUPS] = group as u8;
        reached += usize::from(*most >= least);
    }
    let mut found = 0;
    for group in &groups[..reached] {
        let group = usize::from(*group);
        let mut mask = masks[group];
        while mask != 0 {
            let place = mask.trailing_zeros() as usize % ROWS * GROUPS + group;
            places[found % CHUNK] = place as u16;
            among[found % CHUNK] = magnitudes[place];
            found += 1;
            mask &= mask - 1;
        }
    }
    found
}

/// All places and magnitudes.
#[inline(always)]
fn everything(magnitudes: &[u32], places: &mut [u16; CHUNK], among: &mut [u32; CHUNK]) -> usize {
    for (place, (slot, (to, m))) in places.iter_mut().zip(among.iter_mut().zip(magnitudes)).enumerate() {
        *slot = place as u16;
        *to = *m;
    }
    magnitudes.len()
}
