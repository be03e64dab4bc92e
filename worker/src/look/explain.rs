//! Why a hotkey has the weight that it has.

use std::fmt::Write;

use bistro_protocol::{
    check::Verdict,
    hotkey::Hotkey,
    record::{Entry, Scores},
};

use super::{Explain, hotkey, manifests, record, span, validators, weight_of};
use crate::{
    failure::Failure,
    follow::Follower,
    node::Node,
    roles::recompute::{self, Compared},
};

/// The whole answer.
pub(super) async fn explain(node: &Node, what: &Explain) -> Result<String, Failure> {
    let hotkey = hotkey(&what.hotkey)?;
    let mut out = String::new();
    standing(node, &hotkey, &mut out).await?;
    let (now, first) = span(node, what.windows);
    let manifests = manifests(node, first..=now).await?;
    let validators = validators(node).await?;
    for (window, manifest) in manifests.into_iter().rev() {
        let said = manifest.neurons.iter().find(|entry| entry.hotkey == hotkey);
        let line = match said {
            None => "was not registered when the window started",
            Some(entry) => meaning(entry.verdict),
        };
        let verdict = said.map_or("-", |entry| entry.verdict.as_str());
        let _ = writeln!(out, "window {window}: {verdict}: {line}");
        for (uid, validator) in &validators {
            let Some(scores) = record(node, validator, window).await? else { continue };
            let _ = writeln!(out, "  validator {uid}: {}", judged(&scores, &hotkey));
        }
    }
    if let Some(window) = what.recompute {
        if window > now {
            return Err(Failure::Permanent(format!(
                "--recompute: there is no window {window} yet, {now} is under way"
            )));
        }
        for (uid, validator) in &validators {
            if let Some(scores) = record(node, validator, window).await? {
                let _ = writeln!(
                    out,
                    "window {window}, validator {uid}, computed again: {}",
                    again(node, &hotkey, validator, window, &scores).await?
                );
            }
        }
    }
    Ok(out)
}

/// What the chain says now.
async fn standing(node: &Node, hotkey: &Hotkey, out: &mut String) -> Result<(), Failure> {
    let (netuid, at) = (node.settings.netuid, node.head().hash);
    let Some(uid) = node.chain.uid(netuid, hotkey.0, at).await? else {
        let _ = writeln!(out, "{hotkey} is not registered on subnet {netuid}: it cannot be paid");
        return Ok(());
    };
    let incentive = node.chain.incentive(netuid, at).await?.get(usize::from(uid)).copied().unwrap_or(0);
    let share = f64::from(incentive) / f64::from(u16::MAX);
    let registered = node.chain.block_at_registration(netuid, uid, at).await?;
    let _ =
        writeln!(out, "{hotkey} is uid {uid} since block {registered} and has {:.1}% of the incentive", 100.0 * share);
    for (validator, row) in node.chain.weights(netuid, at).await? {
        let total: f64 = row.iter().map(|(_, weight)| f64::from(*weight)).sum::<f64>().max(1.0);
        let weight = row.iter().find(|(other, _)| *other == uid).map_or(0.0, |(_, weight)| f64::from(*weight));
        let _ = writeln!(out, "  validator {validator} gives it {:.1}% of its weights", 100.0 * weight / total);
    }
    Ok(())
}

/// What a verdict means for pay.
fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accepted => "its work counts",
        Verdict::NoCommit => "it published nothing: after scoring.absentWindows of these its average is 0",
        verdict if verdict.is_fraud() => "its average falls to 0 at once",
        _ => "its work counts as 0 if it is drawn",
    }
}

/// What a record says of a hotkey.
fn judged(scores: &Scores, hotkey: &Hotkey) -> String {
    let Some(entry) = scores.miners.iter().find(|entry| entry.hotkey == *hotkey) else {
        return "knows nothing of it: no commit lately, and no average".to_owned();
    };
    let weight = 100.0 * weight_of(scores, entry);
    let Entry { age, before, average, drawn, .. } = entry;
    let found = match (drawn, age) {
        (None, None) => "not drawn, since it has been absent".to_owned(),
        (None, Some(age)) => format!("not drawn (the last time was {age} windows ago)"),
        (Some(evaluation), _) => match (evaluation.raw, scores.scale) {
            (Some(raw), Some(scale)) => {
                format!("drawn: score {:.4}, {:.2} of the median {:.4}", raw.0, raw.0 / scale.0, scale.0)
            }
            (Some(raw), None) => format!("drawn: score {:.4}, and nobody has a positive one yet", raw.0),
            (None, _) => format!("drawn: {}", evaluation.verdict),
        },
    };
    format!(
        "{found}; average {:.3} -> {:.3}, to the power {} {weight:.1}% of its weights",
        before.0, average.0, scores.power.0
    )
}

/// One evaluation, measured here.
async fn again(
    node: &Node,
    hotkey: &Hotkey,
    validator: &Hotkey,
    window: u64,
    scores: &Scores,
) -> Result<String, Failure> {
    let drawn = scores.miners.iter().find(|m| m.hotkey == *hotkey && m.drawn.as_ref().is_some_and(|e| e.raw.is_some()));
    let Some(entry) = drawn else { return Ok("it was not drawn, or its work was not accepted".to_owned()) };
    let before = Follower::reach(node, window).await?;
    let said = entry.drawn.as_ref().and_then(|e| e.raw).map_or(0.0, |raw| raw.0);
    Ok(match recompute::by_onlooker(node, &before.base, validator, window, entry.uid, scores).await? {
        None => "the chain or the bucket has forgotten what it follows from".to_owned(),
        Some(Compared::Err(fault)) => format!("not possible: {fault}"),
        Some(Compared::Ok(difference)) => format!("its record says {said:.6}; the difference is {difference:.1e}"),
    })
}
