//! The roles: one loop each. What they share here: getting ready, repeating a step until it works, and
//! showing what the chain says of this node.

mod averager;
mod miner;
pub mod prepare;
mod show;
mod validator;

pub use show::Shown;
pub(crate) use validator::recompute;

use std::{sync::Arc, time::Duration};

use bistro_api::{Role, status::Phase};
use bistro_protocol::check::Verdict;
use tokio_util::sync::CancellationToken;

use crate::{
    environment::Environment,
    failure::Failure,
    node::Node,
    retry::jittered,
    telemetry::{self, Telemetry},
};

/// A window whose loop shows no sign of life for so long is stuck: longer than any window that people run.
const STUCK_AFTER: Duration = Duration::from_secs(6 * 3600);
/// First and longest pause between two tries of a step: short, so that little of a window is lost when a service comes
/// back after minutes.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Runs one role until it is asked to stop (`Ok`) or cannot go on.
pub async fn run(role: Role, environment: Environment, stop: CancellationToken) -> Result<(), Failure> {
    let telemetry = Telemetry::new(role);
    let settings = environment.read_settings()?;
    let http = environment.http.clone();
    let server = telemetry::serve(&http, telemetry.clone(), stop.clone()).await;
    let server = server.map_err(|e| Failure::Permanent(format!("failed to listen on {http}: {e}: set BISTRO_HTTP")))?;
    tracing::info!("serves /metrics /status /healthz /readyz on http://{}", server.address);
    let outcome = work(role, settings, environment, telemetry.clone(), stop.clone()).await;
    if let Err(Failure::Permanent(line) | Failure::Transient(line)) = &outcome {
        telemetry.message(line);
        telemetry.phase(Phase::Failed);
    }
    stop.cancel();
    server.finished().await;
    match outcome {
        Err(Failure::Stopped) => Ok(()),
        other => other,
    }
}

async fn work(
    role: Role,
    settings: bistro_api::Settings,
    environment: Environment,
    telemetry: Telemetry,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let node = Arc::new(prepare::node(role, settings, environment, telemetry, stop).await?);
    let showing = tokio::spawn(show::follow_chain(node.shown()));
    let outcome = match role {
        Role::Miner => repeat::<miner::Miner>(&node).await,
        Role::Validator => repeat::<validator::Validator>(&node).await,
        Role::Averager => repeat::<averager::Averager>(&node).await,
    };
    showing.abort();
    outcome
}

/// A role's loop: it can be made anew from the state on disk, and every step of it can be repeated.
trait Loop: Sized + Send {
    /// Goes on where it stopped.
    fn start(node: Arc<Node>) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// One window. After a fault or a restart it does again what was not finished, with the same bytes.
    fn window(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Windows for ever; a fault that may pass is shown and the step tried again.
async fn repeat<L: Loop>(node: &Arc<Node>) -> Result<(), Failure> {
    let heart = node.telemetry.health.watch("window", STUCK_AFTER);
    let mut role = None;
    let mut pause = PAUSES.0;
    loop {
        heart.beat();
        let outcome = match &mut role {
            None => L::start(Arc::clone(node)).await.map(|started| role = Some(started)),
            Some(role) => L::window(role).await,
        };
        match outcome {
            Ok(()) => pause = PAUSES.0,
            Err(Failure::Transient(line)) => {
                tracing::warn!("{line}");
                node.telemetry.message(line);
                // Whatever the failed step left half done in memory is read again from the disk.
                role = None;
                node.pause(jittered(pause)).await?;
                pause = (2 * pause).min(PAUSES.1);
            }
            Err(other) => return Err(other),
        }
    }
}

/// Counts a verdict where metrics and status show it.
fn count_verdict(node: &Node, verdict: Verdict) {
    node.telemetry.metrics.artifacts.with_label_values(&[verdict.as_str()]).inc();
    node.telemetry.status.update(|status| *status.verdicts.entry(verdict.to_string()).or_default() += 1);
}
