//! Looking over another validator's shoulder: one record per window, recomputed.
//!
//! A validator that copies, invents or miscomputes scores is not stopped by this, its weights are its own; but everybody
//! can see the difference, and whoever stakes on it can draw conclusions.

use bistro_api::status::CrossCheck;
use bistro_protocol::{
    check::Verdict,
    draw::draw,
    hotkey::Hotkey,
    mechanism::Mechanism,
    object::{self, Hex32, Kind},
    record::{Entry, Evaluation, MAX_RECORD, Scores},
    seed,
};

use super::{
    COMPARED, Validator,
    evaluate::{Evaluated, kept_accepted, own_pages},
};
use crate::{
    collect::{rules, work_of},
    facts::Facts,
    failure::Failure,
};

/// What a comparison came to: the difference of the raw scores, or what is wrong with the record.
type Compared = Result<f64, String>;

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

    /// Recomputes what the record says of itself, and the score of one of its miners; `None` where this node does not
    /// have what it needs for that.
    async fn recompute(
        &self,
        validator: &Hotkey,
        window: u64,
        picks: [u8; 32],
        scores: &Scores,
    ) -> Result<Option<Compared>, Failure> {
        let node = &*self.node;
        let end = node.block_hash(node.clock.end(window)).await?;
        if scores.end != Hex32(end) {
            return Ok(Some(Err("its window ended with another block".to_owned())));
        }
        if let Err(fault) = scores.check(validator) {
            return Ok(Some(Err(fault.to_string())));
        }
        let (Some(before), Some(facts)) = (node.state.base(window)?, node.facts(window).await?) else {
            return Ok(None);
        };
        if scores.base.0 != before.base.digest() {
            return Ok(Some(Err("it scored another base".to_owned())));
        }
        let drawn = || scores.miners.iter().filter_map(|m| Some((m, m.drawn.as_ref()?)));
        let scored: Vec<(&Entry, &Evaluation)> = drawn().filter(|(_, e)| e.raw.is_some()).collect();
        let chances: Vec<(u16, u64)> = scored.iter().map(|(m, _)| (m.uid, 1)).collect();
        let Some(uid) = draw(&chances, 1, &picks).first().copied() else { return Ok(None) };
        let Some((entry, evaluation)) = scored.into_iter().find(|(m, _)| m.uid == uid) else { return Ok(None) };
        // Others' pages are computed with too: none that this window did not have.
        for (entry, evaluation) in drawn().filter(|(_, e)| !e.pages.is_empty() || e.raw.is_some()) {
            if let Some(fault) = self.foreign_facts(&facts, entry, evaluation) {
                return Ok(Some(Err(fault)));
            }
        }
        let base = &before.base;
        let shape = node.work_shape(&base.parameters);
        let (Some(rules), Some(accepted)) =
            (rules(node, window, scores.base.0, &shape).await?, kept_accepted(node, window)?)
        else {
            return Ok(None);
        };
        let slice = node.slice(window, &base.parameters).await?;
        let work = work_of(node, &rules, (&slice, base), uid, entry.hotkey).await?;
        let work = match work.outcome {
            Ok(work) => work,
            Err(verdict) => return Ok(Some(Err(format!("it scored the work of uid {uid}, which is {verdict} here")))),
        };
        // It is compared with all miners whose accepted work was drawn: those that have pages.
        let uids: Vec<u16> = drawn().filter(|(_, e)| !e.pages.is_empty()).map(|(m, _)| m.uid).collect();
        let evaluated = Evaluated { facts: &facts, end, base, slice: &slice, accepted };
        let found = super::evaluate::scores(node, evaluated, &uids, [(uid, work)].into(), Some(uid)).await?;
        // Its gate is a matter of many windows; here only what this one gave is compared.
        let raw = found.first().map_or(0.0, |f| f.raw) * evaluation.gate.map_or(1.0, |gate| gate.0);
        Ok(Some(Ok((raw - evaluation.raw.map_or(0.0, |r| r.0)).abs())))
    }

    fn is_gated(&self) -> bool {
        matches!(self.node.mechanism(), Mechanism::LossReduction(_))
    }

    fn foreign_facts(&self, facts: &Facts, entry: &Entry, evaluation: &Evaluation) -> Option<String> {
        let uid = entry.uid;
        match () {
            () if facts.hotkey_of(uid) != Some(entry.hotkey) => Some(format!("uid {uid} belongs to another hotkey")),
            () if evaluation.gate.is_some() != self.is_gated() => Some(format!("uid {uid} has a gate, or lacks one")),
            () if evaluation.pages != own_pages(&self.node, facts, uid) => Some(format!("uid {uid} had other pages")),
            () => None,
        }
    }
}
