//! Models on their way to Hugging Face's libraries and back, by the program that people run.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use bistro_api::{Role, run::Model};
use bistro_protocol::tensors::{Tensor, Tensors};
use bistro_tests::process::program;
use bistro_worker::{
    bucket::{Bucket, Credentials},
    engine::Engine,
    telemetry::Telemetry,
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::Subnet;

/// Tokens that a model sees at once in the comparisons.
const CONTEXT: &str = "96";
/// Text of more than one sequence, with letters of one to four bytes.
const TEXT: &str = "fn main() {\n    println!(\"größer, 漢字, 👍\");\n}\n\n// The quick brown fox jumps over the lazy dog, \
    and then it jumps once more, and once more, until the dog has had enough of it.\n";
/// What models go on from.
const PROMPT: &str = "fn main() {";

/// Runs `bistro-worker`; gives exit code, output and errors.
async fn worker(arguments: &[&str], variables: &[(&str, &Path)]) -> (i32, String, String) {
    let mut command = Command::new(program("bistro-worker"));
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
    command.env("BISTRO_LOG", "warn").env("BISTRO_THREADS", "2");
    let ran = command.output().await.expect("cargo test --workspace builds it");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ran.status.code().expect("it was not killed"), text(&ran.stdout), text(&ran.stderr))
}

/// What it prints where it must succeed.
async fn printed(arguments: &[&str], variables: &[(&str, &Path)]) -> String {
    let (code, out, errors) = worker(arguments, variables).await;
    assert_eq!(code, 0, "{arguments:?}: {errors}");
    out
}

