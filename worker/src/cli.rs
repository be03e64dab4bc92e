//! The command line: roles for pods, tools for people.

use std::{path::PathBuf, process::ExitCode};

use bistro_api::Role;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    dataset,
    environment::Environment,
    failure::Failure,
    interop::{self, Evaluate, Export, Generate, Import},
    look::{self, Explain, Fetch, Runs},
    roles, telemetry,
};

/// Exit code of a fault that will not pass by itself: whoever restarts processes should not restart this one.
const PERMANENT: u8 = 2;

#[derive(Parser)]
#[command(name = "bistro-worker", version, about = "One node of a Bistro subnet: trains, scores or averages.", after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train on own pages, commit, publish, follow. Runs until it is stopped.
    Miner,
    /// Score miners on pages that nobody foresaw and set weights. Runs until it is stopped.
    Validator,
    /// Check, merge and sign the manifest of every window. Runs until it is stopped.
    Averager,
    /// Make the dataset that a subnet trains on.
    #[command(subcommand)]
    Dataset(Dataset),
    /// List who publishes on the subnet, and what validators measured.
    #[command(subcommand, after_help = LOOK_HELP)]
    Runs(Runs),
    /// Write a miner's work or model to a file, once it is proven to be what its hotkey signed and committed to.
    #[command(after_help = LOOK_HELP)]
    Fetch(Fetch),
    /// Say why a miner has the weight that it has, window by window.
    #[command(after_help = LOOK_HELP)]
    Explain(Explain),
    /// Write a model of the run as a folder that Hugging Face's transformers loads.
    #[command(after_help = EXPORT_HELP)]
    Export(Box<Export>),
    /// Turn such a folder into the checkpoint that a run starts from; prints what belongs into the Subnet.
    #[command(after_help = IMPORT_HELP)]
    Import(Import),
    /// Measure how well a model foretells a text: loss, perplexity, accuracy.
    #[command(after_help = EVALUATE_HELP)]
    Evaluate(Box<Evaluate>),
    /// Let a model write on.
    #[command(after_help = GENERATE_HELP)]
    Generate(Box<Generate>),
}

#[derive(Subcommand)]
enum Dataset {
    /// Turn text into tokens; prints the digest that belongs into the Subnet as run.dataset.digest.
    #[command(after_help = PREPARE_HELP)]
    Prepare(Box<Prepare>),
}

/// `dataset prepare`.
#[derive(Args)]
pub struct Prepare {
    /// A folder, or s3://BUCKET/PREFIX.
    #[arg(long)]
    pub from: String,
    /// A folder, or s3://BUCKET/PREFIX. Absent: only the digest is computed.
    #[arg(long)]
    pub to: Option<String>,
    /// Address of the S3 service; absent: AWS.
    #[arg(long)]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, default_value = "us-east-1")]
    pub region: String,
    /// Files with these endings are read; those of no known format are one document each.
    #[arg(long = "extension", default_values = ["rs", "txt", "md", "jsonl", "jsonl.gz", "jsonl.zst", "parquet"])]
    pub extensions: Vec<String>,
    /// Field of a JSON line, or column of a parquet file, that has the text.
    #[arg(long, default_value = "text")]
    pub text_field: String,
    /// A tokenizer.json (Hugging Face's format). Absent: every byte is a token.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Token of the tokenizer that is put between documents. Absent: `<|endoftext|>`, `</s>`, `<eos>` or `<|end_of_text|>`.
    #[arg(long, requires = "tokenizer")]
    pub separator: Option<String>,
    /// Stop before this many bytes of text.
    #[arg(long)]
    pub limit: Option<u64>,
    /// Start anew where an interrupted run left its state in --to.
    #[arg(long)]
    pub restart: bool,
    /// Folder with `bucket/access-key-id` and `bucket/secret-access-key`.
    #[arg(long, env = "BISTRO_SECRETS", default_value = "/run/bistro/secrets")]
    pub secrets: PathBuf,
}

const AFTER_HELP: &str = "\
Roles take everything from the pod:
  BISTRO_SETTINGS  settings file                           /etc/bistro/settings.yaml
  BISTRO_SECRETS   folders wallet/ and bucket/             /run/bistro/secrets
  BISTRO_STATE     the folder that outlives the process    /var/lib/bistro
  BISTRO_HTTP      /metrics /status /healthz /readyz       0.0.0.0:8080
  BISTRO_THREADS   size of every thread pool               all cores
  BISTRO_DEVICE    auto, cpu, cuda or cuda:N               auto: a GPU where one answers
  BISTRO_PRECISION f32 or bf16: training on a GPU          f32
  BISTRO_RECOMPUTE 1: less memory, a third more time       auto: where memory is scarce
  BISTRO_ORDINAL   which replica: signs with hotkey-N      0
  BISTRO_LOG       log filter                              info
Exit codes: 0 stopped when asked to, 2 a fault that will not pass by itself (one line says which and what to do).";

