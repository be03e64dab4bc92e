//! What a miner of compressed work sends, and what it has not sent yet.

use bistro_protocol::{
    artifact::Form,
    mechanism::Mechanism,
    object::Hex32,
    tensor_file,
    tensors::Tensors,
    topk::{self, Carried, Sparse},
};

/// Key of the note in a file.
const NOTE: &str = "bistro.residual";

/// Compressed work and what it leaves behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// What is published.
    pub work: Sparse,
    /// What is not, and is carried on; nothing where the run carries nothing.
    pub left: Option<Tensors>,
}

/// Compresses work, with what was carried into it (nothing: zeros). What was carried is dropped, with a line in the log,
/// where it has other names and shapes than the work, or numbers that no longer add up. `None` where the run sends its
/// work as it is.
pub fn send(
    mechanism: Mechanism<'_>,
    work: &Tensors,
    carried: Option<Tensors>,
    threads: usize,
) -> Option<Result<Sent, topk::Error>> {
    let Form::TopK(settings) = mechanism.form() else { return None };
    let decay = mechanism.decay();
    if decay == 0.0 {
        return Some(topk::compress(work, None, settings, threads).map(|work| Sent { work, left: None }));
    }
    let mut residual = carried.unwrap_or_else(|| work.zeros_like());
    let compress = |residual: &mut Tensors| {
        let carried = Carried { residual, decay };
        topk::compress(work, Some(carried), settings, threads)
    };
    let sent = match compress(&mut residual) {
        Err(error) => {
            tracing::warn!(%error, "what was carried into this window is dropped");
            residual = work.zeros_like();
            compress(&mut residual)
        }
        sent => sent,
    };
    Some(sent.map(|work| Sent { work, left: Some(residual) }))
}

/// What a work left behind, as it is kept on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Residual {
    /// blake3 of the file with that work.
    pub artifact: Hex32,
    /// Names and shapes are the model's.
    pub tensors: Tensors,
}

impl Residual {
    /// A safetensors file; the note has the digest of everything.
    pub fn to_bytes(&self) -> Vec<u8> {
        tensor_file::write(&[(NOTE, format!("{} {}", self.artifact, self.digest()))], &self.tensors)
    }

    /// Reads what [`Residual::to_bytes`] wrote; every changed bit is noticed. `None`: this is no such file.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (fields, tensors) = tensor_file::read(bytes).ok()?;
        let (_, note) = fields.iter().find(|(key, _)| key == NOTE)?;
        let (artifact, digest) = note.split_once(' ')?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(artifact, &mut bytes).ok()?;
        let residual = Self { artifact: Hex32(bytes), tensors };
        (residual.digest() == digest).then_some(residual)
    }

    /// Over all of it, in hex.
    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.artifact.0);
        hasher.update(&self.tensors.digest());
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use bistro_api::mechanism as settings;
    use bistro_protocol::tensors::Tensor;
    use serde_json::json;

    use super::*;

    fn run(decay: &str) -> settings::Mechanism {
        let compression = json!({ "topK": { "k": 2, "values": "f32", "decay": decay } });
        serde_json::from_value(json!({ "lossReduction": { "compression": compression } })).expect("a mechanism")
    }

    fn work(data: &[f32]) -> Tensors {
        Tensors::new(vec![Tensor { name: "w".into(), shape: vec![data.len()], data: data.into() }]).expect("one")
    }

    /// Of a chunk of 4096 the two largest; of 3000 entries that is ceil(2 * 3000 / 4096) = 2.
    fn delta(first: f32) -> Tensors {
        let mut data = vec![0.0; 3000];
        (data[7], data[8], data[9]) = (first, -3.0, 2.0);
        work(&data)
    }

    #[test]
    fn what_is_not_sent_is_carried_on() {
        let run = run("0.5");
        let mechanism = Mechanism::of(&run).expect("one member");
        let send = |carried| send(mechanism, &delta(1.0), carried, 1).expect("compressed").expect("finite");
        let first = send(None);
        let left = first.left.clone().expect("it carries");
        assert_eq!(left.tensor(0).data[7..10], [1.0, 0.0, 0.0]);
        let second = send(Some(left));
        assert_eq!(second.left.expect("it carries").tensor(0).data[7..10], [1.5, 0.0, 0.0]);
        let strange = send(Some(work(&[1.0])));
        assert_eq!(strange, first, "of another model: dropped");
        let endless = send(Some(work(&[f32::INFINITY; 3000])));
        assert_eq!(endless, first, "no numbers: dropped");
        let wrong = super::send(mechanism, &delta(f32::NAN), None, 1).expect("compressed");
        assert_eq!(wrong, Err(topk::Error::NotFinite(0)));
    }

    #[test]
    fn a_run_may_carry_nothing_or_compress_nothing() {
        let carries_nothing = run("0");
        let mechanism = Mechanism::of(&carries_nothing).expect("one member");
        let sent = send(mechanism, &delta(1.0), Some(delta(9.0)), 1).expect("compressed").expect("finite");
        assert_eq!(sent.left, None);
        assert_eq!(Ok(sent.work.dense(&delta(1.0).shape())), mechanism.sent(delta(1.0), 1));
        let dense = settings::Mechanism {
            loss_reduction: Some(serde_json::from_value(json!({})).expect("defaults")),
            ..settings::Mechanism::default()
        };
        assert_eq!(send(Mechanism::of(&dense).expect("one member"), &delta(1.0), None, 1), None);
    }

    #[test]
    fn files_bring_back_the_same_bits() {
        let residual = Residual { artifact: Hex32([7; 32]), tensors: work(&[1.5, -0.0, f32::MIN_POSITIVE / 4.0]) };
        let bytes = residual.to_bytes();
        assert_eq!(Residual::from_bytes(&bytes), Some(residual.clone()));
        for i in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[i] ^= 1;
            assert_eq!(Residual::from_bytes(&wrong), None, "byte {i}");
            assert_eq!(Residual::from_bytes(&bytes[..i]), None, "cut at {i}");
        }
    }
}
