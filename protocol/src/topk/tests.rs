//! Selection, the one form of the bytes, their bound, and what is carried on.

use proptest::prelude::*;

use super::*;
use crate::{kernels::tests::xorshift, tensors::Tensor};

const ALL: [Values; 3] = [Values::TwoBit, Values::Bf16, Values::F32];

/// Entries of both signs with a bell's tails, never twice the same.
pub(crate) fn bell(seed: u64, n: usize) -> Vec<f32> {
    let mut draw = xorshift(seed);
    let mut uniform = || (draw() >> 40) as f32 / 16_777_216.0;
    std::iter::repeat_with(|| (0..6).map(|_| uniform()).sum::<f32>() - 3.0).take(n).collect()
}

fn entries(seed: u64, n: usize) -> Vec<f32> {
    bell(seed, n).into_iter().map(|x| 1e-3 * x).collect()
}

fn set(lens: &[usize], seed: u64) -> Tensors {
    let tensor = |(i, n): (usize, &usize)| Tensor {
        name: format!("{i:03}"),
        shape: vec![*n],
        data: entries(seed + i as u64, *n),
    };
    Tensors::new(lens.iter().enumerate().map(tensor).collect()).expect("names differ")
}

/// By sorting everything.
fn naive(data: &[f32], k: usize) -> Picked {
    let mut picked = Picked::default();
    for chunk in data.chunks(CHUNK) {
        let mut places: Vec<usize> = (0..chunk.len()).collect();
        places.sort_by(|a, b| chunk[*b].abs().total_cmp(&chunk[*a].abs()).then(a.cmp(b)));
        places.truncate((k * chunk.len()).div_ceil(CHUNK).max(1));
        places.sort_unstable();
        picked.indices.extend(places.iter().map(|i| *i as u16));
        picked.values.extend(places.iter().map(|i| chunk[*i]));
    }
    picked
}

fn settings(k: u32, values: Values) -> Settings {
    Settings { k, values }
}

#[test]
fn the_largest_are_picked_the_first_of_equals() {
    let ramp: Vec<f32> = (0..10_000).map(|i| if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect();
    let steps: Vec<f32> = entries(3, 9000).iter().map(|x| (x * 4e3).round()).collect();
    let sparse: Vec<f32> = (0..8192).map(|i| if i % 700 == 3 { -1e-40 } else { 0.0 }).collect();
    let columns: Vec<f32> = (0..8192).map(|i| if i % 256 == 7 { 9.0 } else { 1e-3 * (i % 13) as f32 }).collect();
    let cases =
        [ramp, steps, sparse, columns, entries(1, 40_000), vec![-0.0; 5000], vec![1.0; 4097], vec![], vec![2.0]];
    for data in cases {
        for k in [1, 2, 63, 64, 65, 256, 257, 1000, 4095, 4096] {
            assert_eq!(select(&data, k, 1), Ok(naive(&data, k)), "{k} of {}", data.len());
        }
    }
}

#[test]
fn threads_change_nothing() {
    let delta = set(&[700_000, 5, 300_001], 9);
    let with = |threads| {
        let mut residual = set(&[700_000, 5, 300_001], 20);
        let carried = Carried { residual: &mut residual, decay: 0.9 };
        let sparse = compress(&delta, Some(carried), settings(64, Values::TwoBit), threads).expect("finite");
        (sparse.write(), residual)
    };
    let one = with(1);
    assert!([2, 3, 16].into_iter().all(|threads| with(threads) == one));
}

#[test]
fn what_is_not_finite_is_named() {
    let mut delta = set(&[5000, 5000], 1);
    for wrong in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 4095, 4096, 4999] {
            let mut data: Vec<f32> = delta.tensor(1).data.clone();
            data[place] = wrong;
            assert_eq!(select(&data, 64, 1), Err(Error::NotFinite(0)));
        }
    }
    delta.data_mut().nth(1).expect("two")[17] = f32::NAN;
    assert_eq!(compress(&delta, None, settings(64, Values::F32), 2), Err(Error::NotFinite(1)));
    let mut residual = set(&[5000], 1);
    let carried = Carried { residual: &mut residual, decay: 1.0 };
    assert_eq!(compress(&delta, Some(carried), settings(64, Values::F32), 2), Err(Error::Residual));
}

