//! Raw scores of the drawn miners of one window.

use std::collections::BTreeMap;

use bistro_api::{
    mechanism::{LossWins, TaylorFormula},
    run::Training,
};
use bistro_protocol::{
    base::Base,
    check::lower_median,
    mechanism::{
        Mechanism, cosine, gradient_difference, loss_reduction,
        loss_wins::{self, Contender},
        taylor,
    },
    merge::{mean_within_median, within},
    page::Pages,
    seed::Seed,
    slice::Slice,
    tensors::{Tensors, norms},
};
use tokio_util::sync::CancellationToken;

use super::loss_or_infinity;
use crate::engine::{Engine, Error};

/// `taylor.order` of a series with its second term.
const SECOND_ORDER: u32 = 2;
/// A uid that no subnet gives to anybody.
const NOBODY: u16 = u16::MAX;

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
    /// For whole models: blocks since the commitment to each, by uid.
    pub ages: BTreeMap<u16, u64>,
    /// Models that their owners have replaced, with their losses on the test pages.
    pub former: Vec<Contender>,
    /// Sequences of one page.
    pub page_sequences: usize,
}

/// All accepted work of a window, as far as scores depend on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accepted {
    /// Number of works.
    pub count: usize,
    /// Lower median of their norms, for mechanisms where the size of a work would pay: none counts more.
    pub limit: f64,
    /// Their mean within that, for mechanisms that compare with it.
    pub mean: Option<Tensors>,
}

impl Accepted {
    /// Of these, in uid order.
    pub fn of(mechanism: Mechanism<'_>, works: &[&Tensors]) -> Self {
        let count = works.len();
        match mechanism {
            Mechanism::Cosine(_) | Mechanism::GradientDifference(_) | Mechanism::LossWins(_) => {
                Self { count, ..Self::default() }
            }
            Mechanism::LossReduction(_) => {
                Self { count, limit: lower_median(&norms(works)).unwrap_or_default(), mean: None }
            }
            Mechanism::Taylor(_) => {
                let (mean, limit) = mean_within_median(works).unzip();
                Self { count, limit: limit.unwrap_or_default(), mean }
            }
        }
    }
}

/// The pages that the scores of a window are measured on.
pub struct LookedAt {
    /// The own pages of each miner whose work is scored; where that is one alone, those of a uid that nobody has too.
    pub own: Vec<(u16, Vec<u64>)>,
    /// Pages that nobody foresaw, for mechanisms that ask for them.
    pub test: Vec<u64>,
}

