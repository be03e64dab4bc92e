//! One subnet in this process: honest miners who move the base, and cheats who are watched.
//!
//! Everything that nodes would agree on is the protocol's own function; what lies between them, the bucket and
//! the chain, is left out. Cheats are never merged, as if nobody had paid them yet: all of them meet the same base.
//! The same arena gives the same figures, whatever the number of threads.

use std::thread;

use bistro_api::run::{Cosine, InnerOptimizer, Run};
use bistro_protocol::{
    check::{Verdict, lower_median, norm_is_excessive},
    mechanism::cosine::outer_step,
    merge::merge,
    page::Pages,
    seed,
    slice::{self, Slice, SliceOf},
    tensors::Tensors,
};
use bistro_worker::engine::{Engine, Optimizer, Work};
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
    base: Tensors,
    window: u64,
    /// Moments of the honest miners, who have the first uids.
    miners: Vec<Optimizer>,
    /// They have the uids after them.
    cheats: Vec<Cheater>,
}

/// What was published in one window.
pub struct Played {
    /// Which window.
    pub window: u64,
    /// The base that everybody started from.
    pub base: Tensors,
    /// The entries that had to be published.
    pub slice: Slice,
    /// By uid: what counts, or why it does not.
    pub works: Vec<Result<Tensors, Verdict>>,
}

impl<'a> Arena<'a> {
    /// Before the first window. `run` starts from a seed and pays by `cosine`.
    pub fn new(text: &'a Text, run: Run, miners: usize, cheats: &[Cheat]) -> Self {
        let pages = Pages::new(&run.dataset, text.len() as u64).expect("text enough for the run");
        let threads = thread::available_parallelism().map_or(1, |n| n.get());
        let engine = || Engine::new(&run.model, 256, run.dataset.sequence_length, 1).expect("a sound model");
        let engines: Vec<_> = (0..threads).map(|_| engine()).collect();
        let base = engines[0].initial(run.from.seed.expect("a run from a seed")).expect("drawn");
        let cheats = (1..).zip(cheats).map(|(number, cheat)| Cheater::new(*cheat, number)).collect();
        Self { text, run, pages, engines, base, window: 0, miners: vec![Optimizer::fresh(); miners], cheats }
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
        (self.miners.len()..).zip(self.cheats.iter().map(Cheater::cheat)).collect()
    }

    /// Bytes of entries that one miner publishes in a window.
    pub fn bytes(&self) -> usize {
        let shape = slice::shape(&self.base, self.cosine().slice_ratio);
        4 * shape.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>()
    }

    /// Mean loss of the base on held-out pages, in nats per byte.
    pub fn loss(&mut self) -> f64 {
        let total = (self.text.len() as u64 - 1) / (self.pages.tokens_per_page() - 1);
        let held_out: Vec<u64> = (self.pages.training()..total).take(HELD_OUT as usize).collect();
        let (text, run, pages, base) = (self.text, &self.run, &self.pages, &self.base);
        let losses = share_out(&mut self.engines, held_out, |engine, page| {
            engine.loss(base, &text.sequences(&run.dataset, pages, &[page])).expect("a finite loss")
        });
        losses.iter().sum::<f64>() / losses.len() as f64
    }

    /// One window: everybody publishes, what honest miners published moves the base.
    pub fn play(&mut self) -> Played {
        let window = self.window;
        let slice = self.slice();
        let honest = self.train(&slice);
        let cheats = self.cheat(&slice, &honest);
        let works = self.check(honest.into_iter().chain(cheats).collect());
        let before = self.base.clone();
        let admitted: Vec<&Tensors> = works.iter().take(self.miners.len()).filter_map(|w| w.as_ref().ok()).collect();
        if let Some(merged) = merge(&self.run.merge.rule, &admitted) {
            let cosine = self.run.mechanism.cosine.as_ref().expect("paid by cosine");
            outer_step(&mut self.base, &slice, &merged, cosine, &self.run.training);
        }
        self.window += 1;
        Played { window, base: before, slice, works }
    }

