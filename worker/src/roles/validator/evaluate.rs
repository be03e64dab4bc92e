//! What the drawn miners' work is worth.

use std::{collections::BTreeMap, sync::Arc};

use bistro_api::run::InnerOptimizer;
use bistro_protocol::{
    base::Base,
    check::Verdict,
    draw::{draw, draw_with_leaders},
    mechanism::{self, audit::is_recomputed, loss_wins::Contender},
    object::{Bits64, Hex32},
    record::{Entry, Evaluation, Former, Scores},
    score::Outcome,
    seed,
    slice::Slice,
    tensor_file,
    tensors::Tensors,
};
use tokio_util::sync::CancellationToken;

use super::{Validator, former::contenders};
use crate::{
    collect::{Collected, Work},
    engine::{self, Optimizer},
    facts::Facts,
    failure::Failure,
    mechanism::{Accepted, Candidate, LookedAt, Scene, Scored, score},
    node::Node,
};

impl Validator {
    /// Draws, evaluates and books this window's miners; gives the record of it, its weights as of now.
    pub(super) async fn evaluate(
        &mut self,
        facts: &Facts,
        end: [u8; 32],
        collected: &Collected,
        base: &Base,
    ) -> Result<Scores, Failure> {
        let (window, rates) = (facts.window, self.rates());
        let scoring = self.node.settings.scoring.clone();
        let ages = self.memory.book.ages(window, rates);
        let seed = seed::draw(&end, &self.node.hotkey.0);
        let count = scoring.evaluations_per_window as usize;
        let leaders = !self.node.mechanism().has_common_base();
        let drawn = if leaders {
            draw_with_leaders(&ages, |uid| self.memory.book.average(uid), count, &seed)
        } else {
            draw(&ages, count, &seed)
        };
        let works: Vec<&Work> = collected.works.iter().filter(|w| drawn.contains(&w.uid)).collect();
        let accepted: Vec<&Tensors> = collected.works.iter().filter_map(|w| w.outcome.as_ref().ok()).collect();
        let accepted = Accepted::of(self.node.mechanism(), &accepted);
        keep_accepted(&self.node, window, &accepted)?;
        let evaluated = Evaluated { facts, end, base, slice: &collected.slice, accepted };
        let former = self.former(facts, end).await?;
        let rivals = Rivals::of(&self.node, window, &works, &former);
        let evaluations = self.evaluations(evaluated, &works, rivals).await?;
        if leaders {
            self.show_best(&evaluations, &works).await?;
        }
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
        let miners = entries.filter(|e| e.age.is_some() || e.average.0 != 0.0 || e.before.0 != 0.0).collect();
        let scores = Scores {
            end: Hex32(end),
            base: Hex32(base.digest()),
            evaluations: scoring.evaluations_per_window,
            leaders,
            moving_average: Bits64(rates.moving_average),
            power: Bits64(scoring.power.value()),
            scale: scale.map(Bits64),
            weights_block: None,
            miners,
            former,
        };
        Ok(scores.weighted())
    }

    /// Shows the loss of the model that won most, on the held-out pages.
    async fn show_best(&self, evaluations: &BTreeMap<u16, Evaluation>, works: &[&Work]) -> Result<(), Failure> {
        let won = |work: &&&Work| evaluations.get(&work.uid).and_then(|e| e.raw).map_or(0.0, |raw| raw.0);
        let best = works.iter().filter(|work| won(work) > 0.0).max_by(|a, b| won(a).total_cmp(&won(b)));
        if let Some(Ok(model)) = best.map(|work| &work.outcome) {
            self.follower.show_loss(&self.node, self.node.displayed_loss(model.clone()).await?);
        }
        Ok(())
    }

