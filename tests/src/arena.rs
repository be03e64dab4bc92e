//! One subnet in this process: honest miners who move the base, and cheats who are watched.
//!
//! Everything that nodes would agree on is the protocol's own function; what lies between them, the bucket and
//! the chain, is left out. Cheats are never merged, as if nobody had paid them yet: all of them meet the same base.
//! The same arena gives the same figures, whatever the number of threads.

use std::{collections::BTreeMap, thread};

use bistro_api::{
    mechanism::LossReduction,
    run::{InnerOptimizer, Run},
};
use bistro_protocol::{
    base::Base,
    check::{Verdict, lower_median, norm_is_excessive},
    mechanism::{self, Mechanism},
    merge::merge,
    page::Pages,
    seed,
    slice::{Slice, SliceOf},
    tensors::Tensors,
};
use bistro_worker::{
    engine::{Engine, Optimizer, Work},
    mechanism::{
        Accepted, Candidate, LookedAt, Scene, Scored,
        averaging::{self, Scales},
        compute,
        residual::{Sent, send},
        score,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    cheat::{Cheat, Cheater, View},
    text::Text,
};

/// The subnet's number: it only has to be the same everywhere.
const NETUID: u16 = 1;
/// Pages of the displayed loss: more than nodes use, so that small differences show.
const HELD_OUT: u64 = 24;
/// The uid whose pages a cheat takes that does not want its own.
const NOBODY: u16 = u16::MAX;

/// The subnet between two windows.
pub struct Arena<'a> {
    text: &'a Text,
    run: Run,
    pages: Pages,
    /// One per thread; each trains whole miners.
    engines: Vec<Engine>,
    /// With all threads: for what is done once.
    scorer: Engine,
    base: Base,
    window: u64,
    /// The honest miners, who have the first uids.
    miners: Vec<Honest>,
    /// They have the uids after them, each with what it has not sent yet.
    cheats: Vec<(Cheater, Option<Tensors>)>,
    /// Whose work is merged, by uid.
    admitted: Vec<bool>,
    /// Bytes that the honest miners published so far.
    published: u64,
}

/// What an honest miner keeps from window to window.
#[derive(Clone)]
struct Honest {
    optimizer: Optimizer,
    /// What it has not sent yet, where work is compressed.
    residual: Option<Tensors>,
}

/// What was published in one window.
pub struct Played {
    /// Which window.
    pub window: u64,
    /// The base that everybody started from.
    pub base: Base,
    /// The entries that had to be published.
    pub slice: Slice,
    /// By uid: what the work would change, or why it does not count.
    pub works: Vec<Result<Tensors, Verdict>>,
}

impl<'a> Arena<'a> {
    /// Before the first window. `run` starts from a seed.
    pub fn new(text: &'a Text, run: Run, miners: usize, cheats: &[Cheat]) -> Self {
        let pages = Pages::new(&run.dataset, text.len() as u64).expect("text enough for the run");
        let threads = thread::available_parallelism().map_or(1, |n| n.get());
        let engine =
            |threads| Engine::new(&run.model, 256, run.dataset.sequence_length, threads).expect("a sound model");
        let engines: Vec<_> = (0..threads).map(|_| engine(1)).collect();
        let scorer = engine(threads);
        let parameters = scorer.initial(run.from.seed.expect("a run from a seed")).expect("drawn");
        let base = mechanism::of(&run).first_base(parameters);
        let cheats = (1..).zip(cheats).map(|(number, cheat)| (Cheater::new(*cheat, number), None)).collect();
        let admitted = vec![true; miners];
        let miners = vec![Honest { optimizer: Optimizer::fresh(), residual: None }; miners];
        Self { text, run, pages, engines, scorer, base, window: 0, miners, cheats, admitted, published: 0 }
    }

    /// The agreement.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Number of honest miners.
    pub fn miners(&self) -> usize {
        self.miners.len()
    }

