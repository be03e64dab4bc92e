//! Raw scores of the drawn miners of one window.

use std::collections::BTreeMap;

use bistro_api::{mechanism::TaylorFormula, run::Training};
use bistro_protocol::{
    base::Base,
    mechanism::{Mechanism, cosine, gradient_difference, loss_reduction, taylor},
    merge::{mean_within_median, within},
    slice::Slice,
    tensors::Tensors,
};
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Error};

/// `taylor.order` of a series with its second term.
const SECOND_ORDER: u32 = 2;

/// What all scores of a window have in common.
pub struct Scene<'a> {
    /// What the subnet pays for.
    pub mechanism: Mechanism<'a>,
    /// The settings of the run.
    pub training: &'a Training,
    /// The base before the window.
    pub base: &'a Base,
    /// The entries that miners published.
    pub slice: &'a Slice,
    /// What the work of those who are scored would change, by uid.
    pub works: &'a BTreeMap<u16, &'a Tensors>,
    /// What was accepted in the window, also of miners who were not drawn.
    pub accepted: &'a Accepted,
    /// Pages that nobody foresaw; for mechanisms that measure losses.
    pub test: &'a [Vec<u32>],
}

/// All accepted work of a window, as far as scores depend on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accepted {
    /// Number of works.
    pub count: usize,
    /// Lower median of their norms: no work counts more where its size would pay.
    pub limit: f64,
    /// Their mean within that, for mechanisms that compare with it.
    pub mean: Option<Tensors>,
}

impl Accepted {
    /// Of these, in uid order.
    pub fn of(mechanism: Mechanism<'_>, works: &[&Tensors]) -> Self {
        let Some((mean, limit)) = mean_within_median(works) else { return Self::default() };
        let compared = matches!(mechanism, Mechanism::Taylor(_));
        Self { count: works.len(), limit, mean: compared.then_some(mean) }
    }
}

/// One drawn miner with accepted work, or a uid that stands in as somebody else's pages.
pub struct Candidate {
    /// Its number.
    pub uid: u16,
    /// The sequences of its own pages.
    pub own: Vec<Vec<u32>>,
}

/// What was found of one miner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Its number.
    pub uid: u16,
    /// Loss on its own pages, in nats per token, of what the work is compared with; absent where that has none.
    pub loss: Option<f64>,
    /// The raw score, before the gate if there is one.
    pub raw: f64,
    /// How much its work lowered the loss on its own pages and on another miner's: what moves its gate.
    pub pages: Option<(f64, f64)>,
}

/// Scores the accepted work of `candidates`, or of `only` one of them; it is compared with all of them either way. Looks at
/// `cancelled` before every pass.
pub fn score(
    engine: &mut Engine,
    scene: &Scene<'_>,
    candidates: &[Candidate],
    only: Option<u16>,
    cancelled: &CancellationToken,
) -> Result<Vec<Scored>, Error> {
    let mut scorer = Scorer { engine, scene, cancelled };
    let wanted = |c: &&Candidate| scene.works.contains_key(&c.uid) && only.is_none_or(|uid| uid == c.uid);
    let wanted: Vec<&Candidate> = candidates.iter().filter(wanted).collect();
    match scene.mechanism {
        Mechanism::Cosine(_) => scorer.cosine(&wanted, candidates),
        Mechanism::GradientDifference(settings) => wanted
            .iter()
            .map(|c| {
                let (loss, gradient) = scorer.gradient(&scene.base.parameters, &c.own)?;
                let raw = gradient_difference::raw_score(scene.works[&c.uid], &gradient, settings);
                Ok(Scored { uid: c.uid, loss: Some(loss), raw, pages: None })
            })
            .collect(),
        Mechanism::Taylor(settings) => scorer.taylor(&wanted, settings.formula, settings.order == SECOND_ORDER),
        Mechanism::LossReduction(_) => scorer.loss_reduction(&wanted, candidates),
    }
}

struct Scorer<'a> {
    engine: &'a mut Engine,
    scene: &'a Scene<'a>,
    cancelled: &'a CancellationToken,
}