    async fn evaluations(
        &mut self,
        evaluated: Evaluated<'_>,
        works: &[&Work],
        rivals: Rivals,
    ) -> Result<BTreeMap<u16, Evaluation>, Failure> {
        let node = Arc::clone(&self.node);
        let Evaluated { facts, end, base, slice, .. } = evaluated;
        let sound = works.iter().filter_map(|w| Some((w.uid, w.outcome.as_ref().ok()?.clone())));
        let sound: BTreeMap<u16, Tensors> = sound.collect();
        let uids: Vec<u16> = sound.keys().copied().collect();
        let scored = scores(&node, evaluated, &uids, sound, rivals, None).await?;
        let audited = self.audit(facts, end, works, slice, base).await?;
        let mut evaluations = BTreeMap::new();
        for work in works {
            let scored = scored.iter().find(|s| s.uid == work.uid);
            let verdict = match &work.outcome {
                Ok(_) if audited == Some((work.uid, false)) => Verdict::Recompute,
                _ => work.verdict(),
            };
            let gate = scored.and_then(|s| s.pages).map(|(own, other)| self.memory.book.gate(work.uid, own, other));
            let raw = scored.filter(|_| verdict == Verdict::Accepted).map(|s| s.raw * gate.unwrap_or(1.0));
            let evaluation = Evaluation {
                pages: scored.map(|_| judged_pages(&node, facts, work.uid)).unwrap_or_default(),
                loss: scored.and_then(|s| s.loss).map(Bits64),
                gate: gate.map(Bits64),
                raw: raw.map(Bits64),
                losses: scored.iter().flat_map(|s| &s.losses).copied().map(Bits64).collect(),
                since: work.since,
                ..Evaluation::of(verdict)
            };
            evaluations.insert(work.uid, evaluation);
        }
        Ok(evaluations)
    }

