//! Logs: for people on a terminal, JSON for machines.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged when BISTRO_LOG does not say otherwise: our own progress, and only trouble from below.
const DEFAULT_FILTER: &str = "info,aws_config=warn,aws_runtime=warn,aws_sdk_s3=warn,aws_smithy_runtime=warn,\
    aws_smithy_runtime_api=warn,hyper=warn,hyper_util=warn,h2=warn,rustls=warn,jsonrpsee=warn,jsonrpsee_core=warn,\
    jsonrpsee_client=warn,soketto=warn,subxt=warn,subxt_rpcs=warn,tokenizers=warn";

/// Sends logs to standard error. `BISTRO_LOG` is a filter (`debug`, `info,bistro_worker=trace`), `BISTRO_LOG_FORMAT=json`
/// one JSON object a line. Without a terminal there are no colours. A second call changes nothing.
pub fn init_logging() {
    let asked = std::env::var("BISTRO_LOG").ok().filter(|text| !text.trim().is_empty());
    let (filter, fault) = match asked.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(fault)) => (EnvFilter::new(DEFAULT_FILTER), Some(fault)),
        None => (EnvFilter::new(DEFAULT_FILTER), None),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if std::env::var("BISTRO_LOG_FORMAT").is_ok_and(|format| format == "json") {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed()
    };
    // An error only says that a subscriber is set already, as in tests.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    if let Some(fault) = fault {
        tracing::warn!("BISTRO_LOG is not a filter and is ignored: {fault}");
    }
}
