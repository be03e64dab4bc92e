//! A subnet without a common base in this process: whoever trains has a model of its own, and cheats live on those of others.
//!
//! As in [`crate::arena`], everything that nodes would agree on is the protocol's own function; bucket and chain are left out,
//! but for the blocks in which everybody commits.

use std::collections::BTreeMap;

use bistro_api::{Run, mechanism::LossWins, settings::Scoring};
use bistro_protocol::{
    hotkey::Hotkey,
    mechanism::{
        self, Mechanism,
        loss_wins::{self, Contender, margin},
    },
    page::Pages,
    score::{Book, Outcome, Rates},
    seed,
    tensors::{Tensor, Tensors},
};
use bistro_worker::{
    engine::{Engine, Optimizer, Work},
    mechanism::loss_or_infinity,
};
use tokio_util::sync::CancellationToken;

use crate::{
    arena::{block, share_out},
    text::Text,
};

/// Blocks of one window.
const WINDOW: u64 = 40;
/// The block of a window in which whoever trained for all of it commits.
const TRAINED: u64 = 20;
/// Noises that a cheat tries; it takes the one that is best on the held-out pages.
const NOISES: u64 = 8;
/// Former models of each that are looked at.
const FORMER: usize = 3;
/// Noise of a cheat, as a part of each value.
const NOISE: f32 = 0.002;

/// How somebody comes to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Player {
    /// Trains a model of its own from the base on.
    Honest,
    /// Takes the best model once, and trains it as an honest miner does: allowed, and what `startFrom: best` is for.
    FromBest,
    /// Publishes the best model of the window before under its own hotkey.
    Copy,
    /// The same with the noise that helps most.
    CopyNoise,
    /// The same, but only when the margin of the best has fallen to its floor.
    Farmer,
    /// Gets the bytes of the first honest miner before anybody else and commits to them in the same block.
    Twin,
    /// Trains for half of the steps.
    HalfSteps,
    /// Publishes the base.
    Base,
    /// A key of an operator who trains one model with half of the steps and shows how it was after so many windows under this
    /// key: in a row of such keys each has a better model than the one before.
    Row(u64),
}

impl Player {
    /// All that are watched beside honest miners.
    pub const WATCHED: [Self; 7] =
        [Self::FromBest, Self::HalfSteps, Self::Base, Self::Copy, Self::CopyNoise, Self::Farmer, Self::Twin];

    /// The keys of one operator.
    pub const ROW: [Self; 6] = [Self::Row(2), Self::Row(4), Self::Row(6), Self::Row(8), Self::Row(10), Self::Row(12)];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::FromBest => "from-best",
            Self::Copy => "copy",
            Self::CopyNoise => "copy-noise",
            Self::Farmer => "epsilon-farmer",
            Self::Twin => "twin",
            Self::HalfSteps => "half-steps",
            Self::Base => "base",
            Self::Row(_) => "row",
        }
    }

    /// Whether it trains in this window.
    fn trains(self, window: u64) -> bool {
        match self {
            Self::Honest | Self::FromBest | Self::HalfSteps => true,
            Self::Row(windows) => window < windows,
            Self::Copy | Self::CopyNoise | Self::Farmer | Self::Twin | Self::Base => false,
        }
    }

    /// Whether it shows what it has in this window, if that is better than what it showed before.
    fn shows(self, window: u64) -> bool {
        if let Self::Row(windows) = self { window + 1 == windows } else { true }
    }
}

/// A model and the block in which its owner committed to it.
#[derive(Clone)]
struct Shown {
    model: Tensors,
    block: u64,
}

struct Contestant {
    player: Player,
    /// What it trains.
    model: Option<Tensors>,
    optimizer: Optimizer,
    /// Loss that it must fall below to publish.
    best: f64,
    shown: Option<Shown>,
    /// What it has replaced, with the blocks in which it did.
    former: Vec<(Shown, u64)>,
}

