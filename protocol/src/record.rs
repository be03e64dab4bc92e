//! What a validator publishes of a window: its verdicts at once, its scores after the weights that used them are on
//! the chain, so that nobody can copy them. A record holds everything that its weights follow from: whoever has the
//! block hash recomputes draw, averages and weights, and with base, pages and artifacts the raw scores too.

use serde::{Deserialize, Serialize};

use crate::{
    check::Verdict,
    draw::{draw, draw_with_leaders},
    hotkey::Hotkey,
    object::{Bits64, Hex32},
    score::{Outcome, next_average},
    seed, weights,
};

/// Largest record that is read: that of 4,096 miners.
pub const MAX_RECORD: u64 = 2 << 20;
/// Most miners that a validator may draw in a window: `scoring.evaluationsPerWindow` goes no further.
const MAX_EVALUATIONS: u32 = 256;
/// Most test pages: `lossWins.testPages` goes no further.
const MAX_PAGES: usize = 128;
/// Weights come from a power that may differ in its last bit between machines.
const WEIGHT_TOLERANCE: u16 = 1;

/// Body of verdicts.json.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Every hotkey that committed, by uid.
    pub verdicts: Vec<Judged>,
}

/// What a validator found of one hotkey's work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Its number at the start of the window.
    pub uid: u16,
    /// The hotkey.
    pub hotkey: Hotkey,
    /// The validator's own verdict; its pay follows from this one.
    pub verdict: Verdict,
    /// What the manifest says instead: the verdict is disputed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disputed: Option<Verdict>,
    /// With `stale-base`: windows between the base that it started from and the one that it should have, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
}

/// Body of scores.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scores {
    /// Hash of the block that ended the window: the draw follows from it.
    pub end: Hex32,
    /// Digest of the base before the window.
    pub base: Hex32,
    /// Most miners that are drawn.
    pub evaluations: u32,
    /// Whether the best have seats in the draw ([`crate::draw::draw_with_leaders`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaders: bool,
    /// Share of the old average that stays.
    pub moving_average: Bits64,
    /// Weights are averages to this power.
    pub power: Bits64,
    /// Lower median of the last positive raw scores; absent while there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Bits64>,
    /// Block in which these very weights were seen on the chain; absent if later ones took their place first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_block: Option<u64>,
    /// Everybody who could be drawn or has an average, by uid.
    pub miners: Vec<Entry>,
    /// Models that their owners have replaced, and that others' are compared with all the same (`lossWins`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Former>,
}

/// A model that its owner has replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Former {
    /// Whose it was.
    pub uid: u16,
    /// The window of its key.
    pub window: u64,
    /// The block in which its hotkey committed itself to it.
    pub since: u64,
    /// The block in which that committed itself to another one.
    pub until: u64,
    /// Its loss on each test page, in nats per token.
    pub losses: Vec<Bits64>,
}

/// One miner in scores.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its number.
    pub uid: u16,
    /// The hotkey.
    pub hotkey: Hotkey,
    /// Windows since it was last drawn; absent if it could not be drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// Average before this window's evaluations.
    pub before: Bits64,
    /// Average after them.
    pub average: Bits64,
    /// Its weight, of 65535.
    pub weight: u16,
    /// What was found, if it was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn: Option<Evaluation>,
}

/// What a validator found of a drawn miner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Accepted, or why not.
    pub verdict: Verdict,
    /// The pages that it had to train on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<u64>,
    /// Loss on them, in nats per token, of what the work is compared with: the base, or the merged weights (`taylor`); of a
    /// model, its mean on the test pages (`lossWins`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Bits64>,
    /// Raw score of the mechanism, if the work was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Bits64>,
    /// The factor in it that says how often the miner read its own pages better than others' (`lossReduction`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Bits64>,
    /// Loss of the miner's model on each test page, in nats per token (`lossWins`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Bits64>,
    /// The block in which it committed itself to that model (`lossWins`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// A record that does not follow from itself: its validator made it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Uids are not ascending.
    #[error("its uids are not ascending")]
    Order,
    /// It claims to have scored more than any subnet lets it.
    #[error("it draws more than 256 miners in a window")]
    Evaluations,
    /// A number that no evaluation gives.
    #[error("uid {0} has a number that no evaluation gives")]
    Value(u16),
    /// The drawn miners are not those that this hotkey draws at this block.
    #[error("its hotkey draws other miners at that block: the record is another validator's, or made up")]
    Draw,
    /// An average does not follow from the one before and the raw score.
    #[error("the average of uid {0} does not follow from the one before and its score")]
    Average(u16),
    /// A weight does not follow from the averages.
    #[error("the weight of uid {0} does not follow from the averages")]
    Weight(u16),
}

impl Evaluation {
    /// A verdict and nothing else.
    pub fn of(verdict: Verdict) -> Self {
        Self { verdict, pages: Vec::new(), loss: None, raw: None, gate: None, losses: Vec::new(), since: None }
    }

