//! The devnet as one more process: started on free ports, started again on the same ones.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bistro_api::Subnet;

use super::{
    endpoints::Endpoints,
    pod::{LocalPod, Restarts},
    state::{StateError, StateFolder, create_folder},
};

/// Name of its pod.
pub const ID: &str = "devnet";
/// Begin of the line that says that it serves.
const READY: &str = "bistro-devnet ready ";
/// How often its log is looked at until then.
const POLL: Duration = Duration::from_millis(50);

/// How to start a devnet.
#[derive(Clone, Debug)]
pub struct DevnetOptions<'a> {
    /// Folder of the programs.
    pub programs: &'a Path,
    /// Time from block to block, as the devnet reads it.
    pub block_time: &'a str,
    /// A corpus to serve from its bucket.
    pub corpus: Option<PathBuf>,
}

/// The devnet's process, listening on free ports.
pub fn pod(subnet: &Subnet, state: &StateFolder, options: &DevnetOptions<'_>) -> Result<LocalPod, StateError> {
    let folder = state.pod(ID);
    create_folder(&folder)?;
    create_folder(&state.devnet())?;
    let window = subnet.spec.run.schedule.window_blocks.to_string();
    let mut arguments: Vec<OsString> = Vec::new();
    let mut pair = |name: &str, value: OsString| arguments.extend([OsString::from(name), value]);
    pair("--rpc", "127.0.0.1:0".into());
    pair("--s3", "127.0.0.1:0".into());
    pair("--block-time", options.block_time.into());
    pair("--data", state.devnet().into());
    // The lag of main net, which the schedule of every run allows for.
    pair("--finality-lag", "3".into());
    pair("--tempo", window.clone().into());
    pair("--weights-rate-limit", window.into());
    if let Some(corpus) = &options.corpus {
        pair("--corpus", corpus.into());
    }
    Ok(LocalPod {
        id: ID.to_owned(),
        label: ID.to_owned(),
        role: None,
        program: options.programs.join("bistro-devnet"),
        arguments: Arc::new(Mutex::new(arguments)),
        environment: BTreeMap::new(),
        folder,
        restarts: Restarts::Always,
    })
}

/// Waits until the devnet serves, then fixes its ports for every later start.
///
/// `skip` is the length of its log before it was started: what stands there is of an earlier time.
pub async fn ready(pod: &LocalPod, skip: u64) -> Endpoints {
    let endpoints = loop {
        if let Some(endpoints) = written(&pod.log(), skip).ok().and_then(|log| announced(&log)) {
            break endpoints;
        }
        tokio::time::sleep(POLL).await;
    };
    if let Ok(mut arguments) = pod.arguments.lock() {
        for (option, address) in [("--rpc", &endpoints.chain), ("--s3", &endpoints.bucket)] {
            let value = arguments.iter().position(|argument| argument == option).map(|at| at + 1);
            if let Some(value) = value.and_then(|at| arguments.get_mut(at)) {
                *value = address.rsplit('/').next().unwrap_or_default().into();
            }
        }
    }
    endpoints
}

/// Bytes in the log now.
pub fn log_length(pod: &LocalPod) -> u64 {
    fs::metadata(pod.log()).map_or(0, |metadata| metadata.len())
}

fn written(log: &Path, skip: u64) -> io::Result<String> {
    let bytes = fs::read(log)?;
    let new = usize::try_from(skip).ok().and_then(|skip| bytes.get(skip..)).unwrap_or_default();
    Ok(String::from_utf8_lossy(new).into_owned())
}

/// The addresses in `bistro-devnet ready rpc=ws://.. s3=http://.. genesis=0x..`.
fn announced(log: &str) -> Option<Endpoints> {
    // A line without its end may be half of one.
    let complete = &log[..log.rfind('\n')?];
    let line = complete.lines().find_map(|line| line.trim().strip_prefix(READY))?;
    let value = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
    Some(Endpoints { chain: value("rpc=")?, bucket: value("s3=")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_addresses_from_a_complete_line_only() {
        let line = "hello\nbistro-devnet ready rpc=ws://127.0.0.1:5 s3=http://127.0.0.1:6 genesis=0x1";
        assert_eq!(announced(line), None);
        let endpoints = announced(&format!("{line}\n")).expect("announced");
        assert_eq!(endpoints.chain, "ws://127.0.0.1:5");
        assert_eq!(endpoints.bucket, "http://127.0.0.1:6");
    }
}