const LOOK_HELP: &str = "\
It reads chain and bucket, writes to neither, and signs nothing. It takes BISTRO_SETTINGS, BISTRO_SECRETS and BISTRO_STATE as
a node does (see bistro-worker --help), so the easiest place for it is a node's pod:
  kubectl exec validator-validator-0 -- bistro-worker runs miners
  kubectl exec validator-validator-0 -- bistro-worker runs miners --format csv > miners.csv
  kubectl exec validator-validator-0 -- bistro-worker runs scores --window 41 --format json
  kubectl exec validator-validator-0 -- bistro-worker explain --hotkey 5F.. --recompute 41
  bistro-worker fetch --hotkey 5F.. --to model.safetensors";

const PREPARE_HELP: &str = "\
Formats, by the end of a file's name:
  .jsonl .jsonl.gz .jsonl.zst   a document a line: the text in --text-field
  .parquet                      a document a row: the text in the column --text-field
  any other --extension         a document a file
Examples:
  bistro-worker dataset prepare --from ./corpus --to ./tokens
  bistro-worker dataset prepare --from ./dump --extension jsonl.zst --text-field content --to ./tokens
  bistro-worker dataset prepare --from ./fineweb --extension parquet --tokenizer gpt2/tokenizer.json --to ./tokens
  bistro-worker dataset prepare --from s3://bistro/corpus --to s3://bistro/datasets/rust --endpoint http://devnet:9000
  bistro-worker dataset prepare --from ./corpus                 (the digest alone)
The same text gives the same digest on every machine. A run that was interrupted leaves prepare.json in --to; the same
command goes on from there. BISTRO_THREADS threads make tokens.";

const EXPORT_HELP: &str = "\
Without --from or --model the model is the run's, and BISTRO_SETTINGS, BISTRO_SECRETS and BISTRO_STATE say which run that is,
as for a node (see bistro-worker --help). Nothing is written to chain or bucket.
Examples:
  bistro-worker export --to ./model                             (the newest base)
  bistro-worker export --to ./model --window 400
  bistro-worker export --to ./model --hotkey 5F..               (a miner's model, mechanism lossWins)
  bistro-worker export --to ./model --checkpoint base.safetensors --model config.json --tokenizer tokenizer.json
Then, in Python:
  AutoModelForCausalLM.from_pretrained(\"./model\"), AutoTokenizer.from_pretrained(\"./model\")";

const IMPORT_HELP: &str = "\
The folder is what save_pretrained writes: config.json, model.safetensors or several files with their index, and perhaps
tokenizer.json. Numbers in F32, BF16 or F16 become F32. Names, shapes and values are checked against config.json.
Examples:
  bistro-worker import --from ./gpt2 --to gpt2.safetensors
  bistro-worker import --from s3://models/gpt2 --to gpt2.safetensors --endpoint http://devnet:9000
Put the file into the subnet's bucket, its key into run.from.checkpoint, and the printed model into run.model.";

const EVALUATE_HELP: &str = "\
A text is cut into sequences of --context tokens, each without what stands before it. The loss is in nats per token.
Examples:
  bistro-worker evaluate --pages 4                              (what nodes show as their loss)
  bistro-worker evaluate --text book.txt --format json
  bistro-worker evaluate --text book.txt --from ./gpt2
  bistro-worker evaluate --pages 16 --from ./gpt2               (another model on the run's held-out pages)
  bistro-worker evaluate --text line.txt --logits logits.safetensors";

const GENERATE_HELP: &str = "\
The text goes to standard output as it comes, the log to standard error.
Examples:
  bistro-worker generate --prompt 'fn main() {'
  bistro-worker generate --prompt 'Once upon a time' --tokens 200 --temperature 0.8 --top-k 40 --seed 7
  bistro-worker generate --prompt 'Once upon a time' --from ./gpt2 --format json";

/// Parses, runs, and maps the outcome to an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(Failure::permanent).and_then(|runtime| runtime.block_on(run(cli.command)));
    match outcome {
        Ok(()) | Err(Failure::Stopped) => ExitCode::SUCCESS,
        Err(Failure::Permanent(line)) => {
            eprintln!("bistro-worker: {line}");
            ExitCode::from(PERMANENT)
        }
        Err(Failure::Transient(line)) => {
            eprintln!("bistro-worker: {line}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    let role = match command {
        Command::Dataset(Dataset::Prepare(arguments)) => {
            let stop = stopped_by_signals()?;
            return dataset::prepare(*arguments, stop).await;
        }
        Command::Runs(what) => return look::runs(what, stopped_by_signals()?).await,
        Command::Fetch(what) => return look::fetch(what, stopped_by_signals()?).await,
        Command::Explain(what) => return look::explain(what, stopped_by_signals()?).await,
        Command::Export(what) => return interop::export(*what, stopped_by_signals()?).await,
        Command::Import(what) => return interop::import(what).await,
        Command::Evaluate(what) => return interop::evaluate(*what, stopped_by_signals()?).await,
        Command::Generate(what) => return interop::generate(*what, stopped_by_signals()?).await,
        Command::Miner => Role::Miner,
        Command::Validator => Role::Validator,
        Command::Averager => Role::Averager,
    };
    let environment = Environment::from_variables()?;
    roles::run(role, environment, stopped_by_signals()?).await
}

/// Cancelled when the process is asked to stop.
fn stopped_by_signals() -> Result<CancellationToken, Failure> {
    let stopped = CancellationToken::new();
    let stop = stopped.clone();
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::permanent)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::permanent)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop: finishing what is under way");
        stop.cancel();
    });
    Ok(stopped)
}