    /// Where work can be recomputed (`innerOptimizer: fresh`): trains as one drawn miner should have and compares.
    /// Gives its uid and whether it did.
    async fn audit(
        &self,
        facts: &Facts,
        end: [u8; 32],
        works: &[&Work],
        slice: &Slice,
        base: &Base,
    ) -> Result<Option<(u16, bool)>, Failure> {
        let node = &*self.node;
        let (run, mechanism) = (&node.settings.run, node.mechanism());
        let comparable = mechanism.trains() && mechanism.has_common_base();
        if run.training.inner_optimizer != InnerOptimizer::Fresh || !comparable {
            return Ok(None);
        }
        let accepted: Vec<_> = works.iter().filter(|w| w.outcome.is_ok()).map(|w| (w.uid, 1)).collect();
        let Some(uid) = draw(&accepted, 1, &seed::audit(&end, &node.hotkey.0)).first().copied() else {
            return Ok(None);
        };
        let sequences = node.sequences(&own_pages(node, facts, uid)).await?;
        let (start, training, windows) =
            (base.parameters.clone(), run.training.clone(), facts.window - run.start_window);
        // Cancelled when the process is asked to stop: an audit takes as long as a miner's whole training.
        let cancel: CancellationToken = node.stop.child_token();
        let recomputed = node.compute(move |engine| {
            let work = engine::Work { base: &start, sequences: &sequences, training: &training, windows };
            Ok(engine.train(&work, &mut Optimizer::fresh(), &cancel, |_| ())?.parameters)
        });
        let local = recomputed.await?;
        let published = mechanism.published(&local, slice, base);
        let sent = mechanism.sent(published.clone(), node.environment.threads);
        let expected = mechanism.effect(published, slice, base);
        let work = works.iter().find(|w| w.uid == uid).and_then(|w| w.outcome.as_ref().ok());
        let same = work
            .zip(sent.ok())
            .is_some_and(|(work, sent)| is_recomputed(work, &expected, &mechanism.effect(sent, slice, base)));
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

/// Those of them that its work is compared on: none where whole models are compared on pages that are nobody's.
pub(super) fn judged_pages(node: &Node, facts: &Facts, uid: u16) -> Vec<u64> {
    if node.mechanism().has_common_base() { own_pages(node, facts, uid) } else { Vec::new() }
}

/// Blocks since the commitments to models that were made in these blocks, at the end of `window`.
pub(super) fn ages(node: &Node, window: u64, since: impl Iterator<Item = (u16, u64)>) -> BTreeMap<u16, u64> {
    let end = node.clock.end(window);
    since.map(|(uid, block)| (uid, end.saturating_sub(block))).collect()
}

/// Keeps what scores depend on beside the scored work itself, for the comparison with other validators' records.
fn keep_accepted(node: &Node, window: u64, accepted: &Accepted) -> Result<(), Failure> {
    let fields = [("limit", accepted.limit.to_bits().to_string()), ("works", accepted.count.to_string())];
    let mean = accepted.mean.clone().unwrap_or_default();
    node.state.write_of("accepted", window, &tensor_file::write(&fields, &mean))
}

/// What was kept; `None` where it is gone or damaged.
pub(super) fn kept_accepted(node: &Node, window: u64) -> Result<Option<Accepted>, Failure> {
    let Some(bytes) = node.state.read_of("accepted", window)? else { return Ok(None) };
    Ok(parse_accepted(&bytes))
}

fn parse_accepted(bytes: &[u8]) -> Option<Accepted> {
    let (fields, mean) = tensor_file::read(bytes).ok()?;
    let field = |name: &str| fields.iter().find(|(found, _)| found == name)?.1.parse::<u64>().ok();
    let (count, limit) = (usize::try_from(field("works")?).ok()?, f64::from_bits(field("limit")?));
    Some(Accepted { count, limit, mean: (!mean.is_empty()).then_some(mean) })
}

/// For whole models: what each is compared with besides the others.
#[derive(Default)]
pub(super) struct Rivals {
    /// Blocks since the commitment to each, by uid.
    pub ages: BTreeMap<u16, u64>,
    /// Models that their owners have replaced.
    pub former: Vec<Contender>,
}

impl Rivals {
    fn of(node: &Node, window: u64, works: &[&Work], former: &[Former]) -> Self {
        let ages = ages(node, window, works.iter().filter_map(|w| Some((w.uid, w.since?))));
        Self { ages, former: contenders(node, window, former) }
    }
}

/// What is evaluated.
pub(super) struct Evaluated<'a> {
    pub facts: &'a Facts,
    /// Hash of the block that ended the window.
    pub end: [u8; 32],
    pub base: &'a Base,
    pub slice: &'a Slice,
    pub accepted: Accepted,
}

/// Scores the `works` of the miners `uids`, or of `only` one; the others' pages are compared with. One miner alone is
/// compared with the pages of a uid that nobody has.
pub(super) async fn scores(
    node: &Node,
    evaluated: Evaluated<'_>,
    uids: &[u16],
    works: BTreeMap<u16, Tensors>,
    Rivals { ages, former }: Rivals,
    only: Option<u16>,
) -> Result<Vec<Scored>, Failure> {
    let Evaluated { facts, end, base, slice, accepted } = evaluated;
    let run = node.settings.run.clone();
    let seed = seed::test_pages(node.settings.netuid, run.id, facts.window, &end);
    let looked_at = LookedAt::of(node.mechanism(), &node.pages, &seed, uids, |uid| own_pages(node, facts, uid));
    let mut candidates = Vec::new();
    for (uid, pages) in &looked_at.own {
        candidates.push(Candidate { uid: *uid, own: node.sequences(pages).await? });
    }
    let test = node.sequences(&looked_at.test).await?;
    let (base, slice, cancel) = (base.clone(), slice.clone(), node.stop.child_token());
    let scored = node.compute(move |engine| {
        let works = works.iter().map(|(uid, work)| (*uid, work)).collect();
        let scene = Scene {
            mechanism: mechanism::of(&run),
            training: &run.training,
            base: &base,
            slice: &slice,
            works: &works,
            accepted: &accepted,
            test: &test,
            ages,
            former,
            page_sequences: run.dataset.page_sequences as usize,
        };
        score(engine, &scene, &candidates, only, &cancel)
    });
    scored.await
}
