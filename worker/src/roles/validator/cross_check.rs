//! Looking over another validator's shoulder: one record per window, recomputed.
//!
//! A validator that copies, invents or miscomputes scores is not stopped by this, its weights are its own; but everybody
//! can see the difference, and whoever stakes on it can draw conclusions.

use bistro_api::status::CrossCheck;
use bistro_protocol::{
    check::Verdict,
    draw::draw,
    hotkey::Hotkey,
    object::{self, Kind},
    record::{MAX_RECORD, Scores},
    seed,
};

use super::{
    COMPARED, Validator,
    evaluate::kept_accepted,
    recompute::{self, Compared},
};
use crate::failure::Failure;

impl Validator {
    /// Recomputes one record that another validator published lately, if there is time before the next merge.
    pub(super) async fn cross_check(&mut self, window: u64, end: [u8; 32]) -> Result<(), Failure> {
        let node = &*self.node;
        if node.head().number >= node.clock.uploads_close(window + 1) {
            return Ok(());
        }
        let Some((hotkey, checked, scores)) = self.unchecked_record(window, end).await? else { return Ok(()) };
        let compared = match scores {
            Ok(scores) => self.recompute(&hotkey, checked, end, &scores).await?,
            Err(verdict) => Some(Err(format!("it is {verdict}"))),
        };
        self.compared.insert(hotkey, checked);
        let Some(compared) = compared else { return Ok(()) };
        let node = &*self.node;
        node.telemetry.metrics.cross_checked(&hotkey.ss58(), compared.as_ref().ok().copied());
        match &compared {
            Ok(difference) => tracing::info!(window = checked, validator = %hotkey, difference, "recomputed a record"),
            Err(fault) => {
                tracing::warn!(window = checked, validator = %hotkey, "a record cannot be recomputed: {fault}")
            }
        }
        let check = CrossCheck {
            validator: hotkey.ss58(),
            window: checked,
            difference: compared.as_ref().ok().copied(),
            fault: compared.err(),
        };
        node.telemetry.status.update(|status| {
            status.cross_checks.retain(|c| c.validator != check.validator);
            status.cross_checks.push(check);
        });
        Ok(())
    }

    /// A record of another validator that was not looked at yet; the end of the window picks whose.
    #[allow(clippy::type_complexity)]
    async fn unchecked_record(
        &self,
        window: u64,
        end: [u8; 32],
    ) -> Result<Option<(Hotkey, u64, Result<Scores, Verdict>)>, Failure> {
        let node = &*self.node;
        let Some(facts) = node.facts(window).await? else { return Ok(None) };
        let permits = node.chain.validator_permit(node.settings.netuid, node.head().hash).await?;
        let others: Vec<(u16, Hotkey)> = facts
            .neurons
            .iter()
            .filter(|(uid, hotkey)| *hotkey != node.hotkey && permits.get(usize::from(*uid)) == Some(&true))
            .copied()
            .collect();
        let first = draw(
            &others.iter().map(|(uid, _)| (*uid, 1)).collect::<Vec<_>>(),
            1,
            &seed::cross_check(&end, &node.hotkey.0),
        );
        let start = others.iter().position(|(uid, _)| first.contains(uid)).unwrap_or(0);
        for (_, hotkey) in others[start..].iter().chain(&others[..start]) {
            let done = self.compared.get(hotkey).copied();
            for window in (window.saturating_sub(COMPARED - 1)..=window).rev() {
                if done.is_some_and(|done| window <= done) || window < node.settings.run.start_window {
                    break;
                }
                let found = node.bucket.get(&node.key(hotkey, window, Kind::Scores), MAX_RECORD).await;
                let bytes = match found {
                    Ok(Some(found)) => found.bytes,
                    Ok(None) => continue,
                    Err(crate::bucket::Error::TooLarge { .. }) => {
                        return Ok(Some((*hotkey, window, Err(Verdict::Oversize))));
                    }
                    Err(error) => return Err(error.into()),
                };
                let opened = object::open::<Scores>(&node.agreement, hotkey, window, Kind::Scores, &bytes);
                return Ok(Some((*hotkey, window, opened.map(|opened| opened.body))));
            }
        }
        Ok(None)
    }

    /// Recomputes what the record says of itself, and the score of one of its miners, whom `picks` draws; `None` where this
    /// node does not have what it needs for that.
    async fn recompute(
        &self,
        validator: &Hotkey,
        window: u64,
        picks: [u8; 32],
        scores: &Scores,
    ) -> Result<Option<Compared>, Failure> {
        let node = &*self.node;
        if let Some(fault) = recompute::fault(node, validator, window, scores).await? {
            return Ok(Some(Err(fault)));
        }
        let (Some(before), Some(accepted)) = (node.state.base(window)?, kept_accepted(node, window)?) else {
            return Ok(None);
        };
        let scored = scores.miners.iter().filter(|m| m.drawn.as_ref().is_some_and(|e| e.raw.is_some()));
        let chances: Vec<(u16, u64)> = scored.map(|m| (m.uid, 1)).collect();
        let Some(uid) = draw(&chances, 1, &picks).first().copied() else { return Ok(None) };
        recompute::score_of(node, &before.base, accepted, window, uid, scores).await
    }
}
