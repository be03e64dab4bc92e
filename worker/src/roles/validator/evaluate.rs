//! What the drawn miners' work is worth.

use std::collections::BTreeMap;

use bistro_api::run::InnerOptimizer;
use bistro_protocol::{
    check::Verdict,
    draw::draw,
    mechanism::cosine::{is_recomputed, raw_score},
    object::{Bits64, Hex32},
    record::{Entry, Evaluation, Scores},
    score::Outcome,
    seed,
    slice::Slice,
    tensors::Tensors,
};
use tokio_util::sync::CancellationToken;

use super::Validator;
use crate::{
    collect::{Collected, Work},
    engine::{self, Optimizer},
    facts::Facts,
    failure::Failure,
    node::Node,
};

/// The gradient at the base on the pages of one uid.
pub(super) struct Reference {
    pub pages: Vec<u64>,
    /// Loss of the base on them, in nats per token.
    pub loss: f64,
    /// Its slice.
    pub gradient: Tensors,
}

impl Validator {
    /// Draws, evaluates and books this window's miners; gives the record of it, its weights as of now.
    pub(super) async fn evaluate(
        &mut self,
        facts: &Facts,
        end: [u8; 32],
        collected: &Collected,
        base: &Tensors,
    ) -> Result<Scores, Failure> {
        let (window, rates) = (facts.window, self.rates());
        let scoring = self.node.settings.scoring.clone();
        let ages = self.memory.book.ages(window, rates);
        let seed = seed::draw(&end, &self.node.hotkey.0);
        let drawn = draw(&ages, scoring.evaluations_per_window as usize, &seed);
        let works: Vec<&Work> = collected.works.iter().filter(|w| drawn.contains(&w.uid)).collect();
        let evaluations = self.evaluations(facts, end, &works, base).await?;
        let outcomes: Vec<(u16, Outcome)> = evaluations.iter().map(|(uid, e)| (*uid, e.outcome())).collect();
        let before = self.memory.book.clone();
        let scale = self.memory.book.record(window, &outcomes, rates);
        let ages: BTreeMap<u16, u64> = ages.into_iter().collect();
        let entries = before.standings().zip(self.memory.book.standings()).map(|((uid, before), (_, after))| Entry {
            uid,
            hotkey: after.hotkey,
            age: ages.get(&uid).copied(),
            before: Bits64(before.average),
            average: Bits64(after.average),
            weight: 0,
            drawn: evaluations.get(&uid).cloned(),
        });
        let miners = entries.filter(|e| e.age.is_some() || e.average.0 > 0.0 || e.before.0 > 0.0).collect();
        let scores = Scores {
            end: Hex32(end),
            base: Hex32(base.digest()),
            evaluations: scoring.evaluations_per_window,
            moving_average: Bits64(rates.moving_average),
            power: Bits64(scoring.power.value()),
            scale: scale.map(Bits64),
            weights_block: None,
            miners,
        };
        Ok(scores.weighted())
    }

    async fn evaluations(
        &self,
        facts: &Facts,
        end: [u8; 32],
        works: &[&Work],
        base: &Tensors,
    ) -> Result<BTreeMap<u16, Evaluation>, Failure> {
        let node = &*self.node;
        let slice = node.slice(facts.window, base).await?;
        let accepted: Vec<u16> = works.iter().filter(|w| w.outcome.is_ok()).map(|w| w.uid).collect();
        let references = references(node, facts, &accepted, &slice, base).await?;
        let audited = self.audit(facts, end, works, &slice, base).await?;
        let evaluation = |work: &&Work| {
            let reference = references.get(&work.uid);
            let verdict = match &work.outcome {
                Ok(_) if audited == Some((work.uid, false)) => Verdict::Recompute,
                _ => work.verdict(),
            };
            let raw = match &work.outcome {
                Ok(delta) if verdict == Verdict::Accepted => raw_of(delta, work.uid, &references).map(Bits64),
                _ => None,
            };
            let evaluation = Evaluation {
                verdict,
                pages: reference.map(|r| r.pages.clone()).unwrap_or_default(),
                loss: reference.map(|r| Bits64(r.loss)),
                raw,
            };
            (work.uid, evaluation)
        };
        Ok(works.iter().map(evaluation).collect())
    }