#[test]
fn two_bits_make_a_chunk_210_times_smaller() {
    let delta = set(&[1 << 20], 5);
    let sparse = compress(&delta, None, settings(64, Values::TwoBit), 2).expect("finite");
    let ratio = (4 << 20) as f64 / sparse.write().len() as f64;
    assert!(ratio > 210.0, "{ratio}");
    // The error of the two magnitudes, of what was picked.
    let exact = compress(&delta, None, settings(64, Values::F32), 2).expect("finite").dense(&delta.shape());
    let error = sparse.dense(&delta.shape()).minus(&exact).norm() / exact.norm();
    assert!(error < 0.1, "{error}");
}

/// Also for places that no random work has: the code's worst case.
#[test]
fn the_bound_holds_for_every_set_of_places() {
    let worst = |k: usize, len: usize| {
        // Most gaps are 0, and one is all that is left: or all are alike.
        let packed: Vec<f32> = (0..len).map(|i| if i + k >= len { 1.0 } else { 0.0 }).collect();
        let spread: Vec<f32> = (0..len).map(|i| if i % (len / k).max(1) == 0 { 1.0 } else { 0.0 }).collect();
        [packed, spread]
    };
    for k in [1, 5, 64, 100, 4096] {
        for data in worst(k, 4096).into_iter().chain(worst(k.min(100), 300)) {
            let shape = [(String::from("w"), vec![data.len()])];
            let delta = Tensors::new(vec![Tensor { name: "w".into(), shape: vec![data.len()], data }]).expect("one");
            for values in ALL {
                let settings = settings(k as u32, values);
                let bytes = compress(&delta, None, settings, 1).expect("finite").write();
                assert!(bytes.len() as u64 <= max_bytes(&shape, settings), "{k} {values:?}");
            }
        }
    }
}

#[test]
fn values_of_16_bits_are_rounded_to_the_nearest_even() {
    let rounded = |x: f32| u16::from_le_bytes(wire::to_bf16(x));
    let below = |bits: u32| f32::from_bits(bits);
    assert_eq!(rounded(1.0), 0x3f80);
    assert_eq!(rounded(below(0x3f80_8000)), 0x3f80, "half way down to the even one");
    assert_eq!(rounded(below(0x3f81_8000)), 0x3f82, "half way up to the even one");
    assert_eq!(rounded(below(0xbf80_8001)), 0xbf81);
    assert_eq!((rounded(f32::MAX), rounded(f32::MIN)), (0x7f7f, 0xff7f), "nothing becomes infinite");
}

#[test]
fn wrong_bytes_are_refused_by_name() {
    let delta = set(&[5000, 3], 1);
    let shape = delta.shape();
    for values in ALL {
        let settings = settings(64, values);
        let bytes = compress(&delta, None, settings, 1).expect("finite").write();
        let read = |bytes: &[u8]| Sparse::read(bytes, &shape, settings).err();
        assert_eq!(read(&bytes), None);
        assert_eq!(read(&[&bytes[..], &[0]].concat()), Some(Error::Length), "a byte behind the last");
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_some(), "{values:?} cut at {end}");
        }
        let mut other = bytes.clone();
        other[0] = 13;
        assert_eq!(read(&other), Some(Error::Parameter));
    }
    let two = settings(64, Values::TwoBit);
    let bytes = compress(&delta, None, two, 1).expect("finite").write();
    let changed = |place: usize, to: u8| {
        let mut changed = bytes.clone();
        changed[place] = to;
        Sparse::read(&changed, &shape, two).err()
    };
    assert_eq!(changed(8, 0xff), Some(Error::Value), "a level that is no number");
    assert_eq!(changed(bytes.len() - 1, 0xff), Some(Error::Filling));
    let garbage = vec![0; max_bytes(&shape, two) as usize + 1];
    assert_eq!(Sparse::read(&garbage, &shape, two), Err(Error::Length), "longer than the bound");
}

