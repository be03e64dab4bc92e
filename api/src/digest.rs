//! The run digest: blake3 of the canonical SCALE encoding of a [`Run`], defaults filled in, decimals as written.
//!
//! It is signed into every object, so a node with other settings is noticed before its work is read.

use codec::{Encode, Output};

use crate::{
    compression::Compression,
    mechanism::{Averaging, Mechanism},
    run::{MergeRule, Model, Run},
};

/// The digest of the agreement.
pub fn run_digest(run: &Run) -> [u8; 32] {
    *blake3::hash(&run.encode()).as_bytes()
}

/// A preset encodes as itself; a free-form configuration as canonical JSON text.
impl Encode for Model {
    fn encode_to<T: Output + ?Sized>(&self, dest: &mut T) {
        let Self { preset, config } = self;
        preset.encode_to(dest);
        config.as_ref().map(canonical_json).encode_to(dest);
    }
}

/// The number of the rule, then its settings: mean 1, trimmedMean 2, median 3; none, which nobody accepts, 0.
impl Encode for MergeRule {
    fn encode_to<T: Output + ?Sized>(&self, dest: &mut T) {
        let Self { mean, trimmed_mean, median } = self;
        match (mean, trimmed_mean, median) {
            (Some(_), None, None) => 1u8.encode_to(dest),
            (None, Some(trimmed), None) => (2u8, &trimmed.fraction).encode_to(dest),
            (None, None, Some(_)) => 3u8.encode_to(dest),
            _ => 0u8.encode_to(dest),
        }
    }
}

/// Added to the number of a mechanism whose work is compressed.
const COMPRESSED: u8 = 128;

/// The number of the mechanism, then its settings: cosine 1, gradientDifference 2, taylor 3, lossReduction 4, lossWins 5;
/// none, which nobody accepts, 0. Where its work is compressed, the number is [`COMPRESSED`] higher and the compression
/// follows the settings.
impl Encode for Mechanism {
    fn encode_to<T: Output + ?Sized>(&self, dest: &mut T) {
        let Self { cosine, gradient_difference, taylor, loss_reduction, loss_wins } = self;
        match (cosine, gradient_difference, taylor, loss_reduction, loss_wins) {
            (Some(settings), None, None, None, None) => encode_compressible(1, settings, &settings.compression, dest),
            (None, Some(settings), None, None, None) => (2u8, settings).encode_to(dest),
            (None, None, Some(settings), None, None) => (3u8, settings).encode_to(dest),
            (None, None, None, Some(settings), None) => encode_compressible(4, settings, &settings.compression, dest),
            (None, None, None, None, Some(settings)) => (5u8, settings).encode_to(dest),
            _ => 0u8.encode_to(dest),
        }
    }
}

fn encode_compressible<T: Output + ?Sized>(
    number: u8,
    settings: &impl Encode,
    compression: &Option<Compression>,
    dest: &mut T,
) {
    match compression {
        Some(compression) => (number + COMPRESSED, settings, compression).encode_to(dest),
        None => (number, settings).encode_to(dest),
    }
}

/// The number of the strategy, then its settings: uniform 1, scoreWeighted 2, parameterized 3; none, which nobody
/// accepts, 0.
impl Encode for Averaging {
    fn encode_to<T: Output + ?Sized>(&self, dest: &mut T) {
        let Self { uniform, score_weighted, parameterized } = self;
        match (uniform, score_weighted, parameterized) {
            (Some(_), None, None) => 1u8.encode_to(dest),
            (None, Some(_), None) => 2u8.encode_to(dest),
            (None, None, Some(settings)) => (3u8, settings).encode_to(dest),
            _ => 0u8.encode_to(dest),
        }
    }
}

/// JSON with sorted keys, no spaces, and integers for whole numbers: an API server rewrites `10000.0` as
/// `10000`, and the digest must not depend on who stored the resource.
pub fn canonical_json(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by(|a, b| a.0.cmp(b.0));
            let members: Vec<_> = members
                .into_iter()
                .map(|(k, v)| format!("{}:{}", Value::String(k.clone()), canonical_json(v)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical_json).collect::<Vec<_>>().join(",")),
        Value::Number(n) => canonical_number(n),
        other => other.to_string(),
    }
}