    /// Where work can be recomputed (`innerOptimizer: fresh`): trains as one drawn miner should have and compares.
    /// Gives its uid and whether it did.
    async fn audit(
        &self,
        facts: &Facts,
        end: [u8; 32],
        works: &[&Work],
        slice: &Slice,
        base: &Tensors,
    ) -> Result<Option<(u16, bool)>, Failure> {
        let node = &*self.node;
        let run = &node.settings.run;
        if run.training.inner_optimizer != InnerOptimizer::Fresh {
            return Ok(None);
        }
        let accepted: Vec<_> = works.iter().filter(|w| w.outcome.is_ok()).map(|w| (w.uid, 1)).collect();
        let Some(uid) = draw(&accepted, 1, &seed::audit(&end, &node.hotkey.0)).first().copied() else {
            return Ok(None);
        };
        let sequences = node.sequences(&own_pages(node, facts, uid)).await?;
        let (start, training, windows) = (base.clone(), run.training.clone(), facts.window - run.start_window);
        // Cancelled when the process is asked to stop: an audit takes as long as a miner's whole training.
        let cancel: CancellationToken = node.stop.child_token();
        let recomputed = node.compute(move |engine| {
            let work = engine::Work { base: &start, sequences: &sequences, training: &training, windows };
            match engine.train(&work, &mut Optimizer::fresh(), &cancel, |_| ()) {
                Ok(trained) => Ok(Some(trained.parameters)),
                Err(engine::Error::Cancelled) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let local = recomputed.await?.ok_or(Failure::Stopped)?;
        let expected = slice.gather(&local.minus(base));
        let same = works
            .iter()
            .find(|w| w.uid == uid)
            .is_some_and(|w| w.outcome.as_ref().is_ok_and(|delta| is_recomputed(delta, &expected)));
        if !same {
            tracing::warn!(window = facts.window, uid, "an audit found work that was not done as the run says");
        }
        Ok(Some((uid, same)))
    }
}

/// The pages that a uid trains on in this window.
pub(super) fn own_pages(node: &Node, facts: &Facts, uid: u16) -> Vec<u64> {
    let run = &node.settings.run;
    let order = seed::pages(node.settings.netuid, run.id, facts.window, &facts.start.0);
    node.pages.own(&order, uid, run.dataset.pages_per_window)
}

/// The gradients that scores are made of: one for each of these uids. One alone is compared with the pages of a uid
/// that nobody has.
pub(super) async fn references(
    node: &Node,
    facts: &Facts,
    uids: &[u16],
    slice: &Slice,
    base: &Tensors,
) -> Result<BTreeMap<u16, Reference>, Failure> {
    let stand_in = (uids.len() == 1).then_some(u16::MAX);
    let mut references = BTreeMap::new();
    for uid in uids.iter().copied().chain(stand_in) {
        let pages = own_pages(node, facts, uid);
        let (sequences, base) = (node.sequences(&pages).await?, base.clone());
        let (loss, gradient) = node.compute(move |engine| engine.gradient(&base, &sequences)).await?;
        references.insert(uid, Reference { pages, loss, gradient: slice.gather(&gradient) });
    }
    Ok(references)
}

/// Raw score of `uid`'s work; `None` where its own gradient is not among the references.
pub(super) fn raw_of(delta: &Tensors, uid: u16, references: &BTreeMap<u16, Reference>) -> Option<f64> {
    let own = references.get(&uid)?;
    let foreign: Vec<_> = references.iter().filter(|(u, _)| **u != uid).map(|(_, r)| &r.gradient).collect();
    Some(raw_score(delta, &own.gradient, &foreign))
}
