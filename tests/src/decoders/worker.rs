//! What a worker reads: files that people wrote or a node kept, and data sets.

use bistro_protocol::{
    hotkey::Hotkey,
    object::Hex32,
    tensor_file,
    tensors::{Tensor, Tensors, digest},
};
use bistro_worker::{
    data::{Index, Shard},
    decoders,
    facts::Facts,
    mechanism::residual::Residual,
};
use serde_json::json;

use super::{
    Decoder,
    api::{a_run, tree},
    keypair, plain,
};
use crate::mutate::Form;

pub const DECODERS: &[Decoder] = &[
    Decoder { name: "settings", decode: decoders::settings, bound: yaml, form: Form::Json, seeds: settings },
    Decoder { name: "hotkey-file", decode: decoders::hotkey_file, bound: plain, form: Form::Json, seeds: hotkey_files },
    Decoder { name: "bucket-key", decode: decoders::bucket_key, bound: plain, form: Form::Text, seeds: bucket_keys },
    Decoder { name: "dataset-index", decode: decoders::dataset_index, bound: plain, form: Form::Json, seeds: indices },
    Decoder { name: "model-config", decode: decoders::model_config, bound: tree, form: Form::Json, seeds: configs },
    Decoder {
        name: "foreign-tensors",
        decode: decoders::foreign_tensors,
        bound: foreign_bound,
        form: Form::Tensors,
        seeds: foreign,
    },
    Decoder { name: "saved-base", decode: decoders::saved_base, bound: file_bound, form: Form::Tensors, seeds: bases },
    Decoder { name: "optimizer", decode: decoders::optimizer, bound: file_bound, form: Form::Tensors, seeds: moments },
    Decoder { name: "residual", decode: decoders::residual, bound: file_bound, form: Form::Tensors, seeds: residuals },
    Decoder { name: "owner", decode: decoders::owner, bound: plain, form: Form::Json, seeds: owners },
    Decoder { name: "facts", decode: decoders::facts, bound: plain, form: Form::Json, seeds: facts },
];

/// The parser of YAML holds events and anchors of what it reads.
pub fn yaml(length: usize) -> usize {
    512 * length + (1 << 20)
}

/// As for any file of tensors, and the names of the moments once more.
fn file_bound(length: usize) -> usize {
    length + 20 * length.min(tensor_file::MAX_HEADER as usize) + 4096
}

/// One tensor at a time, as large as its bytes or twice that; and the library's tables of names and shapes: a member that
/// it does not know takes four bytes of the header, and up to 400 while the list that keeps it moves.
fn foreign_bound(length: usize) -> usize {
    2 * length + 128 * length.min(tensor_file::MAX_HEADER as usize) + 16_384
}

fn settings() -> Vec<Vec<u8>> {
    let mut run = a_run();
    run["model"] = json!({"preset": "tiny"});
    let settings = json!({
        "namespace": "default", "name": "miner", "subnet": "demo", "netuid": 1,
        "chain": {"endpoints": ["ws://devnet:9944"]}, "bucket": {"name": "bistro", "endpoint": "http://devnet:9000"},
        "run": run, "devWallet": true
    });
    let block = "a: &a [1]\nb: *a\nc: |\n  text\n? d\n: !!str e\n";
    [vec![settings.to_string().into_bytes()], vec![block.into(); 3]].concat()
}

fn hotkey_files() -> Vec<Vec<u8>> {
    let key = keypair();
    let address = Hotkey::from(&key).ss58();
    let expanded = json!({"privateKey": format!("0x{}", hex::encode(key.secret.to_bytes())), "ss58Address": address});
    let seed = json!({"secretSeed": format!("0x{}", "12".repeat(32)), "cryptoType": 1, "accountType": "sr25519"});
    // A phrase that is right takes as long as ten thousand other inputs: this one fails at its checksum.
    let phrase = json!({"secretPhrase": "bottom drive obey lake curtain smoke basket hold race lonely fit bottom"});
    [expanded, seed, phrase].map(|file| file.to_string().into_bytes()).into()
}

fn bucket_keys() -> Vec<Vec<u8>> {
    vec![b"AKIAIOSFODNN7EXAMPLE\n".to_vec(), "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\r\n".into()]
}

fn indices() -> Vec<Vec<u8>> {
    let shard = |name: &str, size| Shard { name: name.into(), size, blake3: "ab".repeat(32) };
    vec![Index::of_bytes(vec![shard("shard-0.bin", 5), shard("shard-1.bin", 2)]).to_bytes()]
}

fn configs() -> Vec<Vec<u8>> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 512, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 256
    });
    vec![config.to_string().into_bytes()]
}

fn tensor(name: &str) -> Tensor {
    Tensor { name: name.into(), shape: vec![2], data: vec![0.5; 2] }
}

fn set(names: &[&str]) -> Tensors {
    Tensors::new(names.iter().map(|name| tensor(name)).collect()).expect("a set")
}

fn bases() -> Vec<Vec<u8>> {
    let base = set(&["a", "b"]);
    let note = json!({"window": 5, "previous": "07".repeat(32), "digest": hex::encode(base.digest())});
    vec![tensor_file::write(&[("note", note.to_string())], &base)]
}

fn foreign() -> Vec<Vec<u8>> {
    let header = r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[2],"data_offsets":[4,8]},"c":{"dtype":"I64","shape":[],"data_offsets":[8,16]},"__metadata__":{"format":"pt"}}"#;
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[1; 16]].concat();
    vec![file, tensor_file::write(&[("format", "pt".into())], &set(&["a", "b"]))]
}

fn moments() -> Vec<Vec<u8>> {
    let moments = set(&["a", "b"]);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&7u64.to_le_bytes()).update(&digest(&[&moments, &moments]));
    let note = format!("7 {}", hasher.finalize().to_hex());
    vec![tensor_file::write(&[("bistro.optimizer", note)], &set(&["m.a", "m.b", "v.a", "v.b"]))]
}

fn residuals() -> Vec<Vec<u8>> {
    vec![Residual { artifact: Hex32([7; 32]), tensors: set(&["a", "b"]) }.to_bytes()]
}

fn owners() -> Vec<Vec<u8>> {
    let (zeros, hotkey) = ("00".repeat(32), Hotkey([5; 32]));
    vec![json!({"genesis": zeros, "netuid": 1, "run": 1, "runDigest": zeros, "hotkey": hotkey}).to_string().into()]
}

fn facts() -> Vec<Vec<u8>> {
    let neurons = (0..3).map(|uid| (uid, Hotkey([5; 32]))).collect();
    vec![serde_json::to_vec(&Facts { window: 5, start: Hex32([1; 32]), neurons }).expect("facts are JSON")]
}
