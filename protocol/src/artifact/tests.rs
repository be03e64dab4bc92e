//! Files of both forms: what is read back, what is refused, and what is signed.

use proptest::prelude::*;

use super::*;
use crate::{hotkey::tests::keypair, object::tests::agreement, tensors::Tensor};

pub(crate) fn tensors() -> Tensors {
    let tensor = |name: &str, data: &[f32]| Tensor { name: name.into(), shape: vec![data.len()], data: data.into() };
    Tensors::new(vec![tensor("b", &[1.0, -2.0, 3.5]), tensor("a\"\u{e9}", &[0.0])]).expect("valid")
}

fn file() -> Vec<u8> {
    encode(&agreement(), 5, Kind::Delta, &keypair(1), [3; 32], &tensors())
}

#[test]
fn what_was_encoded_is_read_back_and_signed() {
    let artifact = decode(&file()).expect("canonical");
    assert_eq!((artifact.window, artifact.kind, artifact.base), (5, 2, [3; 32]));
    assert_eq!(artifact.content, Content::Tensors(tensors()));
    assert_eq!(artifact.agreement, agreement());
    assert!(artifact.is_signed_by(&Hotkey::from(&keypair(1))));
    assert!(!artifact.is_signed_by(&Hotkey::from(&keypair(2))));
}

#[test]
fn the_bound_holds() {
    let shape = tensors().shape();
    assert!(file().len() as u64 <= Form::Dense.max_bytes(&shape));
}

const TWO_BIT: topk::Settings = topk::Settings { k: 64, values: topk::Values::TwoBit };

/// Names and shapes.
type Schema = Vec<(String, Vec<usize>)>;

/// Work of two tensors, one of them longer than a chunk, its shape, and its file.
fn compressed(settings: topk::Settings) -> (Sparse, Schema, Vec<u8>) {
    let entry = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
    let tensor = |name: &str, shape: &[usize]| Tensor {
        name: name.into(),
        shape: shape.into(),
        data: (0..shape.iter().product::<usize>() as u32).map(entry).collect(),
    };
    let delta = Tensors::new(vec![tensor("norm", &[3]), tensor("w", &[50, 100])]).expect("valid");
    let shape = delta.shape();
    let sparse = topk::compress(&delta, None, settings, 1).expect("finite");
    let file = encode_sparse(&agreement(), 5, Kind::Delta, &keypair(1), [3; 32], &sparse);
    (sparse, shape, file)
}

#[test]
fn compressed_work_is_read_back_and_signed() {
    for values in [topk::Values::TwoBit, topk::Values::Bf16, topk::Values::F32] {
        for k in [1, 64, 4096] {
            let settings = topk::Settings { k, values };
            let (sparse, shape, file) = compressed(settings);
            assert!(file.len() as u64 <= Form::TopK(settings).max_bytes(&shape));
            let artifact = decode(&file).expect("canonical");
            assert!(artifact.is_for(&agreement(), &Hotkey::from(&keypair(1)), 5, Kind::Delta, [3; 32]));
            assert!(!artifact.is_signed_by(&Hotkey::from(&keypair(2))));
            let read = Form::TopK(settings).read(artifact.content, &shape);
            assert_eq!(read, Some(sparse.dense(&shape)));
        }
    }
}

/// Neither is taken for the other, nor work of other settings or shapes.
#[test]
fn work_is_read_in_its_form_only() {
    let (sparse, shape, file) = compressed(TWO_BIT);
    let content = decode(&file).expect("canonical").content;
    assert_eq!(Form::Dense.read(content.clone(), &shape), None, "compressed where tensors are agreed on");
    let dense = Content::Tensors(sparse.dense(&shape));
    assert_eq!(Form::TopK(TWO_BIT).read(dense.clone(), &shape), None, "tensors where compressed work is agreed on");
    assert!(Form::Dense.read(dense, &shape).is_some());
    let named = Tensor { name: TOP_K.into(), shape: vec![3], data: vec![1.0; 3] };
    let named = encode(&agreement(), 5, Kind::Delta, &keypair(1), [3; 32], &Tensors::new(vec![named]).expect("one"));
    assert!(matches!(decode(&named).expect("canonical").content, Content::Tensors(_)), "a tensor of that name");
    let read = |settings, shape: &[(String, Vec<usize>)]| Form::TopK(settings).read(content.clone(), shape);
    assert_eq!(read(topk::Settings { k: 63, ..TWO_BIT }, &shape), None);
    assert_eq!(read(topk::Settings { values: topk::Values::Bf16, ..TWO_BIT }, &shape), None);
    assert_eq!(read(TWO_BIT, &shape[..1]), None);
}

#[test]
fn a_changed_byte_of_compressed_work_is_never_accepted() {
    let (_, _, bytes) = compressed(TWO_BIT);
    for i in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut changed = bytes.clone();
            changed[i] ^= bit;
            let accepted = decode(&changed).is_ok_and(|a| a.is_signed_by(&Hotkey::from(&keypair(1))));
            assert!(!accepted, "byte {i}");
        }
        assert!(decode(&bytes[..i]).is_err(), "cut at {i}");
    }
    assert!(decode(&[&bytes[..], &[0]].concat()).is_err(), "a byte behind the last");
}

