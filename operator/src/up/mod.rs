//! `bistro up`: the same pods as in a cluster, as processes of this machine.
//!
//! ```text
//! files -> manifests -> network (references, plan) -> pods -> supervisor: one process each
//!                                                              |  /status
//!               lines or frames, summary, the end  <- board <-+ poll
//! ```

mod answer;
pub mod board;
mod devnet;
mod display;
mod endpoints;
mod frame;
pub mod leash;
mod lines;
pub mod network;
pub mod node_view;
mod not_honoured;
mod pod;
mod poll;
pub mod port;
mod screen;
mod session;
mod state;
mod styled;
pub mod summary;
mod supervisor;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    cli::{beside_this, one_line},
    manifests::{self, Problems},
    text,
};

/// Arguments of `bistro up`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// File or folder with resources: Subnet, Miner, Validator, Averager, Secret, ConfigMap, Job; may be repeated
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true)]
    file: Vec<PathBuf>,
    /// End after so many windows that admitted work
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    windows: Option<u32>,
    /// Show a line per node and window, as where the output is no terminal, instead of a table
    #[arg(long)]
    plain: bool,
    /// Write what it came to as JSON to this file
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Text files that the devnet serves as s3://bistro/corpus, for a Job that prepares the dataset
    #[arg(long, value_name = "DIR")]
    devnet_corpus: Option<PathBuf>,
    /// Time from block to block of the devnet, like 250ms or 12s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = block_time)]
    block_time: String,
    /// Folder for logs, keys and state; an earlier one is continued [default: a fresh one in ~/.local/state/bistro]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Folder with bistro-worker and bistro-devnet [default: the folder of this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// Why `up` ended other than as asked.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The files cannot be used.
    #[error(transparent)]
    Input(#[from] Problems),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] state::StateError),
    /// The runtime does not start, or signals cannot be listened to.
    #[error("failed to start")]
    Runtime(#[source] std::io::Error),
    /// A program is missing.
    #[error("{0} does not exist: build or install it, or name its folder with --bin-dir")]
    NoProgram(String),
    /// A process failed for good.
    #[error("{0}: {1}")]
    Failed(String, String),
    /// Two nodes hold different bases.
    #[error("{0}")]
    Diverged(board::Divergence),
    /// The summary cannot be written.
    #[error("failed to write {0}")]
    Summary(String, #[source] std::io::Error),
}

/// Runs until the windows are done, something fails or Ctrl-C; leaves nothing running.
pub fn run(arguments: Arguments) -> ExitCode {
    // Processes are tied to the thread that starts them, so there must be one that lives as long as `up`.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let started = Instant::now();
    let ended = runtime.map_err(UpError::Runtime).and_then(|runtime| {
        let ended = runtime.block_on(up(&arguments, started));
        runtime.shutdown_timeout(Duration::from_secs(1));
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", one_line(&error));
            ExitCode::from(if matches!(error, UpError::Input(_)) { 2 } else { 1 })
        }
    }
}

async fn up(arguments: &Arguments, started: Instant) -> Result<(), UpError> {
    let manifests = manifests::read(&arguments.file)?;
    let network = network::plan(&manifests)?;
    let programs = match &arguments.bin_dir {
        Some(folder) => folder.canonicalize().unwrap_or_else(|_| folder.clone()),
        None => beside_this(""),
    };
    for (program, needed) in [("bistro-worker", true), ("bistro-devnet", network.needs_devnet())] {
        let path = programs.join(program);
        if needed && !path.is_file() {
            return Err(UpError::NoProgram(path.display().to_string()));
        }
    }
    session::Session::begin(arguments, manifests, network, programs, started).await
}

/// Checks a time like `250ms`, `1s` or `2m`; the devnet reads the same text.
fn block_time(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let well_formed = digits.parse::<u32>().is_ok_and(|number| number > 0) && matches!(unit, "ms" | "s" | "m");
    if well_formed {
        Ok(text.to_owned())
    } else {
        Err("write a whole number and ms, s or m, like 250ms or 1s".to_owned())
    }
}