impl Contestant {
    fn show(&mut self, shown: Shown) {
        let until = shown.block;
        let before = self.shown.replace(shown).filter(|before| before.block < until);
        self.former.extend(before.map(|before| (before, until)));
    }
}

/// The subnet between two windows.
pub struct League<'a> {
    text: &'a Text,
    run: Run,
    pages: Pages,
    engines: Vec<Engine>,
    base: Tensors,
    window: u64,
    contestants: Vec<Contestant>,
    book: Book,
    /// Sum of the shares of all weights so far, by uid.
    shares: Vec<f64>,
    /// Windows in which a uid won most, and those in which it had no weight then.
    led: Vec<(u64, u64)>,
}

impl<'a> League<'a> {
    /// Before the first window. `run` starts from a seed and has the mechanism `lossWins`.
    pub fn new(text: &'a Text, run: Run, players: &[Player]) -> Self {
        let pages = Pages::new(&run.dataset, text.len() as u64).expect("text enough for the run");
        let engine = |_| Engine::new(&run.model, 256, run.dataset.sequence_length, 1).expect("a sound model");
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let engines: Vec<_> = (0..threads).map(engine).collect();
        let base = engines[0].initial(run.from.seed.expect("a run from a seed")).expect("drawn");
        let contestant = |player: &Player| Contestant {
            player: *player,
            model: None,
            optimizer: Optimizer::fresh(),
            best: f64::INFINITY,
            shown: None,
            former: Vec::new(),
        };
        let contestants: Vec<_> = players.iter().map(contestant).collect();
        let (shares, led) = (vec![0.0; players.len()], vec![(0, 0); players.len()]);
        Self { text, run, pages, engines, base, window: 0, contestants, book: Book::default(), shares, led }
    }

    /// Mean share of all weights over the windows that were played, by uid.
    pub fn shares(&self) -> Vec<f64> {
        self.shares.iter().map(|share| share / self.window.max(1) as f64).collect()
    }

    /// By uid: windows in which its model won most, and how many of these it had no weight in.
    pub fn led(&self) -> &[(u64, u64)] {
        &self.led
    }

    /// The lowest loss of a published model on the held-out pages, in nats per byte.
    pub fn loss(&mut self) -> f64 {
        let models =
            self.contestants.iter().filter_map(|c| c.shown.as_ref()).map(|shown| shown.model.clone()).collect();
        self.held_out(models).into_iter().fold(f64::INFINITY, f64::min)
    }

    /// One window: everybody trains or copies, and is scored.
    pub fn play(&mut self) {
        let best = self.leader().map(|uid| self.contestants[uid].shown.clone().expect("it leads"));
        self.train(best.as_ref());
        self.copy(best.as_ref());
        self.score();
        self.window += 1;
    }

    fn settings(&self) -> &LossWins {
        match mechanism::of(&self.run) {
            Mechanism::LossWins(settings) => settings,
            other => panic!("{} has a common base", other.name()),
        }
    }

    /// Whose model won most so far.
    fn leader(&self) -> Option<usize> {
        let averages: Vec<f64> = (0..self.contestants.len()).map(|uid| self.book.average(uid as u16)).collect();
        let best = (0..averages.len()).max_by(|a, b| averages[*a].total_cmp(&averages[*b]))?;
        (averages[best] > 0.0).then_some(best)
    }

