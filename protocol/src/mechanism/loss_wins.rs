//! `lossWins`: miners publish whole models of their own, and are paid for the pages on which theirs are the best.
//!
//! ```text
//! margin(age)      = max(floor, epsilon * (1 - age / decayBlocks))
//! y beats older x  on a page: loss_y < (1 - margin(age_x)) * loss_x
//! a page's winner  : the oldest competitive model, or whoever beats it, or whoever beats that one, in the order of age
//! competitive      : mean loss below (1 - floor) * that of every older competitive model of others, also of those that
//!                    their owners replaced only after it came
//! raw_i            = pages that i won / pages that somebody won
//! ```
//!
//! The age of a model counts from the block in which its hotkey committed itself to it on the chain, before anybody could
//! read it; of two in the same block the lower uid is the older. Only competitive models are paid: else a copy would
//! win half of the pages against the models that the original beats, and share its pay.
//!
//! Former models count too: whoever copies a model before its owner replaces it by a better one holds an older
//! commitment than that better one, and would win the pages on which progress was less than the margin. A copy earned 0.18
//! of an honest income so. Against the model that it copied it wins nothing.
//!
//! A page has one winner. If every pair were compared, as elsewhere, a row of weak models, each a little better than the one
//! before, would win from each other what the best one wins from all of them: six of them had three quarters of the pay.
//!
//! The margin falls, so that nobody who was once the first is safe from small progress for ever, but never to 0: a copy
//! with a little noise is better on half of the pages.

use bistro_api::mechanism::LossWins;
use codec::{Decode, Encode};

use crate::{hotkey::Hotkey, object::Agreement};

/// What every commitment on the chain starts with, so that nobody takes another program's for one.
const MAGIC: [u8; 6] = *b"bistro";

/// A model and its losses.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// Whose it is.
    pub uid: u16,
    /// Blocks since the commitment to it.
    pub age: u64,
    /// Blocks since its owner replaced it by another one; `None` while it stands.
    pub replaced: Option<u64>,
    /// Its loss on each test page, in nats per token; infinite where it does not compute.
    pub losses: Vec<f64>,
}

impl Contender {
    fn is_older_than(&self, other: &Self) -> bool {
        (other.age, self.uid) < (self.age, other.uid)
    }

    /// Whether `other` came while it stood: who came later has its successor to beat.
    fn stood_before(&self, other: &Self) -> bool {
        self.is_older_than(other) && self.replaced.is_none_or(|replaced| other.age > replaced)
    }

    /// Mean over the pages.
    pub fn mean(&self) -> f64 {
        self.losses.iter().sum::<f64>() / self.losses.len().max(1) as f64
    }
}

/// The share of its loss by which a model of this age must be beaten.
pub fn margin(settings: &LossWins, age: u64) -> f64 {
    let left = 1.0 - age as f64 / f64::from(settings.decay_blocks.max(1));
    settings.floor.value().max(settings.epsilon.value() * left)
}

/// Whether each model is better by more than the floor than every competitive one of others that stood before it, in the
/// order given. Whoever is not competitive keeps nobody else from being so: else a model and a former one of another owner
/// could rule each other out, and leave the field to the worst.
pub fn competitive(contenders: &[Contender], settings: &LossWins) -> Vec<bool> {
    let most = 1.0 - settings.floor.value();
    let means: Vec<f64> = contenders.iter().map(Contender::mean).collect();
    let mut by_age: Vec<usize> = (0..contenders.len()).collect();
    by_age.sort_by_key(|i| (std::cmp::Reverse(contenders[*i].age), contenders[*i].uid));
    let mut competitive = vec![false; contenders.len()];
    for at in by_age {
        let own = &contenders[at];
        let mut older =
            contenders.iter().enumerate().filter(|(i, c)| competitive[*i] && c.uid != own.uid && c.stood_before(own));
        competitive[at] = older.all(|(i, _)| means[at] < most * means[i]);
    }
    competitive
}

/// Raw scores in the order of the contenders; they sum to 1, or are all 0 where nobody computes. All have the same pages.
/// A page goes to one competitive model that stands: the oldest has it, until a younger one beats who has it.
pub fn raw_scores(contenders: &[Contender], settings: &LossWins) -> Vec<f64> {
    let competitive = competitive(contenders, settings);
    let stands = |i: &usize| competitive[*i] && contenders[*i].replaced.is_none();
    let mut rivals: Vec<usize> = (0..contenders.len()).filter(stands).collect();
    rivals.sort_by_key(|i| (std::cmp::Reverse(contenders[*i].age), contenders[*i].uid));
    let mut wins = vec![0u64; contenders.len()];
    for page in 0..contenders.iter().map(|c| c.losses.len()).min().unwrap_or(0) {
        let loss = |i: usize| contenders[i].losses[page];
        let beats = |younger: usize, older: usize| {
            loss(younger) < (1.0 - margin(settings, contenders[older].age)) * loss(older)
        };
        let best = rivals.iter().copied().reduce(|best, younger| if beats(younger, best) { younger } else { best });
        if let Some(best) = best.filter(|best| loss(*best).is_finite()) {
            wins[best] += 1;
        }
    }
    let all = wins.iter().sum::<u64>().max(1) as f64;
    wins.into_iter().map(|won| won as f64 / all).collect()
}

