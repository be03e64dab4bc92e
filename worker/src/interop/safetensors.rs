//! safetensors files of other writers, read into f32, and files that they read.
//!
//! The library checks that the tensors lie side by side and fill the file; here stand what it leaves open: how long a
//! header may be, and which types of numbers there are. Nothing is allocated that the file does not hold.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use bistro_protocol::{tensor_file, tensors::Tensor};
use half::{bf16, f16};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{TensorInfo, TensorView},
};
use serde_json::value::RawValue;

use super::{Error, Quoted};

/// Longest header that is read, as for files of our own: the library's tables take a hundred times as much memory.
pub const MAX_HEADER: u64 = tensor_file::MAX_HEADER;
/// The length of a header is a multiple of this, so that the data is aligned.
const ALIGN: usize = 8;

/// Names and tensors of a file in name order, none of them copied yet. `name` is the file's, for errors.
pub fn read<'a>(name: &str, bytes: &'a [u8]) -> Result<Vec<(String, TensorView<'a>)>, Error> {
    let header = bytes.first_chunk().map(|n| u64::from_le_bytes(*n));
    let header = header.ok_or_else(|| Error::file(name, "is no safetensors file: it has fewer than 8 bytes"))?;
    if header > MAX_HEADER {
        return Err(Error::file(
            name,
            format!("is no safetensors file that is read: its header has {header} bytes, at most {MAX_HEADER}"),
        ));
    }
    let rest = &bytes[8..];
    if let Some((header, data)) = rest.split_at_checked(header as usize) {
        check(name, header, data.len())?;
    }
    let file = SafeTensors::deserialize(bytes).map_err(|error| {
        // What a header says may have any length and hold anything.
        cut(name, error.to_string().chars().filter(|c| !c.is_control()).take(160).collect())
    })?;
    let mut tensors = file.tensors();
    tensors.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

fn cut(file: &str, reason: String) -> Error {
    Error::file(file, format!("is no whole safetensors file ({reason}): fetch it again"))
}

/// Each tensor lies within the data and takes the room that its shape and type take. The library says of such a fault not
/// whose it is, and adds what the header says without a bound.
fn check(file: &str, header: &[u8], data: usize) -> Result<(), Error> {
    // What is no such table the library refuses by itself.
    let Ok(entries) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(header) else { return Ok(()) };
    for (name, entry) in entries {
        let Ok(TensorInfo { dtype, shape, data_offsets: (start, end) }) = serde_json::from_str(entry.get()) else {
            // The metadata, or nothing that the library takes.
            continue;
        };
        if end > data {
            return Err(cut(
                file,
                format!("tensor {} ends at byte {end} of the data, which has {data}", Quoted::new(&name)),
            ));
        }
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, n| bits.checked_mul(*n));
        if bits.is_none() || end.checked_sub(start).and_then(|bytes| bytes.checked_mul(8)) != bits {
            let what = format!("takes the bytes {start} to {end}, which are not those of {shape:?} in {dtype}");
            return Err(Error::tensor(file, &name, what.chars().take(160).collect::<String>()));
        }
    }
    Ok(())
}

