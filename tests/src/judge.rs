//! A validator of the arena, and what is to be learned from its records.

use bistro_api::{run::InnerOptimizer, settings::Scoring};
use bistro_protocol::{
    check::Verdict,
    draw::draw,
    hotkey::Hotkey,
    mechanism::{
        audit::{RECOMPUTED, likeness},
        of,
    },
    score::{Book, Outcome, Rates},
    seed,
};

use crate::arena::{Arena, Played, block};

/// Scores window by window.
pub struct Judge {
    book: Book,
    scoring: Scoring,
    records: Vec<Record>,
}

/// What it thought after one window. All by uid.
pub struct Record {
    /// What was found of those who were drawn.
    pub outcomes: Vec<Option<Outcome>>,
    /// The averages.
    pub averages: Vec<f64>,
    /// The weights; 0 where none would be set.
    pub weights: Vec<u16>,
}

impl Judge {
    /// A validator that knows nothing yet and draws `evaluations` miners per window.
    pub fn new(evaluations: u32) -> Self {
        let scoring = Scoring { evaluations_per_window: evaluations, ..Scoring::default() };
        Self { book: Book::default(), scoring, records: Vec::new() }
    }

    /// One that scored `windows` windows of `arena` while they were played, and showed each to `look`.
    pub fn watching(
        arena: &mut Arena<'_>,
        evaluations: u32,
        windows: u64,
        mut look: impl FnMut(&mut Arena<'_>, &Played),
    ) -> Self {
        let mut judge = Self::new(evaluations);
        for _ in 0..windows {
            let played = arena.play();
            judge.score(arena, &played);
            look(arena, &played);
        }
        judge
    }

    /// One record per scored window.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Scores a window as the role `validator` does; with fresh moments it audits one accepted miner.
    pub fn score(&mut self, arena: &mut Arena<'_>, played: &Played) {
        let (window, rates) = (played.window, self.rates());
        let hotkey = |uid: u16| Hotkey(seed::seed("hotkey", &uid));
        let uids = 0..played.works.len() as u16;
        let neurons: Vec<_> = uids.clone().map(|uid| (uid, hotkey(uid), true)).collect();
        self.book.observe(window, &neurons, rates);
        let seed = seed::draw(&block("end", window), &[9; 32]);
        let drawn = draw(&self.book.ages(window, rates), self.scoring.evaluations_per_window as usize, &seed);
        let mut outcomes = self.outcomes_of(arena, played, &drawn);
        let run = arena.run();
        if run.training.inner_optimizer == InnerOptimizer::Fresh && of(run).trains() {
            audit(arena, played, &mut outcomes);
        }
        self.book.record(window, &outcomes, rates);

        let outcome = |uid: u16| outcomes.iter().find(|(u, _)| *u == uid).map(|(_, o)| *o);
        let weights = self.book.weights(self.scoring.power.value());
        let weight = |uid: u16| weights.iter().find(|(u, _)| *u == uid).map_or(0, |(_, w)| *w);
        self.records.push(Record {
            outcomes: uids.clone().map(outcome).collect(),
            averages: self.book.standings().map(|(_, s)| s.average).collect(),
            weights: uids.map(weight).collect(),
        });
    }

    /// What a validator finds of the drawn miners, as in the role `validator`.
    fn outcomes_of(&mut self, arena: &mut Arena<'_>, played: &Played, drawn: &[u16]) -> Vec<(u16, Outcome)> {
        let accepted: Vec<u16> = drawn.iter().copied().filter(|uid| played.works[usize::from(*uid)].is_ok()).collect();
        let scored = arena.score(played, &accepted);
        let mut outcome = |uid: &u16| match &played.works[usize::from(*uid)] {
            Err(verdict) => (*uid, Outcome::Rejected(*verdict)),
            Ok(_) => {
                let found = scored.iter().find(|s| s.uid == *uid).expect("every accepted one is scored");
                let gate = found.pages.map_or(1.0, |(own, other)| self.book.gate(*uid, own, other));
                (*uid, Outcome::Scored(found.raw * gate))
            }
        };
        drawn.iter().map(&mut outcome).collect()
    }

    fn rates(&self) -> Rates {
        Rates::from(&self.scoring)
    }
}

/// Recomputes the work of one accepted miner, by lot.
fn audit(arena: &mut Arena<'_>, played: &Played, outcomes: &mut [(u16, Outcome)]) {
    let end = block("end", played.window);
    let scored = outcomes.iter_mut().filter(|(_, outcome)| matches!(outcome, Outcome::Scored(_)));
    let Some((uid, outcome)) = scored.min_by_key(|(uid, _)| seed::seed("audit", &(end, *uid))) else { return };
    if audit_cosine(arena, played, *uid) < RECOMPUTED {
        *outcome = Outcome::Rejected(Verdict::Recompute);
    }
}

/// How much what a uid published is like what it should have published; 0 where nothing counts. Without compression that
/// is their cosine.
pub fn audit_cosine(arena: &mut Arena<'_>, played: &Played, uid: u16) -> f64 {
    let Ok(work) = &played.works[usize::from(uid)] else { return 0.0 };
    let recomputed = arena.recompute(played, &[uid]);
    recomputed.first().map_or(0.0, |expected| {
        let sent = of(arena.run()).sent(expected.clone(), 1).expect("finite");
        likeness(work, expected, &sent)
    })
}

/// The figures of one uid against those of the honest, who have the uids below `miners`.
#[derive(Debug)]
pub struct Figures {
    /// How often it was drawn.
    pub evaluations: usize,
    /// Its weight over the mean of the honest, in the second half of the windows together.
    pub share: f64,
    /// The same of the averages.
    pub pay: f64,
    /// Chance that a raw score of an honest miner beats one of its; `None` if it was never scored.
    pub auc: Option<f64>,
    /// Evaluations until its average stayed below that of every honest miner.
    pub detection: Option<usize>,
    /// What it was rejected for, last.
    pub verdict: Verdict,
}

impl Record {
    /// What was found of a miner; `None` if it was not drawn.
    pub fn verdict(&self, uid: usize) -> Option<Verdict> {
        self.outcomes[uid].map(verdict)
    }
}

fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Scored(_) => Verdict::Accepted,
        Outcome::Rejected(verdict) => verdict,
    }
}