fn name(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_model_goes_out_and_starts_another_run() {
    let subnet = Subnet::start().await;
    let nodes = [(Role::Averager, "averager"), (Role::Miner, "a")].map(|(role, name)| subnet.node(role, name));
    nodes[0].until(|s| s.base_window >= Some(2)).await;
    let environment = subnet.environment("onlooker");
    let variables = [
        ("BISTRO_SETTINGS", environment.settings.as_path()),
        ("BISTRO_STATE", &environment.state),
        ("BISTRO_SECRETS", &environment.secrets),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    let line = printed(&["export", "--to", name(&model), "--window", "1"], &variables).await;
    assert!(line.contains("the base before window 1 of run 1") && line.lines().count() == 1, "{line}");

    // The loss that nodes show, of the base and of its export.
    let history = nodes[0].status().await.expect("it answers").history;
    let shown = history.iter().find(|r| r.window == 1).and_then(|r| r.held_out_loss);
    let rows = async |arguments: &[&str]| -> Value {
        let out = printed(&[&["evaluate", "--pages", "4", "--format", "json"], arguments].concat(), &variables).await;
        serde_json::from_str::<Value>(&out).expect("JSON")[0].clone()
    };
    let (base, exported) = (rows(&["--window", "1"]).await, rows(&["--from", name(&model)]).await);
    assert_eq!((&base["loss"], &base["tokens"]), (&exported["loss"], &json!(4 * 2 * 32)));
    if let Some(shown) = shown {
        assert!((base["loss"].as_f64().expect("a number") - shown).abs() < 1e-4, "{base} {shown}");
    }
    let newest = printed(&["generate", "--prompt", PROMPT, "--tokens", "5"], &variables).await;
    assert!(newest.ends_with('\n') && newest.len() > 1, "{newest:?}");

    let (code, _, errors) = worker(&["export", "--to", name(&model)], &variables).await;
    assert!(code == 2 && errors.contains("--to: ") && errors.lines().count() == 1, "{errors}");
    let (code, _, errors) = worker(&["export", "--to", "x", "--window", "9999999"], &variables).await;
    assert!(code == 2 && errors.contains("no window 9999999") && errors.trim_end().lines().count() == 1, "{errors}");
    for node in nodes {
        node.stop().await;
    }

    // In again, and a run that starts from it.
    let file = folder.path().join("checkpoint.safetensors");
    let said = printed(&["import", "--from", name(&model), "--to", name(&file)], &[]).await;
    let said = yaml(&said);
    let mut other = Subnet::start_with(|settings| {
        settings.run.from = serde_json::from_value(json!({ "checkpoint": "datasets/checkpoint" })).expect("one member");
        settings.run.model = serde_json::from_value::<Model>(said["model"].clone()).expect("a model");
    })
    .await;
    let keys = Credentials::Keys { access_key_id: "admin".into(), secret_access_key: "admin".into() };
    let bucket = Bucket::new(&other.settings.bucket, keys, Telemetry::new(Role::Miner)).await.expect("sound settings");
    let bytes = std::fs::read(&file).expect("written");
    bucket.put("datasets/checkpoint", bytes.clone().into()).await.expect("stored");
    assert_eq!(from_bucket(&other, &bucket, &model).await, bytes, "the same out of a bucket");
    other.settings.name.clear();
    let averager = other.node(Role::Averager, "averager");
    let status = averager.until(|s| s.history.iter().any(|r| r.window == 0 || s.base_window >= Some(1))).await;
    let first = status.history.first().map(|r| r.base_digest.clone());
    assert_eq!(first.as_deref(), said["digest"].as_str());
    averager.stop().await;
    other.devnet.shutdown().await;
    subnet.devnet.shutdown().await;
}

/// The checkpoint of a folder that lies in a bucket.
async fn from_bucket(subnet: &Subnet, bucket: &Bucket, model: &Path) -> Vec<u8> {
    for file in std::fs::read_dir(model).expect("a folder").flatten() {
        let key = format!("datasets/models/a/{}", file.file_name().to_string_lossy());
        bucket.put(&key, std::fs::read(file.path()).expect("a file").into()).await.expect("stored");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (keys, to) = (folder.path().join("bucket"), folder.path().join("checkpoint"));
    std::fs::create_dir(&keys).expect("a folder");
    for key in ["access-key-id", "secret-access-key"] {
        std::fs::write(keys.join(key), "admin").expect("written");
    }
    let (secrets, endpoint) = (name(folder.path()), subnet.devnet.s3_url());
    let place = ["--from", "s3://bistro/datasets/models/a", "--endpoint", &endpoint, "--secrets", secrets];
    printed(&[&["import", "--to", name(&to)], &place[..]].concat(), &[]).await;
    std::fs::read(to).expect("written")
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).expect("YAML")
}

/// Python with what hack/interop/requirements.txt names.
fn python() -> PathBuf {
    let python = std::env::var_os("BISTRO_PYTHON").expect("BISTRO_PYTHON names a Python: make test-interop");
    PathBuf::from(python)
}

/// Runs a script of hack/interop; prints what it prints.
async fn script(script: &str, arguments: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/interop").join(script);
    let mut command = Command::new(python());
    command.arg(path).args(arguments).env("HF_HUB_OFFLINE", "1").env("TRANSFORMERS_VERBOSITY", "error");
    let ran = command.output().await.expect("Python starts");
    print!("{}", String::from_utf8_lossy(&ran.stdout));
    assert!(ran.status.success(), "{script} {arguments:?}:\n{}", String::from_utf8_lossy(&ran.stderr));
}

/// What transformers computes with the model in `folder` is what bistro-worker computes with the one that `choice` names.
async fn compare(folder: &Path, choice: &[&str], at: &Path) {
    let file = |name: &str| at.join(name);
    let (text, logits, evaluated, generated) = (file("text"), file("logits"), file("evaluated"), file("generated"));
    std::fs::write(&text, TEXT.repeat(3)).expect("written");
    let context = ["--context", CONTEXT, "--format", "json"];
    let arguments = ["evaluate", "--text", name(&text), "--logits", name(&logits)];
    let out = printed(&[&arguments, &context[..], choice].concat(), &[]).await;
    std::fs::write(&evaluated, out).expect("written");
    let out = printed(&[&["generate", "--prompt", PROMPT], &context[..], choice].concat(), &[]).await;
    std::fs::write(&generated, out).expect("written");
    let [text, logits, evaluated, generated] = [&text, &logits, &evaluated, &generated].map(|path| name(path));
    script("compare.py", &[name(folder), text, CONTEXT, logits, evaluated, PROMPT, generated]).await;
}

/// Models of ours: what a run's `model` is.
fn ours() -> Vec<(&'static str, Value)> {
    vec![
        ("tiny", Value::Null),
        (
            "llama",
            json!({
                "model_type": "llama", "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3, "head_dim": 10,
                "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 256, "rope_theta": 50000.0,
                "rms_norm_eps": 1e-5, "max_position_embeddings": 192, "tie_word_embeddings": false,
            }),
        ),
        (
            "gpt2",
            json!({
                "model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 192, "vocab_size": 256,
            }),
        ),
    ]
}

/// Fresh matrices, made larger: the choices of a model that knows nothing are as good as ties.
fn parameters(config: &Value) -> Tensors {
    let model = match config {
        Value::Null => serde_json::from_value(json!({ "preset": "tiny" })).expect("a preset"),
        config => Model { preset: None, config: Some(config.clone()) },
    };
    let engine = Engine::new(&model, 256, 96, 1).expect("sound");
    let larger = |mut tensor: Tensor| {
        let scale = if tensor.shape.len() > 1 { 1.5 } else { 1.0 };
        tensor.data.iter_mut().for_each(|x| *x *= scale);
        tensor
    };
    Tensors::new(engine.initial(5).expect("drawn").into_iter().map(larger).collect()).expect("the same names")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python with transformers: make test-interop"]
async fn transformers_computes_the_same_with_our_exports() {
    for (family, config) in ours() {
        let at = tempfile::tempdir().expect("a folder");
        let file = |name: &str| at.path().join(name);
        let (checkpoint, described, folder) = (file("checkpoint.safetensors"), file("described.json"), file("model"));
        let bytes = bistro_protocol::tensor_file::write(&[], &parameters(&config));
        std::fs::write(&checkpoint, bytes).expect("written");
        std::fs::write(&described, config.to_string()).expect("written");
        let model = if config.is_null() { family } else { name(&described) };
        let choice = ["--checkpoint", name(&checkpoint), "--model", model, "--context", "192"];
        let to = ["export", "--to", name(&folder), "--shard-size", "100KB"];
        println!("{family}: {}", printed(&[&to, &choice[..]].concat(), &[]).await.trim_end());
        assert!(folder.join("model.safetensors.index.json").exists(), "in several files");
        compare(&folder, &choice[..4], at.path()).await;
        compare(&folder, &["--from", name(&folder)], at.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python with transformers: make test-interop"]
async fn we_compute_the_same_with_models_of_transformers() {
    for (family, dtype) in FAMILIES {
        let at = tempfile::tempdir().expect("a folder");
        let file = |name: &str| at.path().join(name);
        let (folder, checkpoint, described) = (file("model"), file("checkpoint.safetensors"), file("described.json"));
        script("make.py", &[family, dtype, name(&folder)]).await;
        let said = printed(&["import", "--from", name(&folder), "--to", name(&checkpoint)], &[]).await;
        let said = yaml(&said);
        println!("{family} {dtype}: digest {}", said["digest"]);
        std::fs::write(&described, said["model"]["config"].to_string()).expect("written");
        let tokenizer = folder.join("tokenizer.json");
        let choice = ["--checkpoint", name(&checkpoint), "--model", name(&described), "--tokenizer", name(&tokenizer)];
        compare(&folder, &choice, at.path()).await;
        compare(&folder, &["--from", name(&folder)], at.path()).await;
        // And out again: the same model under another roof.
        let again = file("again");
        printed(&["export", "--to", name(&again), "--from", name(&folder)], &[]).await;
        compare(&again, &choice, at.path()).await;
    }
}

/// Families that the engine knows, in the types of numbers that files come in.
const FAMILIES: [(&str, &str); 6] = [
    ("llama", "float32"),
    ("llama", "bfloat16"),
    ("llama", "float16"),
    ("llama-tied", "float32"),
    ("gpt2", "float32"),
    ("gpt2-untied", "float32"),
];