    /// The cheats with their uids.
    pub fn cheats(&self) -> Vec<(usize, Cheat)> {
        (self.miners.len()..).zip(self.cheats.iter().map(|(cheater, _)| cheater.cheat())).collect()
    }

    /// Bytes of entries that an honest miner has published so far, without what stands around them in a file.
    pub fn bytes(&self) -> u64 {
        self.published / self.miners.len().max(1) as u64
    }

    /// Mean loss of the base on held-out pages, in nats per byte.
    pub fn loss(&mut self) -> f64 {
        let total = (self.text.len() as u64 - 1) / (self.pages.tokens_per_page() - 1);
        let held_out: Vec<u64> = (self.pages.training()..total).take(HELD_OUT as usize).collect();
        let (text, run, pages, base) = (self.text, &self.run, &self.pages, &self.base.parameters);
        let losses = share_out(&mut self.engines, held_out, |engine, page| {
            engine.loss(base, &text.sequences(&run.dataset, pages, &[page])).expect("a finite loss")
        });
        losses.iter().sum::<f64>() / losses.len() as f64
    }

    /// Whose accepted work is merged from now on, by uid; without this only that of honest miners.
    pub fn admit(&mut self, admitted: Vec<bool>) {
        self.admitted = admitted;
    }

    /// One window: everybody publishes, the work of the admitted moves the base.
    pub fn play(&mut self) -> Played {
        let window = self.window;
        let slice = self.slice();
        let (honest, left): (Vec<_>, Vec<_>) = self.train(&slice).into_iter().unzip();
        let cheats = self.cheat(&slice, &honest);
        let works = self.check(honest.into_iter().chain(cheats).collect());
        for (uid, (miner, left)) in self.miners.iter_mut().zip(left).enumerate() {
            // What was not merged was not sent.
            if works[uid].is_ok() && self.admitted[uid] {
                miner.residual = left;
            }
        }
        let before = self.base.clone();
        let admitted = works.iter().zip(&self.admitted).filter(|(_, admitted)| **admitted);
        let admitted: Vec<&Tensors> = admitted.filter_map(|(work, _)| work.as_ref().ok()).collect();
        if let Some(merged) = self.merged(&slice, &admitted) {
            let run = &self.run;
            mechanism::of(run).outer_step(&mut self.base, &slice, &merged, &run.training, window);
        }
        self.window += 1;
        Played { window, base: before, slice, works }
    }

    /// What the averager makes of admitted work.
    fn merged(&mut self, slice: &Slice, admitted: &[&Tensors]) -> Option<Tensors> {
        let Mechanism::LossReduction(LossReduction { averaging, .. }) = mechanism::of(&self.run) else {
            return merge(&self.run.merge.rule, admitted);
        };
        if admitted.is_empty() {
            return None;
        }
        let (tuning, check) = self.tuning(self.window);
        let scales = Scales {
            base: &self.base.parameters,
            slice,
            works: admitted,
            factor: mechanism::of(&self.run).factor(&self.run.training),
            tuning: &tuning,
            check: &check,
        };
        let mixed = averaging::weigh(&mut self.scorer, averaging, &scales, &CancellationToken::new()).expect("weighed");
        Some(mixed.merged)
    }

    /// Raw scores of these uids, whose work was accepted: as in the role `validator`.
    pub fn score(&mut self, played: &Played, uids: &[u16]) -> Vec<Scored> {
        let mechanism = mechanism::of(&self.run);
        let accepted: Vec<&Tensors> = played.works.iter().flatten().collect();
        let accepted = Accepted::of(mechanism, &accepted);
        let work = |uid: &u16| Some((*uid, played.works[usize::from(*uid)].as_ref().ok()?));
        let seed = seed::test_pages(NETUID, self.run.id, played.window, &block("end", played.window));
        let looked_at = LookedAt::of(mechanism, &self.pages, &seed, uids, |uid| self.own_pages(played.window, uid));
        let sequences = |pages: &[u64]| self.text.sequences(&self.run.dataset, &self.pages, pages);
        let candidates: Vec<_> =
            looked_at.own.iter().map(|(uid, pages)| Candidate { uid: *uid, own: sequences(pages) }).collect();
        let test = sequences(&looked_at.test);
        let scene = Scene {
            mechanism,
            training: &self.run.training,
            base: &played.base,
            slice: &played.slice,
            works: &uids.iter().filter_map(work).collect::<BTreeMap<_, _>>(),
            accepted: &accepted,
            test: &test,
            ages: BTreeMap::new(),
            former: Vec::new(),
            page_sequences: self.run.dataset.page_sequences as usize,
        };
        score(&mut self.scorer, &scene, &candidates, None, &CancellationToken::new()).expect("finite scores")
    }