/// The numbers of a tensor in f32, which holds each of these types exactly; `None` for any other type.
pub fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    let pairs = |f: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|b| f(*b)).collect();
    match view.dtype() {
        Dtype::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::F16 => Some(pairs(|b| f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => Some(pairs(|b| bf16::from_le_bytes(b).to_f32())),
        _ => None,
    }
}

/// Writes tensors in their order as a file that every library reads; `format` is the metadata of that name, without which
/// older versions of `transformers` refuse a file. It holds one tensor at a time.
pub fn write(out: &mut dyn Write, format: &str, tensors: &[&Tensor]) -> io::Result<()> {
    let header = header(format, tensors);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for tensor in tensors {
        write_floats(out, &tensor.data)?;
    }
    Ok(())
}

fn header(format: &str, tensors: &[&Tensor]) -> String {
    let text = |s: &str| serde_json::Value::String(s.to_owned()).to_string();
    let mut header = format!(r#"{{"__metadata__":{{"format":{}}}"#, text(format));
    let mut offset = 0;
    for Tensor { name, shape, data } in tensors {
        let end = offset + size_of_val(data.as_slice());
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        let (name, shape) = (text(name), shape.join(","));
        header += &format!(r#",{name}:{{"dtype":"F32","shape":[{shape}],"data_offsets":[{offset},{end}]}}"#);
        offset = end;
    }
    header.push('}');
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(ALIGN) - header.len()));
    header
}

#[cfg(target_endian = "little")]
fn write_floats(out: &mut dyn Write, data: &[f32]) -> io::Result<()> {
    out.write_all(bytemuck::cast_slice(data))
}

#[cfg(target_endian = "big")]
fn write_floats(out: &mut dyn Write, data: &[f32]) -> io::Result<()> {
    data.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with this header and so many bytes of data.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn a_header_is_bounded_before_it_is_read() {
        for length in [MAX_HEADER + 1, 1 << 40, u64::MAX] {
            let error = read("f", &[&length.to_le_bytes()[..], b"{}"].concat()).expect_err("too long").to_string();
            assert!(error.contains("its header has") && error.lines().count() == 1, "{error}");
        }
        for bytes in [vec![], vec![0; 7], vec![0; 8], file("{", &[]), file("[]", &[]), file("{}", &[0; 4])] {
            let error = read("f", &bytes).expect_err("no safetensors file").to_string();
            assert!(error.starts_with("f: is no ") && error.lines().count() == 1, "{error}");
        }
        let cut = &file(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4])[..40];
        assert!(read("f", cut).expect_err("half a header").to_string().starts_with("f: is no whole safetensors file"));
    }

    #[test]
    fn a_header_that_lies_is_refused_and_the_tensor_named() {
        let tensor = |name: &str, dtype: &str, shape: &str, start: u64, end: u64| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{start},{end}]}}"#)
        };
        let sound = tensor("a", "F32", "2", 0, 8);
        let huge = u64::MAX.to_string();
        for (lie, says) in [
            (tensor("w", "F32", "2", 4, 12), "is no whole safetensors file (invalid offset for tensor `w`)"),
            (tensor("w", "F32", "1", 12, 16), "is no whole safetensors file (invalid offset for tensor `w`)"),
            (tensor("w", "F32", "1", 8, 12), "is no whole safetensors file (incomplete metadata"),
            (tensor("w", "F7", "2", 8, 16), "is no whole safetensors file"),
            (tensor("w", "F32", "-2", 8, 16), "is no whole safetensors file"),
            (
                tensor("w", "F32", "2", 12, 20),
                "is no whole safetensors file (tensor \"w\" ends at byte 20 of the data, which has 16)",
            ),
            (tensor("w", "F32", "2", 8, 4), "tensor \"w\" takes the bytes 8 to 4"),
            (tensor("w", "F32", "3", 8, 16), "tensor \"w\" takes the bytes 8 to 16"),
            (tensor("w", "BF16", "2", 8, 16), "tensor \"w\" takes the bytes 8 to 16"),
            (tensor("w", "F32", &huge, 8, 16), "tensor \"w\" takes the bytes 8 to 16"),
            (tensor("w", "F32", &format!("{huge}, {huge}"), 8, 16), "tensor \"w\" takes the bytes 8 to 16"),
            (tensor("w", "F32", &["1"; 1000].join(","), 8, 16), "tensor \"w\" takes the bytes 8 to 16"),
            (tensor(&"\\u001b[2J".repeat(2000), "F32", "3", 8, 16), "tensor \"\\u{1b}[2J"),
        ] {
            let error = read("f", &file(&format!("{{{sound},{lie}}}"), &[0; 16])).expect_err(&lie).to_string();
            let plain = error.len() < 1000 && error.chars().all(|c| !c.is_control());
            assert!(error.starts_with(&format!("f: {says}")) && plain, "{lie}: {error}");
        }
        // Tensors that together reach the end of all numbers.
        let part = (1u64 << 61) - 1;
        let row: Vec<String> =
            (0..8).map(|i| tensor(&format!("t{i}"), "U8", &part.to_string(), i * part, (i + 1) * part)).collect();
        let error = read("f", &file(&format!("{{{}}}", row.join(",")), &[0; 16])).expect_err("too long").to_string();
        assert!(
            error.starts_with("f: is no whole safetensors file (tensor \"t0\" ends at byte 2305843009213693951"),
            "{error}"
        );
    }

    #[test]
    fn halves_become_the_same_numbers() {
        let header = r#"{"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"h":{"dtype":"F16","shape":[2],"data_offsets":[4,8]},"i":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}"#;
        let numbers = [1.5f32, -0.25];
        let mut data: Vec<u8> = numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        data.extend(numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()));
        data.extend([0; 8]);
        let bytes = file(header, &data);
        let tensors = read("f", &bytes).expect("a sound file");
        let read: Vec<_> = tensors.iter().map(|(name, view)| (name.as_str(), floats(view))).collect();
        assert_eq!(read, [("b", Some(numbers.to_vec())), ("h", Some(numbers.to_vec())), ("i", None)]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(names in prop::collection::btree_set("[a-z.\"\\\\é]{1,8}", 0..5)) {
            let tensors: Vec<Tensor> = names
                .into_iter()
                .enumerate()
                .map(|(i, name)| Tensor { name, shape: vec![i, 2], data: (0..2 * i).map(|x| x as f32 - 0.5).collect() })
                .collect();
            let mut bytes = Vec::new();
            write(&mut bytes, "pt", &tensors.iter().collect::<Vec<_>>()).expect("memory takes it");
            let read = read("f", &bytes).expect("a sound file");
            prop_assert_eq!(read.len(), tensors.len());
            // Names come out of a sorted set, as they are read.
            for (tensor, (name, view)) in tensors.iter().zip(&read) {
                prop_assert_eq!((name, view.shape()), (&tensor.name, tensor.shape.as_slice()));
                prop_assert_eq!(floats(view), Some(tensor.data.clone()));
            }
        }
    }
}
