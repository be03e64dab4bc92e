//! Models that their owners have replaced. Whoever copied one before that holds an older commitment than its owner now does;
//! compared with what it copied, the copy wins nothing.

use std::{collections::BTreeMap, sync::Arc};

use bistro_protocol::{
    hotkey::Hotkey,
    mechanism::loss_wins::{Commitment, Contender},
    object::Bits64,
    record::Former,
    seed,
};
use serde::{Deserialize, Serialize};

use super::Validator;
use crate::{
    facts::{Facts, Models},
    failure::Failure,
    mechanism::{LookedAt, page_losses},
    models,
    node::Node,
};

/// Former models of one hotkey that are looked at, and of all: each costs as much as a miner's.
const MOST: (usize, usize) = (3, 32);

/// What a validator remembers of models. One that joins late learns it from then on.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Formers {
    /// What each hotkey was committed to when it was last looked at, and since which block.
    current: BTreeMap<Hotkey, (Vec<u8>, u64)>,
    /// What was replaced, the oldest first.
    replaced: Vec<Replaced>,
}

/// A commitment that was replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Replaced {
    hotkey: Hotkey,
    commitment: Vec<u8>,
    since: u64,
    until: u64,
}

impl Formers {
    /// Takes a look at what everybody is committed to as of block `at`. What was replaced is kept only as long as somebody else
    /// holds a commitment from the time in which it stood: nobody else can gain by it. Where there is more than is
    /// looked at, that of those with the lowest averages goes first.
    pub(super) fn observe(&mut self, models: &Models, at: u64, average: impl Fn(&Hotkey) -> f64) {
        let gone = self.current.iter().filter(|(hotkey, _)| !models.contains_key(hotkey));
        self.replaced.extend(gone.map(|(hotkey, (commitment, since))| Replaced {
            hotkey: *hotkey,
            commitment: commitment.clone(),
            since: *since,
            until: at,
        }));
        for (hotkey, (commitment, since)) in models {
            let now = (commitment.to_bytes(), *since);
            match self.current.insert(*hotkey, now.clone()) {
                Some((commitment, since)) if since < now.1 => {
                    self.replaced.push(Replaced { hotkey: *hotkey, commitment, since, until: now.1 });
                }
                _ => {}
            }
        }
        self.current.retain(|hotkey, _| models.contains_key(hotkey));
        let copied = |r: &Replaced| {
            let others = models.iter().filter(|(hotkey, _)| **hotkey != r.hotkey);
            others.map(|(_, (_, since))| *since).any(|since| (r.since..r.until).contains(&since))
        };
        self.replaced.retain(copied);
        let all = std::mem::take(&mut self.replaced);
        for (at, replaced) in all.iter().enumerate() {
            let newer = all[at + 1..].iter().filter(|other| other.hotkey == replaced.hotkey).count();
            if newer < MOST.0 {
                self.replaced.push(replaced.clone());
            }
        }
        self.replaced.sort_by(|a, b| average(&b.hotkey).total_cmp(&average(&a.hotkey)).then(a.since.cmp(&b.since)));
        self.replaced.truncate(MOST.1);
        self.replaced.sort_by_key(|r| (r.since, r.hotkey));
    }
}

impl Validator {
    /// The losses of former models on the test pages of a window. One whose file is gone counts no more.
    pub(super) async fn former(&self, facts: &Facts, end: [u8; 32]) -> Result<Vec<Former>, Failure> {
        let node = &*self.node;
        let seed = seed::test_pages(node.settings.netuid, node.settings.run.id, facts.window, &end);
        let replaced = &self.memory.formers.replaced;
        // No test pages are read for nothing.
        if replaced.is_empty() {
            return Ok(Vec::new());
        }
        let uids: Vec<u16> = replaced.iter().filter_map(|r| facts.uid_of(&r.hotkey)).collect();
        let test = LookedAt::of(node.mechanism(), &node.pages, &seed, &uids, |_| Vec::new()).test;
        let sequences = Arc::new(node.sequences(&test).await?);
        let page = node.settings.run.dataset.page_sequences as usize;
        let mut found = Vec::new();
        for replaced in replaced {
            let commitment = Commitment::from_bytes(&replaced.commitment);
            let (Some(uid), Some(commitment)) = (facts.uid_of(&replaced.hotkey), commitment) else { continue };
            let Some(model) = models::read(node, &replaced.hotkey, &commitment).await? else { continue };
            let (sequences, cancel) = (Arc::clone(&sequences), node.stop.child_token());
            let losses = node.compute(move |engine| page_losses(engine, &model.parameters, &sequences, page, &cancel));
            let losses = losses.await?.into_iter().map(Bits64).collect();
            found.push(Former { uid, window: commitment.window, since: replaced.since, until: replaced.until, losses });
        }
        Ok(found)
    }
}

