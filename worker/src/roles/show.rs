//! What the chain says of this node, in the background: block, window, uid, weight, incentive.

use bistro_api::Role;
use bistro_protocol::clock::Clock;

use crate::{
    chain::{Chain, Error},
    telemetry::Telemetry,
};

/// Questions per window; each costs three requests, a validator's four.
const PER_WINDOW: u64 = 8;

/// What the background task needs of a node.
pub struct Shown {
    /// The chain.
    pub chain: Chain,
    /// The clock of the run.
    pub clock: Clock,
    /// Number of the subnet.
    pub netuid: u16,
    /// Public key of the node.
    pub hotkey: [u8; 32],
    /// Where it is shown.
    pub telemetry: Telemetry,
}

/// Follows finalised heads for ever.
pub async fn follow_chain(shown: Shown) {
    let mut heads = shown.chain.heads();
    let every = (shown.clock.end(0) / PER_WINDOW).max(1);
    let mut asked = None;
    while heads.changed().await.is_ok() {
        let head = *heads.borrow_and_update();
        let window = shown.clock.window_of(head.number);
        shown.telemetry.status.update(|status| {
            status.block = Some(head.number);
            status.window = Some(window);
            let behind = status.base_window.map_or(0, |base| window.saturating_sub(base));
            shown.telemetry.metrics.windows_behind.set(behind as i64);
        });
        shown.telemetry.metrics.block.set(head.number as i64);
        shown.telemetry.metrics.window.set(window as i64);
        if asked.is_none_or(|last| head.number >= last + every) {
            asked = Some(head.number);
            // Shown again at the next question; the transport notes that the chain is away.
            if let Err(error) = ask(&shown, head.hash).await {
                tracing::debug!("{error}");
            }
        }
    }
}

async fn ask(shown: &Shown, at: [u8; 32]) -> Result<(), Error> {
    let uid = shown.chain.uid(shown.netuid, shown.hotkey, at).await?;
    let (mut incentive, mut weight) = (None, None);
    if let Some(uid) = uid {
        let all = shown.chain.incentive(shown.netuid, at).await?;
        incentive = Some(f64::from(all.get(usize::from(uid)).copied().unwrap_or(0)) / f64::from(u16::MAX));
        weight = Some(mean_share(&shown.chain.weights(shown.netuid, at).await?, uid));
        if shown.telemetry.status.read().role == Role::Validator {
            let updated = shown.chain.last_update(shown.netuid, at).await?;
            let block = updated.get(usize::from(uid)).copied().unwrap_or(0);
            shown.telemetry.metrics.weights_set_in(shown.clock.window_of(block));
        }
    }
    shown.telemetry.metrics.incentive.set(incentive.unwrap_or(0.0));
    shown.telemetry.status.update(|status| (status.uid, status.incentive, status.weight) = (uid, incentive, weight));
    Ok(())
}

/// Share of `uid` in each validator's weights, averaged over the validators that have set any.
fn mean_share(weights: &[(u16, Vec<(u16, u16)>)], uid: u16) -> f64 {
    let share = |row: &Vec<(u16, u16)>| {
        let total: f64 = row.iter().map(|(_, w)| f64::from(*w)).sum();
        let own: f64 = row.iter().filter(|(u, _)| *u == uid).map(|(_, w)| f64::from(*w)).sum();
        (total > 0.0).then(|| own / total)
    };
    let shares: Vec<f64> = weights.iter().filter_map(|(_, row)| share(row)).collect();
    // Not sum(): of nothing that is -0.
    shares.iter().fold(0.0, |total, share| total + share) / shares.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_count_alike_and_empty_rows_not_at_all() {
        let weights = vec![(5, vec![(0, 65535), (1, 65535)]), (6, vec![(0, 65535)]), (7, vec![])];
        assert_eq!(mean_share(&weights, 0), 0.75);
        assert_eq!(mean_share(&weights, 1), 0.25);
        assert_eq!(mean_share(&[], 0), 0.0);
    }
}