impl Judge {
    /// Of `uid`, which may be honest.
    pub fn figures(&self, miners: usize, uid: usize) -> Figures {
        // One window more or less makes a difference to an average; what somebody earns is a matter of many.
        let late = &self.records[self.records.len() / 2..];
        let mean = |of: &dyn Fn(usize) -> f64| (0..miners).map(of).sum::<f64>() / miners as f64;
        let weight = |uid: usize| late.iter().map(|r| f64::from(r.weights[uid])).sum::<f64>();
        let average = |uid: usize| late.iter().map(|r| r.averages[uid]).sum::<f64>();
        Figures {
            evaluations: self.outcomes(uid).count(),
            share: weight(uid) / mean(&weight),
            pay: average(uid) / mean(&average),
            auc: auc(&(0..miners).flat_map(|u| self.raws(u)).collect::<Vec<_>>(), &self.raws(uid)),
            detection: self.detection(miners, uid),
            verdict: self.outcomes(uid).map(verdict).rfind(|v| *v != Verdict::Accepted).unwrap_or(Verdict::Accepted),
        }
    }

    fn outcomes(&self, uid: usize) -> impl DoubleEndedIterator<Item = Outcome> {
        self.records.iter().filter_map(move |r| r.outcomes[uid])
    }

    fn raws(&self, uid: usize) -> Vec<f64> {
        let raw = |outcome| if let Outcome::Scored(raw) = outcome { Some(raw) } else { None };
        self.outcomes(uid).filter_map(raw).collect()
    }

    fn detection(&self, miners: usize, uid: usize) -> Option<usize> {
        let below = |r: &Record| r.averages[..miners].iter().all(|honest| r.averages[uid] < *honest);
        let not_yet = self.records.iter().rposition(|r| !below(r)).map_or(0, |last| last + 1);
        let found = self.records.get(..=not_yet)?;
        Some(found.iter().filter(|r| r.outcomes[uid].is_some()).count())
    }
}

/// Chance that a score of the first beats one of the second; `None` where there is nothing to compare.
pub fn auc(honest: &[f64], other: &[f64]) -> Option<f64> {
    let pairs = honest.len() * other.len();
    let beats = |h: f64, o: f64| f64::from(h > o) + f64::from(h == o) / 2.0;
    let sum: f64 = honest.iter().flat_map(|h| other.iter().map(|o| beats(*h, *o))).sum();
    (pairs > 0).then(|| sum / pairs as f64)
}