/// What a hotkey commits itself to on the chain before it publishes a model: which one, without saying anything of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Commitment {
    /// The run that it is for.
    pub run: u32,
    /// The window that it is published in.
    pub window: u64,
    /// Binds the file to the hotkey, so that nobody can commit to another's by repeating its bytes.
    pub binding: [u8; 32],
}

impl Commitment {
    /// The commitment of `hotkey` to the file with this digest, published in `window`.
    pub fn of(agreement: &Agreement, hotkey: &Hotkey, window: u64, file: &[u8; 32]) -> Self {
        let Agreement { genesis, netuid, run, run_digest } = agreement;
        let parts = (genesis, netuid, run, run_digest, window, hotkey.0, file).encode();
        Self { run: *run, window, binding: blake3::derive_key("bistro/v1/commitment", &parts) }
    }

    /// Whether it is the commitment of `hotkey` to this file.
    pub fn binds(&self, agreement: &Agreement, hotkey: &Hotkey, file: &[u8; 32]) -> bool {
        *self == Self::of(agreement, hotkey, self.window, file)
    }

    /// The bytes on the chain.
    pub fn to_bytes(self) -> Vec<u8> {
        (MAGIC, self).encode()
    }

    /// Reads the bytes on the chain; `None` where they are something else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let (magic, commitment) = <([u8; 6], Self)>::decode(&mut rest).ok()?;
        (magic == MAGIC && rest.is_empty()).then_some(commitment)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{hotkey::tests::keypair, object::tests::agreement};

    fn settings() -> LossWins {
        let settings = serde_json::json!({ "testPages": 4, "epsilon": "0.01", "floor": "0.001", "decayBlocks": 1000 });
        serde_json::from_value(settings).expect("sound settings")
    }

    fn contender(uid: u16, age: u64, losses: [f64; 4]) -> Contender {
        Contender { uid, age, replaced: None, losses: losses.into() }
    }

    #[test]
    fn the_margin_falls_to_its_floor() {
        let margins = [0, 500, 900, 1000, u64::MAX].map(|age| margin(&settings(), age));
        assert_eq!(margins, [0.01, 0.005, 0.001, 0.001, 0.001]);
    }

    #[test]
    fn pages_are_won_by_more_than_the_margin_of_the_older() {
        let older = contender(0, 500, [2.0; 4]);
        let younger = contender(1, 100, [1.98, 1.989, 1.991, 1.5]);
        assert_eq!(raw_scores(&[older.clone(), younger.clone()], &settings()), [0.25, 0.75]);
        assert_eq!(raw_scores(&[younger, older], &settings()), [0.75, 0.25], "whoever is named first");
    }

    #[test]
    fn copies_and_noise_win_nothing_from_the_original_or_with_it() {
        let original = contender(3, 900, [2.0, 2.1, 1.9, 2.0]);
        let weak = contender(0, 990, [2.5; 4]);
        let copy = contender(1, 100, [2.0, 2.1, 1.9, 2.0]);
        let noisy = contender(2, 100, [1.995, 2.1, 1.899, 2.001]);
        let scores = raw_scores(&[weak, copy, noisy, original], &settings());
        assert_eq!(scores, [0.0, 0.0, 0.0, 1.0]);
    }

    /// The owner has gone on; the copy is now older than what it has become.
    #[test]
    fn a_copy_of_a_former_model_wins_nothing() {
        let now = contender(0, 100, [1.99, 1.995, 1.98, 1.95]);
        let copy = contender(1, 200, [2.0; 4]);
        let former = |uid, replaced| Contender { replaced: Some(replaced), ..contender(uid, 300, [2.0; 4]) };
        let score = |all: &[Contender]| raw_scores(all, &settings());
        assert_eq!(score(&[now.clone(), copy.clone()]), [0.5, 0.5], "as if the copy were the older one");
        assert_eq!(score(&[now.clone(), copy.clone(), former(0, 100)]), [1.0, 0.0, 0.0]);
        assert_eq!(score(&[now.clone(), copy.clone(), former(0, 200)]), [0.5, 0.5, 0.0], "it stood no more");
        assert_eq!(score(&[now.clone(), copy, former(1, 200)]), [0.5, 0.5, 0.0], "nobody is measured by its own");
        let honest = contender(1, 200, [1.9; 4]);
        assert_eq!(score(&[now, honest, former(0, 100)]), [0.0, 1.0, 0.0], "better work is no copy");
    }