    /// The gradients of these uids on their own pages, on the slice: what a validator scores with.
    pub fn gradients(&mut self, played: &Played, uids: &[u16]) -> Vec<Tensors> {
        let own = uids.iter().map(|uid| self.own(played.window, *uid)).collect();
        share_out(&mut self.engines, own, |engine, sequences: Vec<Vec<u32>>| {
            played.slice.gather(&engine.gradient(&played.base, &sequences).expect("a finite gradient").1)
        })
    }

    /// What these uids should have published, if moments start fresh in every window: what an audit compares with.
    pub fn recompute(&mut self, played: &Played, uids: &[u16]) -> Vec<Tensors> {
        let own = uids.iter().map(|uid| self.own(played.window, *uid)).collect();
        let mut training = self.run.training.clone();
        training.inner_optimizer = InnerOptimizer::Fresh;
        share_out(&mut self.engines, own, |engine, sequences: Vec<Vec<u32>>| {
            let work = Work { base: &played.base, sequences: &sequences, training: &training, windows: played.window };
            played.slice.gather(&learn(engine, &work, &mut Optimizer::fresh()))
        })
    }

    fn cosine(&self) -> &Cosine {
        self.run.mechanism.cosine.as_ref().expect("paid by cosine")
    }

    fn slice(&self) -> Slice {
        let reveal = block("reveal", self.window);
        let ratio = self.cosine().slice_ratio;
        Slice::derive(
            SliceOf { netuid: NETUID, run: self.run.id, window: self.window, reveal: &reveal, ratio },
            &self.base,
        )
    }

    /// Sequences of a uid's own pages.
    fn own(&self, window: u64, uid: u16) -> Vec<Vec<u32>> {
        let order = seed::pages(NETUID, self.run.id, window, &block("start", window));
        let numbers = self.pages.own(&order, uid, self.run.dataset.pages_per_window);
        self.text.sequences(&self.run.dataset, &self.pages, &numbers)
    }

    /// What the honest miners publish.
    fn train(&mut self, slice: &Slice) -> Vec<Tensors> {
        let own: Vec<_> = (0..self.miners.len()).map(|uid| self.own(self.window, uid as u16)).collect();
        let (base, training, windows) = (&self.base, &self.run.training, self.window);
        let tasks = self.miners.iter_mut().zip(own).collect();
        share_out(&mut self.engines, tasks, |engine, (optimizer, sequences): (&mut Optimizer, Vec<Vec<u32>>)| {
            slice.gather(&learn(engine, &Work { base, sequences: &sequences, training, windows }, optimizer))
        })
    }

    /// What the cheats publish, who have seen what the honest miners published.
    fn cheat(&mut self, slice: &Slice, honest: &[Tensors]) -> Vec<Tensors> {
        let published: Vec<&Tensors> = honest.iter().collect();
        let uids = self.miners.len()..self.miners.len() + self.cheats.len();
        let own: Vec<_> = uids.map(|uid| self.own(self.window, uid as u16)).collect();
        let other = self.own(self.window, NOBODY);
        let (base, training, windows) = (&self.base, &self.run.training, self.window);
        let tasks = self.cheats.iter_mut().zip(own).collect();
        share_out(&mut self.engines, tasks, |engine, (cheater, own): (&mut Cheater, Vec<Vec<u32>>)| {
            let view = View { base, slice, training, windows, own: &own, other: &other, published: &published };
            cheater.publish(engine, &view).expect("cheats compute as others do")
        })
    }

    /// The checks that are about the work itself, in the order of the protocol.
    fn check(&self, works: Vec<Tensors>) -> Vec<Result<Tensors, Verdict>> {
        let shape = slice::shape(&self.base, self.cosine().slice_ratio);
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

fn learn(engine: &mut Engine, work: &Work<'_>, optimizer: &mut Optimizer) -> Tensors {
    let trained = engine.train(work, optimizer, &CancellationToken::new(), |_| ()).expect("a sound run trains");
    trained.parameters.minus(work.base)
}

/// Runs `f` on all items, each engine on a part of them in a thread of its own. Results are in the order of the items.
fn share_out<I: Send, R: Send>(
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