    /// Those who train do so for one window, and publish what has become better.
    fn train(&mut self, best: Option<&Shown>) {
        let (text, run, pages, base, window) = (self.text, &self.run, &self.pages, &self.base, self.window);
        let order = seed::pages(1, run.id, window, &block("start", window));
        let tasks = self.contestants.iter_mut().enumerate().filter(|(_, c)| c.player.trains(window)).collect();
        share_out(&mut self.engines, tasks, |engine, (uid, contestant): (usize, &mut Contestant)| {
            // The keys of one operator have one model together.
            let uid = if matches!(contestant.player, Player::Row(_)) { u16::MAX } else { uid as u16 };
            let own = pages.own(&order, uid, run.dataset.pages_per_window);
            let mut sequences = text.sequences(&run.dataset, pages, &own);
            let mut training = run.training.clone();
            if matches!(contestant.player, Player::HalfSteps | Player::Row(_)) {
                sequences.truncate(sequences.len() / 2);
                training.inner_steps /= 2;
            }
            let start = match (&contestant.model, contestant.player, best) {
                (Some(model), ..) => model.clone(),
                (None, Player::FromBest, Some(best)) => best.model.clone(),
                (None, Player::FromBest, None) => return,
                (None, ..) => base.clone(),
            };
            let work = Work { base: &start, sequences: &sequences, training: &training, windows: window };
            let never = CancellationToken::new();
            let trained = engine.train(&work, &mut contestant.optimizer, &never, |_| ()).expect("a sound run trains");
            contestant.model = Some(trained.parameters);
        });
        let models = self.contestants.iter().filter(|c| c.model.is_some());
        let losses = self.held_out(models.filter_map(|c| c.model.clone()).collect());
        let floor = self.settings().floor.value();
        let trained = self.contestants.iter_mut().enumerate().filter(|(_, c)| c.model.is_some());
        for ((uid, contestant), loss) in trained.zip(losses) {
            if contestant.player.shows(window) && loss < (1.0 - floor) * contestant.best {
                contestant.best = loss;
                // Nobody is always the first to be ready.
                let jitter = seed::seed("jitter", &(window, uid as u64))[0] % 4;
                let block = WINDOW * window + TRAINED + u64::from(jitter);
                let model = contestant.model.clone().expect("it has trained one");
                contestant.show(Shown { model, block });
            }
        }
    }

    /// Those who live on others' models publish theirs, at the first block of the window, when those can be read.
    fn copy(&mut self, best: Option<&Shown>) {
        let now = WINDOW * self.window;
        let settled = best.is_some_and(|best| {
            let settings = self.settings();
            margin(settings, now.saturating_sub(best.block)) <= settings.floor.value()
        });
        let twin = self.contestants.iter().find(|c| c.player == Player::Honest).and_then(|c| c.shown.clone());
        for uid in 0..self.contestants.len() {
            let player = self.contestants[uid].player;
            let fresh = |model: &Tensors| Shown { model: model.clone(), block: now + 1 };
            let shown = match (player, best) {
                (Player::Base, _) if self.window == 0 => Some(fresh(&self.base)),
                (Player::Twin, _) => twin.clone(),
                (Player::Copy, Some(best)) => Some(fresh(&best.model)),
                (Player::CopyNoise, Some(best)) => Some(fresh(&self.noisy(&best.model, uid))),
                (Player::Farmer, Some(best)) if settled => Some(fresh(&self.noisy(&best.model, uid))),
                _ => None,
            };
            if let Some(shown) = shown {
                self.contestants[uid].show(shown);
            }
        }
    }

    /// The best of some models that differ from this one by noise.
    fn noisy(&mut self, model: &Tensors, uid: usize) -> Tensors {
        let noise = |number: u64| {
            let key = seed::seed("noise", &(self.window, uid as u64, number));
            let mut bytes = blake3::Hasher::new_keyed(&key).finalize_xof();
            let tensors = model.iter().map(|tensor| {
                let mut signs = vec![0; tensor.data.len()];
                bytes.fill(&mut signs);
                let value = |(x, sign): (&f32, u8)| x * (1.0 + NOISE * (f32::from(sign) / 127.5 - 1.0));
                Tensor { data: tensor.data.iter().zip(signs).map(value).collect(), ..tensor.clone() }
            });
            Tensors::new(tensors.collect()).expect("names and shapes are a model's")
        };
        let mut models: Vec<Tensors> = (0..NOISES).map(noise).collect();
        let losses = self.held_out(models.clone());
        let best = (0..models.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).expect("some");
        models.swap_remove(best)
    }

