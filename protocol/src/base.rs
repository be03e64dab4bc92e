//! What all honest nodes hold at the start of a window, bit for bit.

use std::collections::BTreeMap;

use crate::tensors::{self, Tensor, Tensors};

/// Names of a mechanism's own state begin with this; no model has such names.
pub const STATE: &str = "outer.";

/// The parameters, and what the mechanism keeps beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Base {
    /// The model.
    pub parameters: Tensors,
    /// The mechanism's own, for example the moments of an outer optimizer; empty for most.
    pub state: Tensors,
}

impl Base {
    /// Parameters of a mechanism that keeps nothing else.
    pub fn plain(parameters: Tensors) -> Self {
        Self { parameters, state: Tensors::default() }
    }

    /// The digest that names it: the parameters, then the state.
    pub fn digest(&self) -> [u8; 32] {
        tensors::digest(&[&self.parameters, &self.state])
    }

    /// All tensors in one set, as a file holds them.
    pub fn to_tensors(&self) -> Tensors {
        if self.state.is_empty() {
            return self.parameters.clone();
        }
        let all: Vec<Tensor> = self.parameters.iter().chain(&self.state).cloned().collect();
        Tensors::new(all).expect("no model has names of the state")
    }

    /// Takes such a set apart.
    pub fn from_tensors(all: Tensors) -> Self {
        let (state, parameters): (Vec<Tensor>, Vec<Tensor>) = all.into_iter().partition(|t| t.name.starts_with(STATE));
        let sound = |part: Vec<Tensor>| Tensors::new(part).expect("a part of a set is a set");
        Self { parameters: sound(parameters), state: sound(state) }
    }

    /// Entries of each tensor of the state by its name, to change.
    pub(crate) fn state_mut(&mut self) -> (&mut Tensors, BTreeMap<String, &mut [f32]>) {
        let names: Vec<String> = self.state.iter().map(|t| t.name.clone()).collect();
        (&mut self.parameters, names.into_iter().zip(self.state.data_mut()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, x: f32) -> Tensor {
        Tensor { name: name.into(), shape: vec![1], data: vec![x] }
    }

    #[test]
    fn a_base_is_one_file_and_read_back_the_same() {
        let parameters = Tensors::new(vec![tensor("a", 1.0), tensor("z", 2.0)]).expect("valid");
        let state = Tensors::new(vec![tensor("outer.m.a", 3.0), tensor("outer.m.z", 4.0)]).expect("valid");
        let base = Base { parameters: parameters.clone(), state };
        assert_eq!(Base::from_tensors(base.to_tensors()), base);
        assert_ne!(base.digest(), base.to_tensors().digest(), "the state follows all parameters");
        assert_eq!(Base::plain(parameters.clone()).digest(), parameters.digest());
        assert_eq!(Base::from_tensors(parameters.clone()), Base::plain(parameters));
    }
}