    /// What these uids should have published, if moments start fresh in every window: what an audit compares with.
    pub fn recompute(&mut self, played: &Played, uids: &[u16]) -> Vec<Tensors> {
        let own = uids.iter().map(|uid| self.own(played.window, *uid)).collect();
        let mut run = self.run.clone();
        run.training.inner_optimizer = InnerOptimizer::Fresh;
        let base = &played.base;
        share_out(&mut self.engines, own, |engine, sequences: Vec<Vec<u32>>| {
            let (parameters, training) = (&base.parameters, &run.training);
            let work = Work { base: parameters, sequences: &sequences, training, windows: played.window };
            let work = published(&run, engine, &work, &mut Optimizer::fresh(), (&played.slice, base));
            mechanism::of(&run).effect(work, &played.slice, base)
        })
    }

    /// Names and shapes of published work.
    fn shape(&self) -> Vec<(String, Vec<usize>)> {
        mechanism::of(&self.run).work_shape(&self.base.parameters)
    }

    fn slice(&self) -> Slice {
        let reveal = block("reveal", self.window);
        let ratio = mechanism::of(&self.run).slice_ratio();
        let of = SliceOf { netuid: NETUID, run: self.run.id, window: self.window, reveal: &reveal, ratio };
        mechanism::of(&self.run).slice(of, &self.base.parameters)
    }

    /// Sequences of a uid's own pages.
    pub fn own(&self, window: u64, uid: u16) -> Vec<Vec<u32>> {
        self.text.sequences(&self.run.dataset, &self.pages, &self.own_pages(window, uid))
    }

