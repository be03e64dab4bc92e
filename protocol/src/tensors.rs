//! Named f32 tensors in name order: the base, a delta, a gradient, a merged slice.

use codec::Encode;

/// One tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name, unique within a set.
    pub name: String,
    /// Its dimensions; a slice has one.
    pub shape: Vec<usize>,
    /// Its entries; as many as the product of the shape.
    pub data: Vec<f32>,
}

/// Tensors sorted by the bytes of their names, each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors(Vec<Tensor>);

/// Why tensors do not form a set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TensorsError {
    /// Two tensors share a name.
    #[error("tensor {0:?} occurs twice")]
    Duplicate(String),
    /// The entries do not fill the shape.
    #[error("tensor {name:?} has {found} entries but its shape asks for {wanted}")]
    Length {
        /// Which tensor.
        name: String,
        /// Entries present.
        found: usize,
        /// Product of the shape.
        wanted: usize,
    },
}

impl Tensors {
    /// Sorts and checks.
    pub fn new(mut tensors: Vec<Tensor>) -> Result<Self, TensorsError> {
        tensors.sort_unstable_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        if let Some(pair) = tensors.windows(2).find(|p| p[0].name == p[1].name) {
            return Err(TensorsError::Duplicate(pair[0].name.clone()));
        }
        for t in &tensors {
            // A product beyond all numbers is never what is there.
            let wanted = t.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            if wanted != Some(t.data.len()) {
                let (found, wanted) = (t.data.len(), wanted.unwrap_or(usize::MAX));
                return Err(TensorsError::Length { name: t.name.clone(), found, wanted });
            }
        }
        Ok(Self(tensors))
    }

    /// The same names and shapes, all zero.
    pub fn zeros_like(&self) -> Self {
        self.map(|_| 0.0)
    }

    /// Applies `f` to every entry.
    pub fn map(&self, mut f: impl FnMut(f32) -> f32) -> Self {
        Self(self.0.iter().map(|t| Tensor { data: t.data.iter().map(|x| f(*x)).collect(), ..t.clone() }).collect())
    }

    /// `self - other`, entry by entry; both must have the same names and shapes.
    pub fn minus(&self, other: &Self) -> Self {
        debug_assert!(self.same_schema(other));
        let mut out = self.clone();
        for (a, b) in out.0.iter_mut().zip(&other.0) {
            for (x, y) in a.data.iter_mut().zip(&b.data) {
                *x -= y;
            }
        }
        out
    }

    /// Whether names and shapes are equal.
    pub fn same_schema(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(a, b)| a.name == b.name && a.shape == b.shape)
    }

    /// Whether these are exactly the names and shapes.
    pub fn has_shape(&self, shape: &[(String, Vec<usize>)]) -> bool {
        self.0.len() == shape.len()
            && self.0.iter().zip(shape).all(|(t, (name, dims))| t.name == *name && t.shape == *dims)
    }

    /// Names and shapes.
    pub fn shape(&self) -> Vec<(String, Vec<usize>)> {
        self.0.iter().map(|t| (t.name.clone(), t.shape.clone())).collect()
    }

    /// The tensor with this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.binary_search_by(|t| t.name.as_bytes().cmp(name.as_bytes())).ok().map(|i| &self.0[i])
    }

    /// The tensor at this place in name order.
    pub fn tensor(&self, number: usize) -> &Tensor {
        &self.0[number]
    }

    /// In name order.
    pub fn iter(&self) -> std::slice::Iter<'_, Tensor> {
        self.0.iter()
    }

    /// The entries of each tensor in name order; names and shapes stay.
    pub fn data_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.0.iter_mut().map(|t| t.data.as_mut_slice())
    }

    /// Entries of all tensors together.
    pub fn elements(&self) -> usize {
        self.0.iter().map(|t| t.data.len()).sum()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every entry is a finite number.
    pub fn all_finite(&self) -> bool {
        self.0.iter().all(|t| t.data.iter().all(|x| x.is_finite()))
    }

    /// Euclidean norm over all entries, accumulated in f64 in element order (so every node gets the same bits).
    pub fn norm(&self) -> f64 {
        self.0.iter().flat_map(|t| &t.data).fold(0.0, |sum: f64, x| sum + f64::from(*x) * f64::from(*x)).sqrt()
    }

    /// Digest over names, types, shapes and bytes: per tensor in name order, SCALE(name, "F32", shape as
    /// `Vec<u64>`) and then the raw little-endian entries. Two sets with the same digest are the same bits.
    pub fn digest(&self) -> [u8; 32] {
        digest(&[self])
    }
}

