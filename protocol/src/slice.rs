//! The entries of each tensor that a miner must publish. Never sent, always derived: whoever knows the hash
//! of the reveal block knows them, and nobody knew it while training.

use crate::{
    permutation::Permutation,
    seed::{self, Seed},
    tensors::{Tensor, Tensors},
};

/// Largest tensor: indices are 32 bits.
pub const MAX_TENSOR: u64 = u32::MAX as u64;

/// Facts that name the slice of one window.
#[derive(Clone, Copy, Debug)]
pub struct SliceOf<'a> {
    /// Number of the subnet.
    pub netuid: u16,
    /// Id of the run.
    pub run: u32,
    /// The window.
    pub window: u64,
    /// Hash of the window's reveal block.
    pub reveal: &'a [u8; 32],
    /// One entry in so many.
    pub ratio: u32,
}

/// The entries that are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slice {
    /// The picked entries of every tensor, in tensor order; inside a tensor in the order of the permutation.
    Picked(Vec<Vec<u32>>),
    /// All of them, where they are: for work that picks what it sends by itself.
    Whole,
}

/// Number of entries picked from a tensor of `n`: `max(1, n / ratio)`.
pub fn picked(n: usize, ratio: u32) -> usize {
    (n / ratio.max(1) as usize).max(1)
}

impl Slice {
    /// Derives the slice of `schema`'s tensors (its values do not matter).
    pub fn derive(of: SliceOf<'_>, schema: &Tensors) -> Self {
        let entries = |t: &Tensor| {
            let seed: Seed = seed::slice(of.netuid, of.run, of.window, of.reveal, &t.name);
            let n = t.data.len();
            debug_assert!(n as u64 <= MAX_TENSOR);
            // Values are below n, which fits 32 bits.
            Permutation::new(&seed, n as u64).first(picked(n, of.ratio) as u64).map(|i| i as u32).collect()
        };
        Self::Picked(schema.iter().map(entries).collect())
    }

    /// The picked entries of `full`, which has the schema that the slice was derived from.
    pub fn gather(&self, full: &Tensors) -> Tensors {
        let Self::Picked(picked) = self else { return full.clone() };
        let tensors = full.iter().zip(picked).map(|(t, indices)| Tensor {
            name: t.name.clone(),
            shape: vec![indices.len()],
            data: indices.iter().map(|i| t.data[*i as usize]).collect(),
        });
        Tensors::new(tensors.collect()).expect("names stay unique and shapes are the lengths")
    }

    /// Calls `each` with place and value of every entry of `part`, the picked entries of tensor `number`.
    pub fn each(&self, number: usize, part: &Tensor, mut each: impl FnMut(usize, f32)) {
        match self {
            Self::Picked(picked) => picked[number].iter().zip(&part.data).for_each(|(i, x)| each(*i as usize, *x)),
            Self::Whole => part.data.iter().enumerate().for_each(|(i, x)| each(i, *x)),
        }
    }

    /// `full[index] += factor * part` for every picked entry; the product is rounded before the sum.
    pub fn scatter_add(&self, full: &mut Tensors, part: &Tensors, factor: f32) {
        for (number, (data, part)) in full.data_mut().zip(part).enumerate() {
            self.each(number, part, |i, x| {
                let step = factor * x;
                data[i] += step;
            });
        }
    }
}

/// Names and lengths of the slice of `schema` at `ratio`: what an artifact must look like.
pub fn shape(schema: &Tensors, ratio: u32) -> Vec<(String, Vec<usize>)> {
    schema.iter().map(|t| (t.name.clone(), vec![picked(t.data.len(), ratio)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Tensors {
        let tensor = |name: &str, n: usize| Tensor {
            name: name.into(),
            shape: vec![n],
            data: (0..n).map(|i| i as f32).collect(),
        };
        Tensors::new(vec![tensor("a", 1000), tensor("b", 1000), tensor("norm", 3)]).expect("valid")
    }

    fn of(reveal: &[u8; 32], window: u64) -> SliceOf<'_> {
        SliceOf { netuid: 1, run: 1, window, reveal, ratio: 4 }
    }

    #[test]
    fn tensors_windows_and_reveals_pick_differently() {
        let schema = schema();
        let slice = Slice::derive(of(&[1; 32], 5), &schema);
        let Slice::Picked(picked) = &slice else { panic!("derived") };
        assert_ne!(picked[0], picked[1]);
        assert_ne!(slice, Slice::derive(of(&[1; 32], 6), &schema));
        assert_ne!(slice, Slice::derive(of(&[2; 32], 5), &schema));
        assert_eq!(picked[2].len(), 1, "a tensor smaller than the ratio gives one entry");
    }

    #[test]
    fn scatter_undoes_gather_and_touches_nothing_else() {
        let schema = schema();
        let slice = Slice::derive(of(&[1; 32], 5), &schema);
        let mut full = schema.clone();
        slice.scatter_add(&mut full, &slice.gather(&schema), -1.0);
        let Slice::Picked(picked) = slice else { panic!("derived") };
        for ((before, after), picked) in schema.iter().zip(&full).zip(picked) {
            for (i, x) in after.data.iter().enumerate() {
                let expected = if picked.contains(&(i as u32)) { 0.0 } else { before.data[i] };
                assert_eq!(*x, expected, "{} entry {i}", after.name);
            }
        }
    }

    #[test]
    fn the_whole_is_every_entry_in_its_place() {
        let schema = schema();
        assert_eq!(Slice::Whole.gather(&schema), schema);
        let mut full = schema.clone();
        Slice::Whole.scatter_add(&mut full, &schema, 0.5);
        assert_eq!(full, schema.map(|x| x + 0.5 * x));
    }

    #[test]
    fn the_shape_is_what_gather_gives() {
        let schema = schema();
        let gathered = Slice::derive(of(&[1; 32], 5), &schema).gather(&schema);
        assert_eq!(gathered.shape(), shape(&schema, 4));
    }
}