/// Two nodes must agree on this for ever.
#[test]
fn bytes_and_decoded_bits_are_pinned() {
    let cube = |x: f32| x * x * x;
    let number = |i: u32| cube((i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0);
    let w = Tensor { name: "w".into(), shape: vec![50, 100], data: (0..5000).map(number).collect() };
    let delta =
        Tensors::new(vec![Tensor { name: "norm".into(), shape: vec![2], data: vec![0.5, -0.25] }, w]).expect("two");
    let pins = ALL.map(|values| {
        let settings = settings(4, values);
        let bytes = compress(&delta, None, settings, 1).expect("finite").write();
        let decoded = decompress(&bytes, &delta.shape(), settings).expect("canonical").digest();
        (hex::encode(&bytes), hex::encode(decoded))
    });
    let pins = pins.each_ref().map(|(bytes, decoded)| (bytes.as_str(), decoded.as_str()));
    let wanted = [
        (
            "000000003f0000003fff000108c9887f3f9cec7f3fffff230301509b61a8bd0a",
            "a7d4f5b93e43eaa3babd29cd90f775e9cf5a0ff02d733b8d7083b455fbe24a67",
        ),
        (
            "00003f010880bf7f3f80bf803f80bf01509b61a8bd0a",
            "dcb29bfee77343d173b27b22e29bdef0b99d3674c3a7ce41b06ca79afbfea334",
        ),
        (
            "000000003f0108000080bf384d7f3f31937fbff2b97f3f38d97fbf01509b61a8bd0a",
            "43a6d8981e3b9995511935b067fcefb84eb0fddbfa9a304f28aeba81b5987c81",
        ),
    ];
    assert_eq!(pins, wanted);
}

fn any_values() -> impl Strategy<Value = Values> {
    proptest::sample::select(&ALL)
}

/// Numbers of all sizes, many of them alike.
fn any_data() -> impl Strategy<Value = Vec<f32>> {
    let finite = any::<f32>().prop_map(|x| if x.is_finite() { x } else { 0.0 });
    let one = prop_oneof![4 => -1.0f32..1.0, 1 => finite, 2 => (-3i8..4).prop_map(f32::from), 2 => Just(0.0)];
    proptest::collection::vec(one, 0..9000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn selection_is_what_sorting_gives(data in any_data(), k in 1usize..200) {
        prop_assert_eq!(select(&data, k, 2), Ok(naive(&data, k)));
    }

    #[test]
    fn what_was_written_is_read_back_within_the_bound(data in any_data(), k in 1u32..200, values in any_values()) {
        let (n, settings) = (data.len(), settings(k, values));
        let delta = Tensors::new(vec![Tensor { name: "w".into(), shape: vec![n], data }]).expect("one");
        let sparse = compress(&delta, None, settings, 1).expect("finite");
        let bytes = sparse.write();
        prop_assert!(bytes.len() as u64 <= max_bytes(&delta.shape(), settings));
        prop_assert_eq!(Sparse::read(&bytes, &delta.shape(), settings), Ok(sparse));
    }

    /// Damaged bytes are refused, or are the one form of something else.
    #[test]
    fn what_is_read_writes_the_same_bytes(
        seed: u64,
        lens in proptest::collection::vec(0usize..6000, 1..4),
        k in 1u32..100,
        values in any_values(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ) {
        let (delta, settings) = (set(&lens, seed), settings(k, values));
        let mut bytes = compress(&delta, None, settings, 1).expect("finite").write();
        for (place, bit) in damage {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] ^= 1 << bit;
            }
        }
        if let Ok(sparse) = Sparse::read(&bytes, &delta.shape(), settings) {
            prop_assert_eq!(sparse.write(), bytes);
            prop_assert!(sparse.dense(&delta.shape()).all_finite());
        }
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, n in 0usize..300, k in 1u32..5000, values in any_values()) {
        let shape = [("w".to_owned(), vec![n])];
        if let Ok(sparse) = Sparse::read(&bytes, &shape, settings(k, values)) {
            prop_assert_eq!(sparse.write(), bytes);
        }
    }

    /// What was sent and what is carried on are what there was, but for one rounding of each entry.
    #[test]
    fn nothing_is_lost(data in proptest::collection::vec(-1.0f32..1.0, 1..9000), seed: u64, k in 1u32..100, values in any_values()) {
        let n = data.len();
        let delta = Tensors::new(vec![Tensor { name: "000".into(), shape: vec![n], data }]).expect("one");
        let before = set(&[n], seed);
        let mut residual = before.clone();
        let carried = Carried { residual: &mut residual, decay: 0.75 };
        let sparse = compress(&delta, Some(carried), settings(k, values), 1).expect("finite");
        let sent = sparse.dense(&delta.shape());
        for i in 0..n {
            let x = delta.tensor(0).data[i] + 0.75 * before.tensor(0).data[i];
            let [s, r] = [&sent, &residual].map(|t| f64::from(t.tensor(0).data[i]));
            let rounding = f64::from(f32::EPSILON) * f64::from(x).abs().max(r.abs());
            prop_assert!((s + r - f64::from(x)).abs() <= rounding, "entry {}: {} sent and {} kept of {}", i, s, r, x);
        }
    }
}