/// As models that others are compared with at the end of `window`.
pub(super) fn contenders(node: &Node, window: u64, former: &[Former]) -> Vec<Contender> {
    let end = node.clock.end(window);
    let contender = |f: &Former| Contender {
        uid: f.uid,
        age: end.saturating_sub(f.since),
        replaced: Some(end.saturating_sub(f.until)),
        losses: f.losses.iter().map(|loss| loss.0).collect(),
    };
    former.iter().map(contender).collect()
}

#[cfg(test)]
mod tests {
    use bistro_protocol::object::Agreement;

    use super::*;

    fn models(rows: &[(u8, u64)]) -> Models {
        let agreement = Agreement { genesis: [1; 32], netuid: 1, run: 1, run_digest: [2; 32] };
        let row = |(key, since): &(u8, u64)| {
            let hotkey = Hotkey([*key; 32]);
            (hotkey, (Commitment::of(&agreement, &hotkey, *since, &[*key; 32]), *since))
        };
        rows.iter().map(row).collect()
    }

    fn kept(formers: &Formers) -> Vec<(u8, u64, u64)> {
        formers.replaced.iter().map(|r| (r.hotkey.0[0], r.since, r.until)).collect()
    }

    #[test]
    fn what_was_replaced_counts_while_somebody_may_have_copied_it() {
        let mut formers = Formers::default();
        formers.observe(&models(&[(1, 10), (2, 5)]), 99, |_| 0.0);
        formers.observe(&models(&[(1, 10), (2, 15)]), 99, |_| 0.0);
        assert_eq!(kept(&formers), [(2, 5, 15)], "1 committed while it stood");
        formers.observe(&models(&[(1, 20), (2, 15)]), 99, |_| 0.0);
        assert_eq!(kept(&formers), [(1, 10, 20)], "2 may have copied that; nobody holds a commitment from 5 to 15");
        formers.observe(&models(&[(1, 20), (2, 25)]), 99, |_| 0.0);
        assert_eq!(kept(&formers), [(2, 15, 25)]);
        formers.observe(&models(&[(2, 25)]), 30, |_| 0.0);
        assert_eq!(kept(&formers), [(1, 20, 30)], "who takes its commitment back has had it");
        formers.observe(&models(&[(2, 35)]), 40, |_| 0.0);
        assert_eq!(kept(&formers), []);
    }

    /// Keys that commit anew all the time do not crowd out what the best have replaced.
    #[test]
    fn the_formers_of_the_best_are_kept_first() {
        let mut formers = Formers::default();
        let all = |step: u64| (1..=60).map(|key| (key, 100 * step + u64::from(key))).collect::<Vec<_>>();
        let average = |hotkey: &Hotkey| if hotkey.0[0] == 7 { 1.0 } else { 0.0 };
        for step in 0..3 {
            formers.observe(&models(&all(step)), 100 * step + 99, average);
        }
        assert_eq!(kept(&formers).len(), MOST.1);
        assert!(kept(&formers).iter().any(|(key, ..)| *key == 7), "{:?}", kept(&formers));
    }

    #[test]
    fn a_restart_remembers_and_a_flood_is_bounded() {
        let mut formers = Formers::default();
        formers.observe(&models(&[(1, 10), (2, 5)]), 99, |_| 0.0);
        let text = serde_json::to_string(&formers).expect("plain data");
        assert_eq!(serde_json::from_str::<Formers>(&text).expect("read back"), formers);
        for step in 0..20u64 {
            // Everybody else holds one from every time.
            let others = (0..=step).map(|other| (100 + other as u8, 10 + other));
            formers.observe(&models(&[(1, 11 + step)].into_iter().chain(others).collect::<Vec<_>>()), 99, |_| 0.0);
        }
        let own = kept(&formers).into_iter().filter(|(key, ..)| *key == 1).count();
        assert_eq!(own, MOST.0, "{:?}", kept(&formers));
    }
}