    /// What it counts as.
    pub fn outcome(&self) -> Outcome {
        match self.raw {
            Some(Bits64(raw)) => Outcome::Scored(raw),
            None => Outcome::Rejected(self.verdict),
        }
    }
}

impl Scores {
    /// The weights that follow from the averages, as they are set on the chain.
    pub fn weights(&self) -> Vec<(u16, u16)> {
        let averages: Vec<_> = self.miners.iter().map(|m| (m.uid, m.average.0)).collect();
        weights::weights(&averages, self.power.0)
    }

    /// The same with every miner's weight as it follows from the averages.
    pub fn weighted(mut self) -> Self {
        let weights = self.weights();
        for miner in &mut self.miners {
            miner.weight = weights.iter().find(|(uid, _)| *uid == miner.uid).map_or(0, |(_, w)| *w);
        }
        self
    }

    /// Recomputes what needs nothing but the record: the draw of `validator`, the averages, the weights.
    pub fn check(&self, validator: &Hotkey) -> Result<(), RecordFault> {
        if !self.miners.is_sorted_by(|a, b| a.uid < b.uid) {
            return Err(RecordFault::Order);
        }
        if self.evaluations > MAX_EVALUATIONS {
            return Err(RecordFault::Evaluations);
        }
        if self.former.len() > MAX_EVALUATIONS as usize {
            return Err(RecordFault::Evaluations);
        }
        let losses = |losses: &[Bits64]| losses.len() <= MAX_PAGES && losses.iter().all(|loss| loss.0 >= 0.0);
        if let Some(former) = self.former.iter().find(|former| !losses(&former.losses)) {
            return Err(RecordFault::Value(former.uid));
        }
        let m = self.moving_average.0;
        for Entry { uid, age, before, average, drawn, .. } in &self.miners {
            let accepted = |e: &Evaluation| (e.verdict == Verdict::Accepted) == e.raw.is_some();
            let finite = |bits: Option<Bits64>| bits.is_none_or(|x| x.0.is_finite());
            let gate = |e: &Evaluation| e.gate.is_none_or(|gate| (0.0..=1.0).contains(&gate.0));
            let raw = |e: &Evaluation| finite(e.raw) && finite(e.loss) && gate(e) && losses(&e.losses);
            let fits =
                before.0.is_finite() && average.0.is_finite() && drawn.as_ref().is_none_or(|e| accepted(e) && raw(e));
            if !fits || (age.is_none() && drawn.is_some()) {
                return Err(RecordFault::Value(*uid));
            }
            let follows =
                drawn.as_ref().map_or(before.0, |e| next_average(before.0, e.outcome(), self.scale.map(|s| s.0), m));
            if follows.to_bits() != average.0.to_bits() {
                return Err(RecordFault::Average(*uid));
            }
        }
        let candidates: Vec<_> = self.miners.iter().filter_map(|m| Some((m.uid, m.age?))).collect();
        let drawn: Vec<_> = self.miners.iter().filter(|m| m.drawn.is_some()).map(|m| m.uid).collect();
        let (count, seed) = (self.evaluations as usize, seed::draw(&self.end.0, &validator.0));
        let due = if self.leaders {
            let before = |uid: u16| {
                let found = self.miners.binary_search_by_key(&uid, |m| m.uid);
                found.map_or(0.0, |i| self.miners[i].before.0)
            };
            draw_with_leaders(&candidates, before, count, &seed)
        } else {
            draw(&candidates, count, &seed)
        };
        if drawn != due {
            return Err(RecordFault::Draw);
        }
        let weights = self.weights();
        let weight = |uid: u16| weights.iter().find(|(u, _)| *u == uid).map_or(0, |(_, w)| *w);
        match self.miners.iter().find(|m| m.weight.abs_diff(weight(m.uid)) > WEIGHT_TOLERANCE) {
            Some(miner) => Err(RecordFault::Weight(miner.uid)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        hotkey::tests::keypair,
        score::{Book, Rates},
    };

    const RATES: Rates = Rates { moving_average: 0.9, absent_windows: 10 };

    fn validator() -> Hotkey {
        Hotkey::from(&keypair(9))
    }

    /// A record as a validator makes it: twelve miners, four of them drawn.
    pub(crate) fn scores() -> Scores {
        scores_of(false)
    }

    fn scores_of(leaders: bool) -> Scores {
        let mut book = Book::default();
        let neurons: Vec<_> = (0..12).map(|i| (u16::from(i), Hotkey::from(&keypair(i + 1)), true)).collect();
        book.observe(0, &neurons, RATES);
        let all: Vec<_> = (0..12).map(|uid| (uid, Outcome::Scored(0.1 + f64::from(uid)))).collect();
        book.record(0, &all, RATES);
        book.observe(1, &neurons, RATES);
        let before = book.clone();
        let ages = book.ages(1, RATES);
        let seed = seed::draw(&[5; 32], &validator().0);
        let average = |book: &Book, uid: u16| {
            Bits64(book.standings().find(|(u, _)| *u == uid).map(|(_, s)| s.average).expect("known"))
        };
        let drawn = if leaders {
            draw_with_leaders(&ages, |uid| average(&before, uid).0, 4, &seed)
        } else {
            draw(&ages, 4, &seed)
        };
        let evaluate = |uid: u16| match uid % 3 {
            0 => Evaluation::of(Verdict::Late),
            _ => Evaluation {
                pages: vec![3, 1],
                loss: Some(Bits64(2.5)),
                raw: Some(Bits64(0.2 * f64::from(uid))),
                ..Evaluation::of(Verdict::Accepted)
            },
        };
        let outcomes: Vec<_> = drawn.iter().map(|uid| (*uid, evaluate(*uid).outcome())).collect();
        let scale = book.record(1, &outcomes, RATES).map(Bits64);
        let miners = neurons.iter().map(|(uid, hotkey, _)| Entry {
            uid: *uid,
            hotkey: *hotkey,
            age: Some(1),
            before: average(&before, *uid),
            average: average(&book, *uid),
            weight: 0,
            drawn: drawn.contains(uid).then(|| evaluate(*uid)),
        });
        let scores = Scores {
            end: Hex32([5; 32]),
            base: Hex32([6; 32]),
            evaluations: 4,
            leaders,
            moving_average: Bits64(0.9),
            power: Bits64(3.0),
            scale,
            weights_block: Some(77),
            miners: miners.collect(),
            former: Vec::new(),
        };
        scores.weighted()
    }

    fn fault(change: impl FnOnce(&mut Scores)) -> Option<RecordFault> {
        let mut scores = scores();
        change(&mut scores);
        scores.check(&validator()).err()
    }

    fn drawn(scores: &Scores) -> usize {
        scores.miners.iter().position(|m| m.drawn.as_ref().is_some_and(|e| e.raw.is_some())).expect("one accepted")
    }

    #[test]
    fn a_sound_record_passes_and_its_json_is_read_back() {
        assert_eq!(fault(|_| ()), None);
        let text = serde_json::to_string(&scores()).expect("plain data");
        assert_eq!(serde_json::from_str::<Scores>(&text).expect("read back"), scores());
    }

    #[test]
    fn the_seats_of_the_best_are_checked() {
        assert_eq!(scores_of(true).check(&validator()), Ok(()));
        let of = scores_of(true);
        let highest = of.miners.iter().map(|m| m.before.0).fold(0.0, f64::max);
        let seated = of.miners.iter().filter(|m| m.before.0 == highest && m.drawn.is_some());
        assert!(seated.count() >= 2, "half of four seats");
        assert_eq!(Scores { leaders: true, ..scores() }.check(&validator()), Err(RecordFault::Draw));
        assert_eq!(Scores { leaders: false, ..scores_of(true) }.check(&validator()), Err(RecordFault::Draw));
    }

    #[test]
    fn losses_that_no_model_has_are_found() {
        let with = |loss: f64| {
            fault(|s| {
                let i = drawn(s);
                s.miners[i].drawn.as_mut().expect("drawn").losses = vec![Bits64(1.0), Bits64(loss)];
            })
        };
        assert_eq!(with(f64::INFINITY), None, "a model that does not compute");
        assert!(matches!(with(f64::NAN), Some(RecordFault::Value(_))));
        assert!(matches!(with(-1.0), Some(RecordFault::Value(_))));
    }

    /// A validator that signs another's record is found by the draw alone: nobody needs a model for it.
    #[test]
    fn a_copied_record_is_found() {
        assert_eq!(scores().check(&Hotkey::from(&keypair(8))), Err(RecordFault::Draw));
    }

    #[test]
    fn a_record_that_was_made_up_is_found() {
        assert_eq!(fault(|s| s.miners.swap(0, 1)), Some(RecordFault::Order));
        assert!(matches!(fault(|s| s.miners[0].before = Bits64(f64::NAN)), Some(RecordFault::Value(0))));
        assert!(matches!(fault(|s| s.miners[0].average = Bits64(2.0)), Some(RecordFault::Average(0))));
        assert!(matches!(fault(|s| s.miners[11].weight -= 2), Some(RecordFault::Weight(11))));
        assert_eq!(fault(|s| s.evaluations = 3), Some(RecordFault::Draw));
        assert_eq!(fault(|s| s.end = Hex32([4; 32])), Some(RecordFault::Draw));
        let raised = fault(|s| {
            let i = drawn(s);
            let evaluation = s.miners[i].drawn.as_mut().expect("drawn");
            evaluation.raw = evaluation.raw.map(|r| Bits64(r.0 * 1.01));
        });
        assert!(matches!(raised, Some(RecordFault::Average(_))));
        let rejected = fault(|s| {
            let i = drawn(s);
            s.miners[i].drawn.as_mut().expect("drawn").verdict = Verdict::Norm;
        });
        assert!(matches!(rejected, Some(RecordFault::Value(_))), "rejected work has no score");
    }
}