impl LookedAt {
    /// Those of `uids`, whose work was accepted. `seed` names the test pages ([`bistro_protocol::seed::test_pages`]).
    pub fn of(
        mechanism: Mechanism<'_>,
        pages: &Pages,
        seed: &Seed,
        uids: &[u16],
        own_pages: impl Fn(u16) -> Vec<u64>,
    ) -> Self {
        let stand_in = (uids.len() == 1).then_some(NOBODY);
        let own = uids.iter().copied().chain(stand_in.filter(|_| mechanism.has_common_base()));
        let own_pages = |uid| if mechanism.has_common_base() { own_pages(uid) } else { Vec::new() };
        let own: Vec<_> = own.map(|uid| (uid, own_pages(uid))).collect();
        let test = match mechanism {
            Mechanism::LossReduction(settings) if !uids.is_empty() => {
                let taken: Vec<u64> = own.iter().flat_map(|(_, pages)| pages).copied().collect();
                pages.test(seed, settings.test_pages, &taken)
            }
            // Whoever trains on what is compared cannot know it beforehand: nobody has pages that would not count.
            Mechanism::LossWins(settings) if !uids.is_empty() => pages.test(seed, settings.test_pages, &[]),
            _ => Vec::new(),
        };
        Self { own, test }
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
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Its number.
    pub uid: u16,
    /// Loss on its own pages, in nats per token, of what the work is compared with; absent where that has none.
    pub loss: Option<f64>,
    /// The raw score, before the gate if there is one.
    pub raw: f64,
    /// How much its work lowered the loss on its own pages and on another miner's: what moves its gate.
    pub pages: Option<(f64, f64)>,
    /// Loss of its model on each test page, in nats per token; infinite where it does not compute.
    pub losses: Vec<f64>,
}

impl Scored {
    /// Of work that is compared with something that has this loss.
    fn of(uid: u16, loss: f64, raw: f64) -> Self {
        Self { uid, loss: loss.is_finite().then_some(loss), raw, pages: None, losses: Vec::new() }
    }
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
                Ok(Scored::of(c.uid, loss, raw))
            })
            .collect(),
        Mechanism::Taylor(settings) => scorer.taylor(&wanted, settings.formula, settings.order == SECOND_ORDER),
        Mechanism::LossReduction(_) => scorer.loss_reduction(&wanted, candidates),
        Mechanism::LossWins(settings) => scorer.loss_wins(&wanted, settings),
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
        loss_or_infinity(self.engine, parameters, sequences)
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
            Scored::of(candidate.uid, *loss, raw)
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
                Ok::<_, Error>((loss, gradient, fisher))
            };
            let work = within(scene.works[&candidate.uid], scene.accepted.limit);
            let (loss, raw) = match series(self) {
                Ok((loss, gradient, fisher)) => {
                    let step = taylor::step(formula, &work, merged);
                    (loss, taylor::raw_score(&gradient, fisher.as_ref(), &step))
                }
                // Somebody's work breaks the merged model: the others are compared with the base, so that they do not pay.
                Err(error) if error.is_not_finite() => {
                    let (loss, gradient) = self.gradient(&scene.base.parameters, &candidate.own)?;
                    let step = work.map(|x| -x / scene.accepted.count as f32);
                    (loss, taylor::raw_score(&gradient, None, &step))
                }
                Err(error) => return Err(error),
            };
            scored.push(Scored::of(candidate.uid, loss, raw));
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
            scored.push(Scored { pages, ..Scored::of(candidate.uid, loss, raw) });
        }
        Ok(scored)
    }

    /// Each model on each page; what they win follows from all of them.
    fn loss_wins(&mut self, wanted: &[&Candidate], settings: &LossWins) -> Result<Vec<Scored>, Error> {
        let scene = self.scene;
        let mut contenders = Vec::new();
        for candidate in wanted {
            let (model, cancelled) = (scene.works[&candidate.uid], self.cancelled);
            let losses = page_losses(self.engine, model, scene.test, scene.page_sequences, cancelled)?;
            let age = scene.ages.get(&candidate.uid).copied().unwrap_or(0);
            contenders.push(Contender { uid: candidate.uid, age, replaced: None, losses });
        }
        contenders.extend(scene.former.iter().cloned());
        let raws = loss_wins::raw_scores(&contenders, settings);
        let scored = contenders.into_iter().zip(raws).take(wanted.len());
        Ok(scored.map(|(c, raw)| Scored { losses: c.losses.clone(), ..Scored::of(c.uid, c.mean(), raw) }).collect())
    }
}

/// Loss of a model on each page of so many sequences; infinite where it does not compute.
pub fn page_losses(
    engine: &mut Engine,
    model: &Tensors,
    sequences: &[Vec<u32>],
    page_sequences: usize,
    cancelled: &CancellationToken,
) -> Result<Vec<f64>, Error> {
    let loss = |page: &[Vec<u32>]| match cancelled.is_cancelled() {
        true => Err(Error::Cancelled),
        false => loss_or_infinity(engine, model, page),
    };
    sequences.chunks(page_sequences.max(1)).map(loss).collect()
}

/// Whose pages a candidate is compared with: the next one's, so that each is looked at as often.
fn neighbour(candidates: &[Candidate], uid: u16) -> Option<&Candidate> {
    let at = candidates.iter().position(|c| c.uid == uid)?;
    let next = &candidates[(at + 1) % candidates.len()];
    (next.uid != uid).then_some(next)
}