    fn held_out(&mut self, models: Vec<Tensors>) -> Vec<f64> {
        let sequences = self.text.sequences(&self.run.dataset, &self.pages, &self.pages.displayed());
        share_out(&mut self.engines, models, |engine, model: Tensors| {
            loss_or_infinity(engine, &model, &sequences).expect("it computes")
        })
    }

    /// As in the role `validator`, which draws everybody.
    fn score(&mut self) {
        let window = self.window;
        let scoring = Scoring::default();
        let rates = Rates::from(&scoring);
        let hotkey = |uid: usize| Hotkey(seed::seed("hotkey", &(uid as u64)));
        let neurons = self.contestants.iter().enumerate().map(|(uid, c)| (uid as u16, hotkey(uid), c.shown.is_some()));
        let neurons: Vec<_> = neurons.collect();
        self.book.observe(window, &neurons, rates);

        let seed = seed::test_pages(1, self.run.id, window, &block("end", window));
        let (text, run, pages) = (self.text, &self.run, &self.pages);
        let test = pages.test(&seed, self.settings().test_pages, &[]);
        let shown = self.contestants.iter().enumerate().filter_map(|(uid, c)| Some((uid as u16, c.shown.as_ref()?)));
        let shown: BTreeMap<u16, &Shown> = shown.collect();
        let blocks: Vec<(u16, u64)> = shown.iter().map(|(uid, shown)| (*uid, shown.block)).collect();
        // As validators do: only what somebody else can have copied in its time.
        let copied = |uid: u16, former: &(Shown, u64)| {
            blocks.iter().any(|(other, block)| *other != uid && (former.0.block..former.1).contains(block))
        };
        let mut former: Vec<(u16, &Shown, u64)> = Vec::new();
        for (uid, contestant) in self.contestants.iter().enumerate() {
            let kept = contestant.former.iter().rev().filter(|former| copied(uid as u16, former)).take(FORMER);
            former.extend(kept.map(|(shown, until)| (uid as u16, shown, *until)));
        }
        let all = shown.values().copied().chain(former.iter().map(|(_, shown, _)| *shown)).collect();
        let mut losses = share_out(&mut self.engines, all, |engine, shown: &Shown| {
            let loss = |page: &u64| {
                let sequences = text.sequences(&run.dataset, pages, &[*page]);
                loss_or_infinity(engine, &shown.model, &sequences).expect("it computes")
            };
            test.iter().map(loss).collect::<Vec<f64>>()
        });
        let age = |block: u64| (WINDOW * (window + 1)).saturating_sub(block);
        let former_losses = losses.split_off(shown.len());
        let standing = shown.iter().zip(losses).map(|((uid, shown), losses)| Contender {
            uid: *uid,
            age: age(shown.block),
            replaced: None,
            losses,
        });
        let former = former.iter().zip(former_losses).map(|((uid, shown, until), losses)| Contender {
            uid: *uid,
            age: age(shown.block),
            replaced: Some(age(*until)),
            losses,
        });
        let mut contenders: Vec<_> = standing.chain(former).collect();
        let raws = loss_wins::raw_scores(&contenders, self.settings());
        contenders.truncate(shown.len());
        let outcomes: Vec<_> = contenders.iter().zip(&raws).map(|(c, raw)| (c.uid, Outcome::Scored(*raw))).collect();
        self.book.record(window, &outcomes, rates);

        let weights = self.book.weights(scoring.power.value());
        let total: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
        for (uid, weight) in &weights {
            self.shares[usize::from(*uid)] += f64::from(*weight) / total;
        }
        let led = contenders.iter().zip(&raws).filter(|(_, raw)| **raw > 0.0).max_by(|a, b| a.1.total_cmp(b.1));
        if let Some((leader, _)) = led {
            let (windows, unpaid) = &mut self.led[usize::from(leader.uid)];
            *windows += 1;
            *unpaid += u64::from(!weights.iter().any(|(uid, weight)| *uid == leader.uid && *weight > 0));
        }
    }
}
