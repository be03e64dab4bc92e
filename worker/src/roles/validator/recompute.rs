//! One evaluation of somebody's record, measured again.

use bistro_api::mechanism::LossWins;
use bistro_protocol::{
    base::Base,
    hotkey::Hotkey,
    mechanism::{
        Mechanism,
        loss_wins::{self, Contender},
    },
    object::Hex32,
    record::{Entry, Evaluation, Former, Scores},
    tensors::Tensors,
};

use super::{
    evaluate::{Evaluated, Rivals, ages, judged_pages, scores as measure},
    former,
};
use crate::{
    collect::{collect, models, rules, work_of},
    facts::Facts,
    failure::Failure,
    mechanism::Accepted,
    node::Node,
};

/// What a comparison came to: the difference of the raw scores, or what is wrong with the record.
pub(crate) type Compared = Result<f64, String>;

/// As somebody who has collected nothing yet; `None` where chain or bucket have forgotten what it takes.
pub(crate) async fn by_onlooker(
    node: &Node,
    base: &Base,
    validator: &Hotkey,
    window: u64,
    uid: u16,
    scores: &Scores,
) -> Result<Option<Compared>, Failure> {
    if let Some(fault) = fault(node, validator, window, scores).await? {
        return Ok(Some(Err(fault)));
    }
    if !node.mechanism().has_common_base() {
        return score_of(node, base, Accepted::default(), window, uid, scores).await;
    }
    let Some(facts) = node.facts(window).await? else { return Ok(None) };
    let Some(collected) = collect(node, &facts, base, base.digest()).await? else { return Ok(None) };
    let accepted: Vec<&Tensors> = collected.works.iter().filter_map(|w| w.outcome.as_ref().ok()).collect();
    let accepted = Accepted::of(node.mechanism(), &accepted);
    score_of(node, base, accepted, window, uid, scores).await
}

/// What is wrong with what a record says of itself.
pub(super) async fn fault(
    node: &Node,
    validator: &Hotkey,
    window: u64,
    scores: &Scores,
) -> Result<Option<String>, Failure> {
    let end = node.block_hash(node.clock.end(window)).await?;
    if scores.end != Hex32(end) {
        return Ok(Some("its window ended with another block".to_owned()));
    }
    if let Err(fault) = scores.check(validator) {
        return Ok(Some(fault.to_string()));
    }
    Ok(foreign_models(node, window, scores))
}

/// What is wrong with the models that a record compares: seats, pages, and former models that nobody can have had.
fn foreign_models(node: &Node, window: u64, scores: &Scores) -> Option<String> {
    let pages = match node.mechanism() {
        Mechanism::LossWins(settings) => node.pages.training().min(settings.test_pages.into()) as usize,
        _ => 0,
    };
    let closed = node.clock.commits_close(window);
    let whole = |e: &Evaluation| e.raw.is_none() || e.losses.len() == pages;
    let sound = |f: &Former| f.losses.len() == pages && f.since < f.until && f.until <= closed;
    match () {
        () if scores.leaders == node.mechanism().has_common_base() => Some("its draw has other seats".to_owned()),
        () if !scores.miners.iter().filter_map(|m| m.drawn.as_ref()).all(whole) => {
            Some("it has losses on other pages than the window's".to_owned())
        }
        () if !scores.former.iter().all(sound) => Some("it has a former model that nobody can have had".to_owned()),
        () => None,
    }
}

