//! Tools for people: what nodes published, read and checked as nodes do, and shown. Nothing here writes to chain or bucket,
//! and no key is needed.

mod explain;
mod fetch;
mod runs;
pub(crate) mod table;

use bistro_protocol::{
    hotkey::Hotkey,
    manifest::Manifest,
    object::{self, Kind},
    record::{Entry, MAX_RECORD, Scores},
};
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

pub use self::table::Format;
use crate::{bucket, environment::Environment, failure::Failure, follow::averager_of, node::Node, roles::prepare};

/// What is shown of a run.
#[derive(Subcommand)]
pub enum Runs {
    /// Who published work lately: uid, hotkey, incentive, window, verdict, size, loss, score and time of the newest.
    Miners(Listing),
    /// Who published scores lately: uid, hotkey, incentive, window, what it drew, and the block of its weights.
    Validators(Listing),
    /// What every validator measured of every miner that it drew in one window, page by page where pages are compared.
    Scores {
        /// The window; absent: the newest that has a record.
        #[arg(long)]
        window: Option<u64>,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

/// A list of nodes.
#[derive(Args)]
pub struct Listing {
    /// Windows that are looked back.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub windows: u64,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `fetch`.
#[derive(Args)]
pub struct Fetch {
    /// The miner's SS58 address.
    #[arg(long)]
    pub hotkey: String,
    /// The window of its work; absent: the newest that was accepted, or the model that it is committed to.
    #[arg(long)]
    pub window: Option<u64>,
    /// The safetensors file that is written.
    #[arg(long)]
    pub to: std::path::PathBuf,
}

/// `explain`.
#[derive(Args)]
pub struct Explain {
    /// The miner's SS58 address.
    #[arg(long)]
    pub hotkey: String,
    /// Windows that are looked back.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub windows: u64,
    /// Compute again what a validator measured of it in this window; takes as long as that did.
    #[arg(long)]
    pub recompute: Option<u64>,
}

/// `runs ...`.
pub async fn runs(what: Runs, stop: CancellationToken) -> Result<(), Failure> {
    let text = onlooker(stop, async |node| match what {
        Runs::Miners(Listing { windows, format }) => Ok(runs::miners(node, windows).await?.text(format)),
        Runs::Validators(Listing { windows, format }) => Ok(runs::validators(node, windows).await?.text(format)),
        Runs::Scores { window, format } => Ok(runs::scores(node, window).await?.text(format)),
    });
    print!("{}", text.await?);
    Ok(())
}

/// `fetch ...`.
pub async fn fetch(what: Fetch, stop: CancellationToken) -> Result<(), Failure> {
    println!("{}", onlooker(stop, async |node| fetch::fetch(node, &what).await).await?);
    Ok(())
}

/// `explain ...`.
pub async fn explain(what: Explain, stop: CancellationToken) -> Result<(), Failure> {
    print!("{}", onlooker(stop, async |node| explain::explain(node, &what).await).await?);
    Ok(())
}

/// Does `work` as somebody who reads only. What it keeps lies in a folder that goes with it.
pub(crate) async fn onlooker<T>(
    stop: CancellationToken,
    work: impl AsyncFnOnce(&Node) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut environment = Environment::from_variables()?;
    let settings = environment.read_settings()?;
    let folder = environment.state.join(format!("onlooker-{}", std::process::id()));
    environment.state.clone_from(&folder);
    // Boxed: the compiler loses its way in futures as deep as these.
    let done = match Box::pin(prepare::onlooker(settings, environment, stop)).await {
        Ok(node) => Box::pin(work(&node)).await,
        Err(failure) => Err(failure),
    };
    // Gone already, or left for whoever owns the folder: nothing depends on it.
    let _ = std::fs::remove_dir_all(&folder);
    done
}

/// The window that is under way, and the first one that is looked at.
fn span(node: &Node, windows: u64) -> (u64, u64) {
    let now = node.clock.window_of(node.head().number);
    (now, now.saturating_sub(windows).max(node.settings.run.start_window))
}

pub(crate) fn hotkey(text: &str) -> Result<Hotkey, Failure> {
    Hotkey::from_ss58(text).map_err(|error| Failure::Permanent(format!("--hotkey {text}: {error}")))
}

/// The manifests of these windows, as far as they are there, the newest first.
async fn manifests(node: &Node, windows: std::ops::RangeInclusive<u64>) -> Result<Vec<(u64, Manifest)>, Failure> {
    let mut found = Vec::new();
    for window in windows.rev() {
        let Some(averager) = averager_of(node, window).await? else { continue };
        if let Some(manifest) = node.manifest(&averager, window).await? {
            found.push((window, manifest.body));
        }
    }
    Ok(found)
}

/// A validator's record of a window that follows from itself; `None` where there is none, or a warning says what is wrong.
async fn record(node: &Node, validator: &Hotkey, window: u64) -> Result<Option<Scores>, Failure> {
    let key = node.key(validator, window, Kind::Scores);
    let check = |found: &bucket::Object| {
        let opened = object::open::<Scores>(&node.agreement, validator, window, Kind::Scores, &found.bytes);
        let scores = opened.map_err(|verdict| verdict.to_string())?.body;
        scores.check(validator).map_err(|fault| fault.to_string())?;
        Ok(scores)
    };
    let found = match node.read(&key, MAX_RECORD, check).await {
        Err(error) if error.is_the_authors() => Some(Err(error.to_string())),
        found => found?,
    };
    match found {
        Some(Err(fault)) => {
            eprintln!("{key}: {fault}: left out");
            Ok(None)
        }
        found => Ok(found.and_then(Result::<Scores, String>::ok)),
    }
}

/// Who may set weights, by uid.
async fn validators(node: &Node) -> Result<Vec<(u16, Hotkey)>, Failure> {
    let (netuid, at) = (node.settings.netuid, node.head().hash);
    let permits = node.chain.validator_permit(netuid, at).await?;
    let neurons = node.chain.neurons(netuid, at).await?;
    let permitted = neurons.into_iter().filter(|n| permits.get(usize::from(n.uid)) == Some(&true));
    Ok(permitted.map(|n| (n.uid, Hotkey(n.hotkey))).collect())
}

/// The share of a record's weights that a miner of it has.
fn weight_of(scores: &Scores, miner: &Entry) -> f64 {
    let total: f64 = scores.miners.iter().map(|m| f64::from(m.weight)).sum();
    f64::from(miner.weight) / total.max(1.0)
}

/// A share of what the chain counts in 65535 parts, as a fraction.
fn share(of: u16) -> serde_json::Value {
    table::rounded(f64::from(of) / f64::from(u16::MAX), 4)
}
