//! What a devnet can be told.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Settings of a devnet. Those of the subnet count for a new chain only; an old one keeps its own.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where JSON-RPC listens; port 0: any free one.
    pub rpc: SocketAddr,
    /// Where S3 listens; port 0: any free one.
    pub s3: SocketAddr,
    /// The folder of chain and bucket.
    pub data: PathBuf,
    /// From one block to the next.
    pub block_time: Duration,
    /// Blocks by which the newest final block is behind the best one.
    pub finality_lag: u32,
    /// A folder whose files can be read under `corpus/`.
    pub corpus: Option<PathBuf>,
    /// The secret of the access key `admin`.
    pub admin_secret: String,
    /// Blocks of one window: the tempo and the rate limit of weights unless those are named.
    pub window_blocks: u16,
    /// Blocks from one epoch to the next.
    pub tempo: Option<u16>,
    /// Blocks between two `set_weights` of one uid.
    pub weights_rate_limit: Option<u64>,
    /// Whether weights must be committed first, which this chain has no calls for.
    pub commit_reveal: bool,
    /// Alpha, in rao, that a hotkey needs to set weights.
    pub stake_threshold: u64,
    /// The number of uids; a registration beyond it replaces one.
    pub max_uids: u16,
    /// Blocks for which a new uid cannot be replaced.
    pub immunity_blocks: u16,
    /// The price of a registration, in rao.
    pub burn: u64,
}

impl Options {
    pub(crate) fn tempo(&self) -> u16 {
        self.tempo.unwrap_or(self.window_blocks)
    }

    pub(crate) fn weights_rate_limit(&self) -> u64 {
        self.weights_rate_limit.unwrap_or(u64::from(self.window_blocks))
    }
}

impl Default for Options {
    /// For tests: free ports of loopback, four blocks a second, windows of 40 blocks, finality 3 blocks behind.
    fn default() -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Options {
            rpc: any_port,
            s3: any_port,
            data: PathBuf::from("devnet-data"),
            block_time: Duration::from_millis(250),
            finality_lag: 3,
            corpus: None,
            admin_secret: "admin".to_string(),
            window_blocks: 40,
            tempo: None,
            weights_rate_limit: None,
            commit_reveal: false,
            stake_threshold: 0,
            max_uids: 256,
            immunity_blocks: 160,
            burn: 1_000_000,
        }
    }
}
