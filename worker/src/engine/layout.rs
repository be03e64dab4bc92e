//! All parameters of a model in one flat buffer, and the way there and back.
//!
//! Inside a step the engine works on flat buffers: one for the parameters, one for the gradient, two for
//! the moments. Tensors that are used together lie side by side, so that one product serves them all.

use std::ops::Range;

use bistro_protocol::{
    init::{Init, TensorSpec},
    tensors::{Tensor, Tensors},
};

use super::{Error, buffer::Buffer};

/// Where each tensor lies in the flat buffer.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// In the order of the buffer.
    entries: Vec<Entry>,
    /// Indices into `entries`, sorted by the bytes of the names: the order of [`Tensors`].
    by_name: Vec<usize>,
    /// Entries of all tensors together.
    length: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    spec: TensorSpec,
    range: Range<usize>,
}

/// One tensor, or neighbours used as one, in the flat buffer.
#[derive(Clone, Debug)]
pub struct Place(Range<usize>);

impl Place {
    /// From the beginning of this tensor to the end of `last`.
    pub fn to(&self, last: &Self) -> Self {
        Self(self.0.start..last.0.end)
    }

    /// Its entries.
    pub fn of<'a>(&self, flat: &'a [f32]) -> &'a [f32] {
        &flat[self.0.clone()]
    }

    /// Its entries, to be written.
    pub fn of_mut<'a>(&self, flat: &'a mut [f32]) -> &'a mut [f32] {
        &mut flat[self.0.clone()]
    }
}

impl Layout {
    /// Appends a tensor and returns its place.
    pub fn push(&mut self, name: String, shape: &[usize], init: Init) -> Place {
        let range = self.length..self.length + shape.iter().product::<usize>();
        self.length = range.end;
        self.entries.push(Entry { spec: TensorSpec { name, shape: shape.to_vec(), init }, range: range.clone() });
        self.by_name = (0..self.entries.len()).collect();
        self.by_name.sort_by(|a, b| self.entries[*a].spec.name.as_bytes().cmp(self.entries[*b].spec.name.as_bytes()));
        Place(range)
    }

    /// Length of the flat buffer.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Name, shape and first values of each tensor, in name order.
    pub fn specs(&self) -> Vec<TensorSpec> {
        self.sorted().map(|e| e.spec.clone()).collect()
    }

    /// Copies tensors into a flat buffer. [`Error::Schema`] where a name or a shape differs.
    pub fn flatten(&self, tensors: &Tensors, flat: &mut Buffer) -> Result<(), Error> {
        self.check(tensors)?;
        flat.resize(self.length);
        for (entry, tensor) in self.sorted().zip(tensors) {
            flat[entry.range.clone()].copy_from_slice(&tensor.data);
        }
        Ok(())
    }

    /// The tensors of a flat buffer.
    pub fn tensors(&self, flat: &[f32]) -> Result<Tensors, Error> {
        let tensors = self.sorted().map(|e| Tensor {
            name: e.spec.name.clone(),
            shape: e.spec.shape.clone(),
            data: flat[e.range.clone()].to_vec(),
        });
        Ok(Tensors::new(tensors.collect())?)
    }

    /// [`Error::NotFinite`] with the first tensor, in name order, that holds an infinity or a NaN.
    pub fn check_finite(&self, what: &'static str, flat: &[f32]) -> Result<(), Error> {
        match self.sorted().find(|e| !flat[e.range.clone()].iter().all(|x| x.is_finite())) {
            Some(entry) => Err(Error::NotFinite { what, tensor: entry.spec.name.clone() }),
            None => Ok(()),
        }
    }

    /// [`Error::Schema`] where a name or a shape differs.
    pub fn check(&self, tensors: &Tensors) -> Result<(), Error> {
        for (entry, tensor) in self.sorted().zip(tensors) {
            let TensorSpec { name, shape, .. } = &entry.spec;
            if *name != tensor.name || *shape != tensor.shape {
                let wanted = format!("{name:?} {shape:?}");
                return Err(Error::Schema { wanted, found: format!("{:?} {:?}", tensor.name, tensor.shape) });
            }
        }
        if self.entries.len() != tensors.len() {
            let count = |n: usize| format!("{n} tensors");
            return Err(Error::Schema { wanted: count(self.entries.len()), found: count(tensors.len()) });
        }
        Ok(())
    }

    fn sorted(&self) -> impl Iterator<Item = &Entry> {
        self.by_name.iter().map(|i| &self.entries[*i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let mut layout = Layout::default();
        layout.push("b".into(), &[2, 2], Init::Constant(1.0));
        layout.push("a".into(), &[1], Init::Constant(0.0));
        layout
    }

    #[test]
    fn there_and_back() {
        let layout = layout();
        let flat = [1.0, 2.0, 3.0, 4.0, 5.0];
        let tensors = layout.tensors(&flat).expect("fits");
        assert_eq!(tensors.get("a").expect("a").data, [5.0]);
        let mut again = Buffer::default();
        layout.flatten(&tensors, &mut again).expect("same schema");
        assert_eq!(again[..], flat);
    }

    #[test]
    fn another_schema_is_refused() {
        let tensor = |name: &str, shape: &[usize]| Tensor {
            name: name.into(),
            shape: shape.into(),
            data: vec![0.0; shape.iter().product()],
        };
        for tensors in [
            vec![tensor("a", &[1])],
            vec![tensor("a", &[1]), tensor("b", &[4])],
            vec![tensor("a", &[1]), tensor("c", &[2, 2])],
        ] {
            let tensors = Tensors::new(tensors).expect("valid");
            assert!(matches!(layout().flatten(&tensors, &mut Buffer::default()), Err(Error::Schema { .. })));
        }
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let error = layout().check_finite("gradient", &[0.0, f32::NAN, 0.0, 0.0, 0.0]).expect_err("a NaN in b");
        assert_eq!(error.to_string(), "gradient of \"b\" is not finite");
    }
}