/// The norm of each set, with the bits of [`Tensors::norm`]. A sum in a fixed order waits for each of its additions;
/// those of four sets wait together.
pub fn norms(sets: &[&Tensors]) -> Vec<f64> {
    let (fours, rest) = sets.as_chunks::<4>();
    let mut norms = Vec::with_capacity(sets.len());
    for four in fours {
        if four.iter().all(|set| set.same_schema(four[0])) {
            norms.extend(four_norms(four));
        } else {
            norms.extend(four.iter().map(|set| set.norm()));
        }
    }
    norms.extend(rest.iter().map(|set| set.norm()));
    norms
}

/// Of sets with the same schema.
fn four_norms(sets: &[&Tensors; 4]) -> [f64; 4] {
    let mut sums = [0.0; 4];
    for tensor in 0..sets[0].len() {
        let [a, b, c, d] = sets.map(|set| set.0[tensor].data.as_slice());
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for (sum, x) in sums.iter_mut().zip([a, b, c, d]) {
                *sum += f64::from(*x) * f64::from(*x);
            }
        }
    }
    sums.map(f64::sqrt)
}

/// The digest of several sets one after the other: the parameters, then the mechanism's own state.
pub fn digest(parts: &[&Tensors]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for tensor in parts.iter().flat_map(|p| p.iter()) {
        let shape: Vec<u64> = tensor.shape.iter().map(|d| *d as u64).collect();
        hasher.update(&(tensor.name.as_str(), "F32", shape).encode());
        hash_entries(&mut hasher, &tensor.data);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(target_endian = "little")]
fn hash_entries(hasher: &mut blake3::Hasher, data: &[f32]) {
    hasher.update(bytemuck::cast_slice(data));
}

#[cfg(target_endian = "big")]
fn hash_entries(hasher: &mut blake3::Hasher, data: &[f32]) {
    for x in data {
        hasher.update(&x.to_le_bytes());
    }
}

impl<'a> IntoIterator for &'a Tensors {
    type Item = &'a Tensor;
    type IntoIter = std::slice::Iter<'a, Tensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Tensors {
    type Item = Tensor;
    type IntoIter = std::vec::IntoIter<Tensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[usize], data: &[f32]) -> Tensor {
        Tensor { name: name.into(), shape: shape.into(), data: data.into() }
    }

    #[test]
    fn order_of_arrival_does_not_matter() {
        let a = tensor("a", &[2], &[1.0, 2.0]);
        let b = tensor("b", &[1], &[3.0]);
        let ab = Tensors::new(vec![a.clone(), b.clone()]).expect("valid");
        let ba = Tensors::new(vec![b, a]).expect("valid");
        assert_eq!(ab.digest(), ba.digest());
    }

    #[test]
    fn the_digest_sees_names_shapes_and_every_bit() {
        let one = |name: &str, shape: &[usize], data: &[f32]| {
            Tensors::new(vec![tensor(name, shape, data)]).expect("valid").digest()
        };
        let all = [
            one("a", &[2], &[0.0, 1.0]),
            one("b", &[2], &[0.0, 1.0]),
            one("a", &[1, 2], &[0.0, 1.0]),
            one("a", &[2], &[-0.0, 1.0]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn norms_of_many_have_the_bits_of_each_alone() {
        let set = |k: usize| {
            let data: Vec<f32> = (0..100).map(|i| ((k * 31 + i * 17) % 97) as f32 * 0.1 - 3.0).collect();
            Tensors::new(vec![tensor("a", &[100], &data), tensor("b", &[1], &[k as f32])]).expect("valid")
        };
        let mut sets: Vec<_> = (0..9).map(set).collect();
        sets[5] = Tensors::new(vec![tensor("other", &[1], &[2.0])]).expect("valid");
        let sets: Vec<_> = sets.iter().collect();
        let bits = |norms: Vec<f64>| norms.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(norms(&sets)), bits(sets.iter().map(|s| s.norm()).collect()));
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn the_digest_is_pinned() {
        let tensors = Tensors::new(vec![tensor("w", &[2, 2], &[1.0, -2.5, 0.0, 3.25]), tensor("b", &[1], &[0.5])])
            .expect("valid");
        assert_eq!(hex::encode(tensors.digest()), "24c32dc4633dccf94fcab852546b3466ca4ce1d225ee425a4b209b06d7ad5d71");
    }

    #[test]
    fn duplicates_and_wrong_lengths_are_refused() {
        let twice = Tensors::new(vec![tensor("a", &[1], &[0.0]), tensor("a", &[1], &[0.0])]);
        assert_eq!(twice, Err(TensorsError::Duplicate("a".into())));
        for shape in [[2, 1], [usize::MAX, 2]] {
            assert!(matches!(Tensors::new(vec![tensor("a", &shape, &[0.0])]), Err(TensorsError::Length { .. })));
        }
    }
}
