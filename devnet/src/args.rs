//! The command line, turned into [`Options`] once, at the edge.

use crate::{Devnet, Options, error_chain};
use clap::Parser;
use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const MAX_BLOCK_TIME: Duration = Duration::from_secs(3600);

/// A development chain and an S3 server in one program, for Bistro on one machine.
///
/// The chain answers Substrate's JSON-RPC with the interface of Bittensor's mainnet: subnet 1 is owned by
/// //Alice, and //Alice to //Ferdie are rich. The bucket `bistro` answers path-style S3. Its access key is a
/// hotkey's SS58 address; the secret is the hex of blake3's derive_key("bistro/devnet/s3", address), which
/// anybody can compute. Each hotkey writes under its own address only; the key `admin` writes under datasets/.
///
/// Once it serves it prints one line: bistro-devnet ready rpc=ws://.. s3=http://.. genesis=0x..
/// A restart, even after a kill, continues the same chain. For development only: it keeps no secrets.
#[derive(Debug, Parser)]
#[command(name = "bistro-devnet", version, verbatim_doc_comment)]
pub struct Args {
    /// Time from one block to the next: 250ms, 1s, 12s
    #[arg(long, default_value = "1s", value_parser = duration)]
    block_time: Duration,
    /// Address of the chain's JSON-RPC (WebSocket and HTTP); port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9944")]
    rpc: SocketAddr,
    /// Address of the S3 server; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9000")]
    s3: SocketAddr,
    /// Folder of chain and bucket; an empty one begins a new chain
    #[arg(long)]
    data: PathBuf,
    /// Blocks by which finality is behind the newest block
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(..=200))]
    finality_lag: u32,
    /// Folder whose files everybody can read under corpus/ in the bucket
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Secret of the access key `admin`
    #[arg(long, default_value = "admin", env = "BISTRO_DEVNET_ADMIN_SECRET")]
    admin_secret: String,
    /// Blocks of a window: tempo and weights rate limit unless they are named (new chains only)
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..))]
    window_blocks: u16,
    /// Blocks from one epoch to the next (new chains only)
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    tempo: Option<u16>,
    /// Blocks between two set_weights of one uid (new chains only)
    #[arg(long)]
    weights_rate_limit: Option<u64>,
    /// Refuse set_weights with CommitRevealEnabled, as subnets with commit-reveal do (new chains only)
    #[arg(long)]
    commit_reveal: bool,
    /// Alpha, in rao, that a hotkey needs to set weights (new chains only)
    #[arg(long, default_value_t = 0)]
    stake_threshold: u64,
    /// Uids of the subnet; a registration beyond them replaces the least paid (new chains only)
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    max_uids: u16,
    /// Blocks for which a new uid cannot be replaced (new chains only)
    #[arg(long, default_value_t = 160)]
    immunity_blocks: u16,
    /// Price of a registration, in rao (new chains only)
    #[arg(long, default_value_t = 1_000_000)]
    burn: u64,
}

impl From<Args> for Options {
    fn from(args: Args) -> Options {
        let Args {
            block_time,
            rpc,
            s3,
            data,
            finality_lag,
            corpus,
            admin_secret,
            window_blocks,
            tempo,
            weights_rate_limit,
            commit_reveal,
            stake_threshold,
            max_uids,
            immunity_blocks,
            burn,
        } = args;
        Options {
            rpc,
            s3,
            data,
            block_time,
            finality_lag,
            corpus,
            admin_secret,
            window_blocks,
            tempo,
            weights_rate_limit,
            commit_reveal,
            stake_threshold,
            max_uids,
            immunity_blocks,
            burn,
        }
    }
}

/// Runs a devnet until SIGTERM or SIGINT.
pub fn main(args: Args) -> ExitCode {
    // s3s calls every missing key an error; what this machine does wrong, the bucket logs itself.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,s3s=off,jsonrpsee=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(run(args.into())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error),
    }
}

async fn run(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    // Before anything is served: a signal from here on ends the program cleanly.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::warn!("for development only: every key and secret here is public");
    for address in [options.rpc, options.s3] {
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "listening beyond this machine");
        }
    }
    let devnet = Devnet::start(options).await?;
    let (rpc, s3, genesis) = (devnet.rpc_url(), devnet.s3_url(), hex::encode(devnet.genesis()));
    writeln!(std::io::stdout(), "bistro-devnet ready rpc={rpc} s3={s3} genesis=0x{genesis}")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    devnet.shutdown().await;
    Ok(())
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("bistro-devnet: {}", error_chain(error));
    ExitCode::FAILURE
}

/// A duration above zero and up to an hour: a whole number and `ms`, `s` or `m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a whole number and ms, s or m, like 250ms")?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err("expected the unit ms, s or m, like 250ms".into()),
    };
    if duration.is_zero() || duration > MAX_BLOCK_TIME {
        return Err("expected more than 0 and at most 60m".into());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_need_a_number_and_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("12s"), Ok(Duration::from_secs(12)));
        assert_eq!(duration("60m"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "1", "s", "0s", "1.5s", "-1s", "1h", "61m", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