    /// One operator commits to a row of models, each a little better than the one before; then somebody trains.
    #[test]
    fn a_row_of_weak_models_has_nothing_beside_a_good_one() {
        let weak = (0..6).map(|i| contenders_of(i, 900 - u64::from(i), 5.0 - 0.1 * f64::from(i)));
        let all: Vec<_> = weak.chain([contenders_of(9, 10, 3.0)]).collect();
        assert_eq!(raw_scores(&all, &settings()), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    fn contenders_of(uid: u16, age: u64, loss: f64) -> Contender {
        contender(uid, age, [loss; 4])
    }

    /// Progress has become less than the floor: each is no better than what the other had, and somebody is paid all the same.
    #[test]
    fn former_models_do_not_rule_everybody_out() {
        let base = contender(9, 1000, [3.0; 4]);
        let former =
            |uid, age, replaced, loss| Contender { replaced: Some(replaced), ..contender(uid, age, [loss; 4]) };
        let all = [
            base,
            contender(0, 100, [2.399; 4]),
            contender(1, 200, [2.4; 4]),
            former(0, 400, 100, 2.4),
            former(1, 300, 200, 2.3995),
        ];
        assert_eq!(raw_scores(&all, &settings()), [0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    /// Two keys with one model, committed to in one block, earn what one would.
    #[test]
    fn twins_are_one() {
        let one = contender(1, 100, [1.5; 4]);
        let two = contender(2, 100, [1.5; 4]);
        let other = contender(0, 200, [1.6, 1.4, 1.6, 1.6]);
        let alone = raw_scores(&[other.clone(), one.clone()], &settings());
        assert_eq!(alone, [0.25, 0.75]);
        assert_eq!(raw_scores(&[other, one, two], &settings()), [0.25, 0.75, 0.0]);
    }

    #[test]
    fn few_equal_and_broken_models_are_scored() {
        assert!(raw_scores(&[], &settings()).is_empty());
        assert_eq!(raw_scores(&[contender(0, 1, [9.0; 4])], &settings()), [1.0]);
        let broken = |uid| contender(uid, u64::from(uid), [f64::INFINITY; 4]);
        assert_eq!(raw_scores(&[broken(0)], &settings()), [0.0]);
        assert_eq!(raw_scores(&[broken(0), broken(1)], &settings()), [0.0, 0.0]);
        assert_eq!(raw_scores(&[contender(0, 9, [2.0; 4]), broken(1)], &settings()), [1.0, 0.0]);
        assert_eq!(raw_scores(&[contender(0, 1, [2.0; 4]), broken(9)], &settings()), [1.0, 0.0]);
        let equal: Vec<_> = (0..3).map(|uid| contender(uid, 7, [2.0; 4])).collect();
        assert_eq!(raw_scores(&equal, &settings()), [1.0, 0.0, 0.0], "the oldest has all");
    }

    proptest! {
        /// However many younger models that are no better by the floor come along, nobody else earns less.
        #[test]
        fn latecomers_that_are_no_better_change_nothing(
            losses in proptest::collection::vec(proptest::array::uniform4(1.0f64..3.0), 1..5),
            noise in proptest::collection::vec(0.9995f64..1.5, 1..5),
        ) {
            let honest: Vec<_> =
                losses.iter().enumerate().map(|(i, l)| contender(i as u16, 100 + i as u64, *l)).collect();
            let mut all = honest.clone();
            for (i, noise) in noise.iter().enumerate() {
                let copied = &honest[i % honest.len()];
                let losses = copied.losses.iter().map(|loss| loss * noise).collect();
                all.push(Contender { uid: 100 + i as u16, age: 50, replaced: None, losses });
            }
            let before = raw_scores(&honest, &settings());
            prop_assert!((before.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert_eq!(&raw_scores(&all, &settings())[..honest.len()], &before[..]);
        }

        #[test]
        fn foreign_bytes_are_no_commitment(bytes: Vec<u8>) {
            prop_assert_eq!(Commitment::from_bytes(&bytes), None);
        }
    }

    #[test]
    fn a_commitment_binds_one_file_of_one_hotkey() {
        let hotkey = Hotkey::from(&keypair(1));
        let commitment = Commitment::of(&agreement(), &hotkey, 7, &[5; 32]);
        assert_eq!(Commitment::from_bytes(&commitment.to_bytes()), Some(commitment));
        assert!(commitment.binds(&agreement(), &hotkey, &[5; 32]));
        assert!(!commitment.binds(&agreement(), &hotkey, &[6; 32]));
        assert!(!commitment.binds(&agreement(), &Hotkey::from(&keypair(2)), &[5; 32]));
        assert!(!Commitment { window: 8, ..commitment }.binds(&agreement(), &hotkey, &[5; 32]));
        let mut longer = commitment.to_bytes();
        longer.push(0);
        assert_eq!(Commitment::from_bytes(&longer), None);
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn the_bytes_on_the_chain_are_pinned() {
        let commitment = Commitment::of(&agreement(), &Hotkey([9; 32]), 7, &[5; 32]);
        assert_eq!(
            hex::encode(commitment.to_bytes()),
            "62697374726f0100000007000000000000001468ab55d1318f0bbb8d479ff5474964f4e9cc01a52338d6e933abab6e2efaaf"
        );
    }
}