/// Measures one miner of a record that follows from itself, over this base and with this accepted work.
pub(super) async fn score_of(
    node: &Node,
    base: &Base,
    accepted: Accepted,
    window: u64,
    uid: u16,
    scores: &Scores,
) -> Result<Option<Compared>, Failure> {
    if scores.base.0 != base.digest() {
        return Ok(Some(Err("it scored another base".to_owned())));
    }
    let Some(facts) = node.facts(window).await? else { return Ok(None) };
    let drawn = || scores.miners.iter().filter_map(|m| Some((m, m.drawn.as_ref()?)));
    let Some((entry, evaluation)) = drawn().find(|(m, e)| m.uid == uid && e.raw.is_some()) else { return Ok(None) };
    // Others' pages are computed with too: none that this window did not have.
    for (entry, evaluation) in drawn().filter(|(_, e)| !e.pages.is_empty() || e.raw.is_some()) {
        if let Some(fault) = foreign_facts(node, &facts, entry, evaluation) {
            return Ok(Some(Err(fault)));
        }
    }
    let shape = node.work_shape(&base.parameters);
    let Some(models) = models(node, window).await? else { return Ok(None) };
    let Some(rules) = rules(node, window, scores.base.0, &shape, models.as_ref()).await? else { return Ok(None) };
    let slice = node.slice(window, &base.parameters).await?;
    let work = work_of(node, &rules, (&slice, base), uid, entry.hotkey).await?;
    if work.since != evaluation.since {
        return Ok(Some(Err(format!("uid {uid} was committed to its model in another block"))));
    }
    let work = match work.outcome {
        Ok(work) => work,
        Err(verdict) => return Ok(Some(Err(format!("it scored the work of uid {uid}, which is {verdict} here")))),
    };
    let works = [(uid, work)].into();
    let evaluated = Evaluated { facts: &facts, end: scores.end.0, base, slice: &slice, accepted };
    let raw = if let Mechanism::LossWins(settings) = node.mechanism() {
        let found = measure(node, evaluated, &[uid], works, Rivals::default(), None).await?;
        let losses = found.into_iter().next().map(|found| found.losses).unwrap_or_default();
        wins(node, settings, window, scores, (uid, losses))
    } else {
        // It is compared with all miners whose accepted work was drawn: those that have pages.
        let uids: Vec<u16> = drawn().filter(|(_, e)| !e.pages.is_empty()).map(|(m, _)| m.uid).collect();
        let found = measure(node, evaluated, &uids, works, Rivals::default(), Some(uid)).await?;
        // Its gate is a matter of many windows; here only what this one gave is compared.
        found.first().map_or(0.0, |f| f.raw) * evaluation.gate.map_or(1.0, |gate| gate.0)
    };
    Ok(Some(Ok((raw - evaluation.raw.map_or(0.0, |r| r.0)).abs())))
}

/// What a miner's model wins against the others of a record, by the losses that were measured here.
fn wins(node: &Node, settings: &LossWins, window: u64, scores: &Scores, (uid, ours): (u16, Vec<f64>)) -> f64 {
    let drawn = || scores.miners.iter().filter_map(|m| Some((m.uid, m.drawn.as_ref()?)));
    let ages = ages(node, window, drawn().filter_map(|(uid, e)| Some((uid, e.since?))));
    let former = former::contenders(node, window, &scores.former);
    let contender = |(other, evaluation): (u16, &Evaluation)| {
        let theirs = || evaluation.losses.iter().map(|loss| loss.0).collect();
        let losses = if other == uid { ours.clone() } else { theirs() };
        Some(Contender { uid: other, age: *ages.get(&other)?, replaced: None, losses })
    };
    let drawn = drawn().filter(|(_, e)| !e.losses.is_empty()).filter_map(contender);
    // Its own former models stand behind it.
    let contenders: Vec<Contender> = drawn.chain(former).collect();
    let raws = loss_wins::raw_scores(&contenders, settings);
    contenders.iter().zip(raws).find(|(c, _)| c.uid == uid).map_or(0.0, |(_, raw)| raw)
}

fn foreign_facts(node: &Node, facts: &Facts, entry: &Entry, evaluation: &Evaluation) -> Option<String> {
    let uid = entry.uid;
    let gated = matches!(node.mechanism(), Mechanism::LossReduction(_));
    match () {
        () if facts.hotkey_of(uid) != Some(entry.hotkey) => Some(format!("uid {uid} belongs to another hotkey")),
        () if evaluation.gate.is_some() != gated => Some(format!("uid {uid} has a gate, or lacks one")),
        () if evaluation.pages != judged_pages(node, facts, uid) => Some(format!("uid {uid} had other pages")),
        () => None,
    }
}