impl Scorer<'_> {
    fn go_on(&self) -> Result<(), Error> {
        if self.cancelled.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Mean loss and the slice of its gradient.
    fn gradient(&mut self, parameters: &Tensors, sequences: &[Vec<u32>]) -> Result<(f64, Tensors), Error> {
        self.go_on()?;
        let (loss, gradient) = self.engine.gradient(parameters, sequences)?;
        Ok((loss, self.scene.slice.gather(&gradient)))
    }

    fn loss(&mut self, parameters: &Tensors, sequences: &[Vec<u32>]) -> Result<f64, Error> {
        self.go_on()?;
        match self.engine.loss(parameters, sequences) {
            // Somebody's work is no fault of ours: it is worth nothing.
            Err(Error::Loss | Error::NotFinite { .. }) => Ok(f64::INFINITY),
            other => other,
        }
    }

    /// One gradient for each candidate serves all of them.
    fn cosine(&mut self, wanted: &[&Candidate], candidates: &[Candidate]) -> Result<Vec<Scored>, Error> {
        let base = &self.scene.base.parameters;
        let mut references = Vec::new();
        for candidate in candidates {
            references.push((candidate.uid, self.gradient(base, &candidate.own)?));
        }
        let scored = |candidate: &&Candidate| {
            let foreign: Vec<&Tensors> =
                references.iter().filter(|(uid, _)| *uid != candidate.uid).map(|(_, (_, g))| g).collect();
            let own = references.iter().find(|(uid, _)| *uid == candidate.uid);
            let (_, (loss, gradient)) = own.expect("every candidate has a gradient");
            let raw = cosine::raw_score(self.scene.works[&candidate.uid], gradient, &foreign);
            Scored { uid: candidate.uid, loss: Some(*loss), raw, pages: None }
        };
        Ok(wanted.iter().map(scored).collect())
    }

    /// The gradient at the mean of all accepted work on each one's own pages.
    fn taylor(&mut self, wanted: &[&Candidate], formula: TaylorFormula, second: bool) -> Result<Vec<Scored>, Error> {
        let scene = self.scene;
        let Some(mean) = &scene.accepted.mean else { return Ok(Vec::new()) };
        let mut theta = scene.base.parameters.clone();
        scene.slice.scatter_add(&mut theta, mean, 1.0);
        let base = scene.slice.gather(&scene.base.parameters);
        let merged = taylor::Merged { base: &base, mean, works: scene.accepted.count };
        let mut scored = Vec::new();
        for candidate in wanted {
            let series = |scorer: &mut Self| {
                let (loss, gradient) = scorer.gradient(&theta, &candidate.own)?;
                let fisher = if second { Some(scorer.fisher(&theta, &candidate.own)?) } else { None };
                Ok((loss, gradient, fisher))
            };
            let work = within(scene.works[&candidate.uid], scene.accepted.limit);
            let (loss, raw) = match series(self) {
                Ok((loss, gradient, fisher)) => {
                    let step = taylor::step(formula, &work, merged);
                    (loss, taylor::raw_score(&gradient, fisher.as_ref(), &step))
                }
                // Somebody's work breaks the merged model: the others are compared with the base, so that they do not pay.
                Err(Error::Loss | Error::NotFinite { .. }) => {
                    let (loss, gradient) = self.gradient(&scene.base.parameters, &candidate.own)?;
                    let step = work.map(|x| -x / scene.accepted.count as f32);
                    (loss, taylor::raw_score(&gradient, None, &step))
                }
                Err(error) => return Err(error),
            };
            scored.push(Scored { uid: candidate.uid, loss: Some(loss), raw, pages: None });
        }
        Ok(scored)
    }

    /// Diagonal of the empirical Fisher information: the mean of the squared gradients of single sequences, not the square
    /// of their mean.
    fn fisher(&mut self, parameters: &Tensors, sequences: &[Vec<u32>]) -> Result<Tensors, Error> {
        let mut sum: Option<Tensors> = None;
        for sequence in sequences {
            let (_, gradient) = self.gradient(parameters, std::slice::from_ref(sequence))?;
            let squares = gradient.map(|g| -g * g);
            sum = Some(match sum {
                Some(sum) => sum.minus(&squares),
                None => squares.map(|x| -x),
            });
        }
        let count = sequences.len() as f32;
        Ok(sum.ok_or(Error::Sequences { found: 0, wanted: 1 })?.map(|x| x / count))
    }

    /// The losses of the base are shared: on the test pages by all, on own pages by each and its neighbour.
    fn loss_reduction(&mut self, wanted: &[&Candidate], candidates: &[Candidate]) -> Result<Vec<Scored>, Error> {
        let scene = self.scene;
        let base = &scene.base.parameters;
        let factor = loss_reduction::share(scene.mechanism.factor(scene.training), scene.accepted.count);
        let test = self.loss(base, scene.test)?;
        let mut losses: BTreeMap<u16, f64> = BTreeMap::new();
        let mut scored = Vec::new();
        for candidate in wanted {
            let mut with = base.clone();
            let work = within(scene.works[&candidate.uid], scene.accepted.limit);
            scene.slice.scatter_add(&mut with, &work, factor);
            let raw = loss_reduction::raw_score(test, self.loss(&with, scene.test)?, 1.0);
            let mut reduction = |scorer: &mut Self, pages: &Candidate| {
                let before = match losses.get(&pages.uid) {
                    Some(loss) => *loss,
                    None => scorer.loss(base, &pages.own)?,
                };
                losses.insert(pages.uid, before);
                Ok::<_, Error>((before, before - scorer.loss(&with, &pages.own)?))
            };
            let (loss, own) = reduction(self, candidate)?;
            let other = neighbour(candidates, candidate.uid).map(|other| reduction(self, other)).transpose()?;
            let pages = other.map(|(_, other)| (own, other));
            scored.push(Scored { uid: candidate.uid, loss: loss.is_finite().then_some(loss), raw, pages });
        }
        Ok(scored)
    }
}

/// Whose pages a candidate is compared with: the next one's, so that each is looked at as often.
fn neighbour(candidates: &[Candidate], uid: u16) -> Option<&Candidate> {
    let at = candidates.iter().position(|c| c.uid == uid)?;
    let next = &candidates[(at + 1) % candidates.len()];
    (next.uid != uid).then_some(next)
}