/// The value counts, not its spelling: `1e-5` and `0.00001` are one number, and so are `10000.0` and `10000`.
fn canonical_number(number: &serde_json::Number) -> String {
    // Not the number's own text: where serde_json keeps that, `-0` would be another number than 0.
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(i), _, _) => i.to_string(),
        (_, Some(u), _) => u.to_string(),
        // 2^53: beyond it a whole f64 no longer names one integer.
        (_, _, Some(f)) if f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_992.0 => format!("{}", f as i64),
        (_, _, Some(f)) => format!("{f}"),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn quickstart() -> Run {
        serde_json::from_value(json!({
            "id": 1, "from": {"seed": 42},
            "schedule": {"windowBlocks": 40, "commitBlocks": 8, "uploadBlocks": 8, "mergeBlocks": 8, "skewSeconds": 0},
            "dataset": {"prefix": "datasets/rust", "digest": "00".repeat(32), "sequenceLength": 128, "pageSequences": 16, "pagesPerWindow": 4},
            "model": {"preset": "tiny"},
            "training": {"learningRate": "3e-3", "batchSequences": 8, "innerSteps": 8},
            "mechanism": {"cosine": {"sliceRatio": 4}}
        }))
        .expect("a valid run")
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn the_digest_is_pinned() {
        assert_eq!(
            hex::encode(run_digest(&quickstart())),
            "a053c207c776d79a77cefd4e6fa7dbe6661e2fdffd85204e3fda789c8b884432"
        );
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn the_digest_of_a_run_with_compressed_work_is_pinned() {
        let mut run = quickstart();
        let top_k = json!({"k": 32, "values": "f32", "decay": "0.5"});
        let mechanism = json!({"cosine": {"sliceRatio": 1, "compression": {"topK": top_k}}});
        run.mechanism = serde_json::from_value(mechanism).expect("a mechanism");
        assert_eq!(hex::encode(run_digest(&run)), "7e9f44d43bda50733c1741458d7b4016a1320c36993b5100338219cb429f7540");
        let encoded = run.mechanism.encode();
        let text = |decimal: &str| decimal.to_owned().encode();
        let settings = [&1u32.to_le_bytes()[..], &[0], &text("0"), &text("1.0")].concat();
        let compression = [&[1][..], &32u32.to_le_bytes(), &[2], &text("0.5")].concat();
        assert_eq!(encoded, [&[129][..], &settings, &compression].concat(), "number, settings, compression");
    }

    #[test]
    fn defaults_count_as_if_written() {
        let mut value = serde_json::to_value(quickstart()).expect("serialises");
        assert_eq!(value["training"]["betas"], json!(["0.9", "0.95"]));
        assert_eq!(value["merge"], json!({"rule": {"mean": {}}}));
        let again: Run = serde_json::from_value(value.clone()).expect("round trip");
        assert_eq!(run_digest(&again), run_digest(&quickstart()));
        value["training"]["weightDecay"] = json!("0.10");
        let other: Run = serde_json::from_value(value).expect("still valid");
        assert_ne!(run_digest(&other), run_digest(&quickstart()), "decimals count as written");
    }

    #[test]
    fn merge_rules_have_digests_of_their_own() {
        let with = |rule: serde_json::Value| {
            let mut run = quickstart();
            run.merge.rule = serde_json::from_value(rule).expect("a rule");
            run_digest(&run)
        };
        let digests = [
            run_digest(&quickstart()),
            with(json!({"median": {}})),
            with(json!({"trimmedMean": {}})),
            with(json!({"trimmedMean": {"fraction": "0.1"}})),
        ];
        for (i, digest) in digests.iter().enumerate() {
            assert!(!digests[..i].contains(digest), "rule {i}");
        }
        assert_eq!(with(json!({"mean": {}})), run_digest(&quickstart()));
        assert_eq!(with(json!({"trimmedMean": {"fraction": "0.25"}})), with(json!({"trimmedMean": {}})));
    }

    #[test]
    fn mechanisms_and_averaging_have_digests_of_their_own() {
        let with = |mechanism: serde_json::Value| {
            let mut run = quickstart();
            run.mechanism = serde_json::from_value(mechanism).expect("a mechanism");
            run_digest(&run)
        };
        let averaging = |strategy: serde_json::Value| with(json!({"lossReduction": {"averaging": strategy}}));
        let digests = [
            run_digest(&quickstart()),
            with(json!({"gradientDifference": {"sliceRatio": 4}})),
            with(json!({"taylor": {"sliceRatio": 4}})),
            with(json!({"taylor": {"sliceRatio": 4, "order": 2}})),
            with(json!({"taylor": {"sliceRatio": 4, "formula": "published"}})),
            with(json!({"lossReduction": {}})),
            averaging(json!({"uniform": {}})),
            averaging(json!({"scoreWeighted": {}})),
            averaging(json!({"parameterized": {"steps": 60}})),
            with(json!({"cosine": {"sliceRatio": 4, "compression": {"topK": {}}}})),
            with(json!({"cosine": {"sliceRatio": 4, "compression": {"topK": {"k": 63}}}})),
            with(json!({"cosine": {"sliceRatio": 4, "compression": {"topK": {"values": "bf16"}}}})),
            with(json!({"cosine": {"sliceRatio": 4, "compression": {"topK": {"decay": "0"}}}})),
            with(json!({"lossReduction": {"compression": {"topK": {}}}})),
        ];
        for (i, digest) in digests.iter().enumerate() {
            assert!(!digests[..i].contains(digest), "mechanism {i}");
        }
        assert_eq!(averaging(json!({"parameterized": {}})), with(json!({"lossReduction": {}})));
    }

    #[test]
    fn whole_numbers_and_key_order_do_not_matter() {
        assert_eq!(canonical_json(&json!({"b": 10000.0, "a": [1, 0.5]})), r#"{"a":[1,0.5],"b":10000}"#);
        let spelled = |text: &str| canonical_json(&serde_json::from_str(text).expect("a number"));
        assert_eq!(spelled("1e-5"), spelled("0.00001"));
        assert_eq!((spelled("-0"), spelled("-7")), ("0".into(), "-7".into()));
        assert_eq!(
            (spelled("1e4"), spelled("-0.0"), spelled("18446744073709551615")),
            ("10000".into(), "0".into(), "18446744073709551615".into())
        );
    }

    #[test]
    fn phases_must_leave_time_to_train() {
        let mut schedule = quickstart().schedule;
        assert_eq!(schedule.train_blocks(), Some(16));
        schedule.window_blocks = 28;
        assert_eq!(schedule.train_blocks(), None);
    }
}