#[test]
fn a_changed_byte_is_never_accepted() {
    let bytes = file();
    for i in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[i] ^= 1;
        let accepted = decode(&changed).is_ok_and(|a| a.is_signed_by(&Hotkey::from(&keypair(1))));
        assert!(!accepted, "byte {i}");
    }
}

/// The same content with other spacing or order is another file with the same meaning: not accepted.
#[test]
fn only_the_one_form_is_read() {
    let bytes = file();
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("length")) as usize;
    let mut padded = (length as u64 + 8).to_le_bytes().to_vec();
    padded.extend_from_slice(&bytes[8..8 + length]);
    padded.extend_from_slice(b"        ");
    padded.extend_from_slice(&bytes[8 + length..]);
    assert!(decode(&padded).is_err(), "more blanks than needed");
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(decode(&longer).is_err(), "bytes behind the last tensor");
}

#[test]
fn fields_have_one_way_to_be_written() {
    let (fields, tensors) = tensor_file::read(&file()).expect("canonical");
    let with = |name: &str, value: &str| {
        let change = |(k, v): &(String, String)| if k == name { value.to_owned() } else { v.clone() };
        let changed: Vec<_> = fields.iter().map(|field| (field.0.as_str(), change(field))).collect();
        decode(&tensor_file::write(&changed, &tensors)).map(|a| a.window)
    };
    assert_eq!(with("window", "6"), Ok(6));
    for (name, value) in [("window", "05"), ("window", "+5"), ("base", "AB"), ("base", ""), ("netuid", "65536")] {
        assert!(with(name, value).is_err(), "{name} {value}");
    }
    let upper = fields.iter().find(|(k, _)| k == "signature").map(|(_, v)| v.to_uppercase()).expect("is there");
    assert!(with("signature", &upper).is_err());
    let mut more: Vec<_> = fields.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    more.push(("zeal", String::new()));
    assert!(decode(&tensor_file::write(&more, &tensors)).is_err(), "a field that nobody knows");
    assert!(decode(&tensor_file::write(&more[1..10], &tensors)).is_err(), "a field is missing");
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, header: String) {
        prop_assert!(decode(&bytes).is_err());
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        prop_assert!(decode(&file).is_err());
    }

    /// A row of any bytes is a file; what they are of a model, the form says, and it never panics.
    #[test]
    fn any_row_is_bounded_by_the_form(row in proptest::collection::vec(any::<u8>(), 0..200), n in 0usize..5000) {
        let file = tensor_file::write_row(&signed(&agreement(), 5, Kind::Delta, &keypair(1), [3; 32], digest_of_row(&row)), TOP_K, &row);
        let artifact = decode(&file).expect("canonical");
        prop_assert!(artifact.is_signed_by(&Hotkey::from(&keypair(1))));
        let shape = [("w".to_owned(), vec![n])];
        if let Some(work) = Form::TopK(TWO_BIT).read(artifact.content, &shape) {
            prop_assert!(work.all_finite() && work.has_shape(&shape));
        }
    }

    #[test]
    fn any_tensors_survive(data in proptest::collection::vec(any::<f32>().prop_filter("comparable", |x| !x.is_nan()), 1..50), name in "\\PC{1,20}") {
        let tensors = Tensors::new(vec![Tensor { name, shape: vec![data.len()], data }]).expect("valid");
        let bytes = encode(&agreement(), 5, Kind::Delta, &keypair(1), [3; 32], &tensors);
        prop_assert_eq!(decode(&bytes).map(|a| a.content), Ok(Content::Tensors(tensors)));
    }
}

/// Two nodes must agree on this for ever: what is signed.
#[test]
fn the_signed_message_is_pinned() {
    let artifact = decode(&file()).expect("canonical");
    assert_eq!(
        hex::encode(blake3::hash(&artifact.message([4; 32])).as_bytes()),
        "7abb37261c3f04a6ae82fd59209c1532eef85833f9229d37ac886c4622bfb0fc"
    );
}
/// Two nodes must agree on this for ever: what is signed of compressed work. The same bytes as tensors would be
/// another message.
#[test]
fn the_signed_message_of_compressed_work_is_pinned() {
    let (sparse, shape, file) = compressed(TWO_BIT);
    let artifact = decode(&file).expect("canonical");
    let message = |digest| hex::encode(blake3::hash(&artifact.message(digest)).as_bytes());
    assert_eq!(
        hex::encode(artifact.content.digest()),
        "88331f7779adfa1cb3199740354e1665ce8c044ae02d61ed5d6d00fd4373453d"
    );
    assert_eq!(message(artifact.content.digest()), "a4e23852787ef23098c39cf43131c0982663fe064f484f45e683f0b437f2876c");
    assert_ne!(artifact.content.digest(), sparse.dense(&shape).digest());
    assert_ne!(artifact.content.digest(), *blake3::hash(&sparse.write()).as_bytes());
}