    /// Sequences that an averager learns on in this window, and those that it compares on.
    pub fn tuning(&self, window: u64) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
        let sequences = |pages: &[u64]| self.text.sequences(&self.run.dataset, &self.pages, pages);
        let (tuning, check) = self.pages.tuning(window);
        (sequences(&tuning), sequences(&check))
    }

    fn own_pages(&self, window: u64, uid: u16) -> Vec<u64> {
        let order = seed::pages(NETUID, self.run.id, window, &block("start", window));
        self.pages.own(&order, uid, self.run.dataset.pages_per_window)
    }

    /// What the honest miners publish, and what that leaves behind.
    fn train(&mut self, slice: &Slice) -> Vec<(Tensors, Option<Tensors>)> {
        let own: Vec<_> = (0..self.miners.len()).map(|uid| self.own(self.window, uid as u16)).collect();
        let (base, run, windows) = (&self.base, &self.run, self.window);
        let tasks = self.miners.iter_mut().zip(own).collect();
        let works = share_out(&mut self.engines, tasks, |engine, (miner, sequences): (&mut Honest, Vec<Vec<u32>>)| {
            let (parameters, training) = (&base.parameters, &run.training);
            let work = Work { base: parameters, sequences: &sequences, training, windows };
            let work = published(run, engine, &work, &mut miner.optimizer, (slice, base));
            let mechanism = mechanism::of(run);
            let (work, left, bytes) = match send(mechanism, &work, miner.residual.clone(), 1) {
                Some(sent) => {
                    let Sent { work: sparse, left } = sent.expect("finite");
                    (sparse.dense(&work.shape()), left, sparse.write().len())
                }
                None => {
                    let bytes = 4 * work.elements();
                    (work, None, bytes)
                }
            };
            (mechanism.effect(work, slice, base), left, bytes as u64)
        });
        self.published += works.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
        works.into_iter().map(|(effect, left, _)| (effect, left)).collect()
    }

    /// What the cheats publish, who have seen what the honest miners published.
    fn cheat(&mut self, slice: &Slice, honest: &[Tensors]) -> Vec<Tensors> {
        let published: Vec<&Tensors> = honest.iter().collect();
        let uids = self.miners.len()..self.miners.len() + self.cheats.len();
        let own: Vec<_> = uids.map(|uid| self.own(self.window, uid as u16)).collect();
        let other = self.own(self.window, NOBODY);
        let (base, run, windows) = (&self.base.parameters, &self.run, self.window);
        let tasks = self.cheats.iter_mut().zip(own).collect();
        share_out(&mut self.engines, tasks, |engine, ((cheater, residual), own): (&mut (Cheater, _), Vec<Vec<u32>>)| {
            let view = View { base, slice, run, windows, own: &own, other: &other, published: &published };
            let work = cheater.publish(engine, &view).expect("cheats compute as others do");
            let carried = if cheater.cheat() == Cheat::Forgetful { None } else { residual.take() };
            match send(mechanism::of(run), &work, carried, 1) {
                Some(Ok(Sent { work: sparse, left })) => {
                    *residual = left;
                    sparse.dense(&work.shape())
                }
                // What is no work cannot be compressed either: a check finds it.
                _ => work,
            }
        })
    }

    /// The checks that are about the work itself, in the order of the protocol.
    fn check(&self, works: Vec<Tensors>) -> Vec<Result<Tensors, Verdict>> {
        let shape = self.shape();
        let fits = |w: &Tensors| w.iter().map(|t| (&t.name, &t.shape)).eq(shape.iter().map(|(name, s)| (name, s)));
        let sound = |work: Tensors| match () {
            () if !fits(&work) => Err(Verdict::WrongSchema),
            () if !work.all_finite() => Err(Verdict::NotFinite),
            () => Ok(work),
        };
        let works: Vec<_> = works.into_iter().map(sound).collect();
        let norms: Vec<f64> = works.iter().flatten().map(Tensors::norm).collect();
        let Some(median) = lower_median(&norms) else { return works };
        let judge = |work: Tensors| {
            let excessive = norm_is_excessive(work.norm(), norms.len(), median);
            if excessive { Err(Verdict::Norm) } else { Ok(work) }
        };
        works.into_iter().map(|work| work.and_then(judge)).collect()
    }
}

/// A stand-in for the hash of a block: one per window and phase.
pub fn block(phase: &str, window: u64) -> [u8; 32] {
    seed::seed(phase, &window)
}

/// What an honest miner has to publish.
fn published(
    run: &Run,
    engine: &mut Engine,
    work: &Work<'_>,
    optimizer: &mut Optimizer,
    (slice, base): (&Slice, &Base),
) -> Tensors {
    let mechanism = mechanism::of(run);
    let computed = compute(mechanism, engine, work, optimizer, &CancellationToken::new(), |_| ());
    mechanism.published(&computed.expect("a sound run trains").tensors, slice, base)
}

/// Runs `f` on all items, each engine on a part of them in a thread of its own. Results are in the order of the items.
pub(crate) fn share_out<I: Send, R: Send>(
    engines: &mut [Engine],
    items: Vec<I>,
    f: impl Fn(&mut Engine, I) -> R + Sync,
) -> Vec<R> {
    let part = items.len().div_ceil(engines.len());
    let mut items = items.into_iter();
    thread::scope(|scope| {
        let f = &f;
        let mut threads = Vec::new();
        for engine in engines {
            let mine: Vec<I> = items.by_ref().take(part).collect();
            threads.push(scope.spawn(move || mine.into_iter().map(|item| f(&mut *engine, item)).collect::<Vec<R>>()));
        }
        threads.into_iter().flat_map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    })
}
