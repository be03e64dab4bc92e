//! Epochs: how weights become incentive, by Yuma consensus.
//!
//! The rule is that of subtensor's documentation ("Yuma Consensus", docs/consensus.md in opentensor/subtensor).
//! With S_i the share of stake of validator i among those that count, W_ij its weights normalised to 1:
//!
//! ```text
//! consensus_j       = the largest w such that validators holding at least kappa of the stake set W_ij >= w
//! clipped_ij        = min(W_ij, consensus_j)
//! rank_j            = sum_i S_i * clipped_ij
//! incentive_j       = rank_j / sum_k rank_k
//! validator_trust_i = sum_j clipped_ij
//! dividend_i        = S_i * validator_trust_i, normalised (mainnet smooths this over epochs by bonds)
//! ```
//!
//! A validator counts when it holds a permit, is active and has set weights. As on mainnet its own column is
//! masked, except for the subnet's owner, and weights older than the registration that they point at are
//! ignored. Proportions are stored as u16, 65535 = 1, rounded down.

use super::pallet::*;

/// Alpha that one block emits, in rao, of which miners and validators share 41% each.
const EMISSION_PER_BLOCK: f64 = 1e9;
const SHARE_OF_EACH_SIDE: f64 = 0.41;

/// What the rule needs to know of one uid.
#[derive(Clone, Debug, Default)]
pub struct Neuron {
    /// Alpha in rao.
    pub stake: u64,
    /// Whether its weights count: it holds a permit and set weights recently.
    pub votes: bool,
    /// The block of its last `set_weights` (or registration).
    pub last_update: u64,
    /// The block of its registration.
    pub registered: u64,
    /// (uid, weight), in any scale.
    pub weights: Vec<(u16, u16)>,
}

/// What comes out, one proportion per uid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub consensus: Vec<f64>,
    pub incentive: Vec<f64>,
    pub dividends: Vec<f64>,
    pub validator_trust: Vec<f64>,
}

/// A validator whose weights count: its uid, stake and normalised row.
struct Voter {
    uid: usize,
    stake: u64,
    row: Vec<f64>,
}

/// The consensus rule of the module's page. `owner` is the uid whose self-weight counts; `kappa` in 1/65535.
pub fn consensus(neurons: &[Neuron], owner: Option<u16>, kappa: u16) -> Outcome {
    let size = neurons.len();
    let mut voters = voters(neurons, owner);
    let total: u128 = voters.iter().map(|voter| u128::from(voter.stake)).sum();
    let mut outcome = Outcome {
        consensus: vec![0.0; size],
        incentive: vec![0.0; size],
        dividends: vec![0.0; size],
        validator_trust: vec![0.0; size],
    };
    if total == 0 {
        return outcome;
    }
    for (uid, median) in outcome.consensus.iter_mut().enumerate() {
        *median = weighted_median(&voters, uid, total, kappa);
    }
    for voter in &mut voters {
        let share = voter.stake as f64 / total as f64;
        let mut trust = 0.0;
        for ((weight, median), rank) in voter.row.iter().zip(&outcome.consensus).zip(&mut outcome.incentive) {
            let clipped = weight.min(*median);
            *rank += share * clipped;
            trust += clipped;
        }
        outcome.validator_trust[voter.uid] = trust;
        outcome.dividends[voter.uid] = share * trust;
    }
    normalise(&mut outcome.incentive);
    normalise(&mut outcome.dividends);
    outcome
}

/// The `count` uids with the largest stake above zero; of equals the lower uid.
pub fn top_stakes(stakes: &[u64], count: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..stakes.len()).filter(|uid| stakes[*uid] > 0).collect();
    order.sort_by_key(|uid| (std::cmp::Reverse(stakes[*uid]), *uid));
    let mut top = vec![false; stakes.len()];
    for uid in order.into_iter().take(count) {
        top[uid] = true;
    }
    top
}

fn voters(neurons: &[Neuron], owner: Option<u16>) -> Vec<Voter> {
    let voter = |(uid, neuron): (usize, &Neuron)| {
        if !neuron.votes || neuron.stake == 0 {
            return None;
        }
        let mut row = vec![0.0; neurons.len()];
        for (to, weight) in &neuron.weights {
            let to = usize::from(*to);
            let is_own = to == uid && owner.map(usize::from) != Some(uid);
            // A newcomer on this uid was not there when the weight was set.
            let is_stale = neurons.get(to).is_none_or(|target| neuron.last_update <= target.registered);
            if !is_own && !is_stale {
                row[to] = f64::from(*weight);
            }
        }
        normalise(&mut row);
        let counts = row.iter().any(|weight| *weight > 0.0);
        counts.then_some(Voter { uid, stake: neuron.stake, row })
    };
    neurons.iter().enumerate().filter_map(voter).collect()
}

fn weighted_median(voters: &[Voter], uid: usize, total: u128, kappa: u16) -> f64 {
    let mut votes: Vec<(f64, u64)> = voters.iter().map(|voter| (voter.row[uid], voter.stake)).collect();
    votes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut held: u128 = 0;
    for (weight, stake) in votes {
        held += u128::from(stake);
        // Integers: whether stakes hold exactly half must not depend on rounding.
        if held * u128::from(u16::MAX) >= total * u128::from(kappa) {
            return weight;
        }
    }
    0.0
}

fn normalise(values: &mut [f64]) {
    let sum: f64 = values.iter().sum();
    if sum > 0.0 {
        values.iter_mut().for_each(|value| *value /= sum);
    }
}

/// A proportion as mainnet stores it: 65535 = 1, rounded down. The cast saturates.
fn to_u16(proportion: f64) -> u16 {
    (proportion * 65_535.0) as u16
}

impl<T: Config> Pallet<T> {
    /// Runs the epoch of each subnet for which `tempo` blocks have passed since the last one.
    pub(super) fn run_due_epochs() {
        let now = Self::block();
        for (netuid, exists) in NetworksAdded::<T>::iter().collect::<Vec<_>>() {
            let tempo = u64::from(Tempo::<T>::get(netuid));
            if !exists || tempo == 0 {
                continue;
            }
            if now.saturating_sub(LastEpochBlock::<T>::get(netuid)) >= tempo {
                Self::run_epoch(netuid, tempo, now);
                LastEpochBlock::<T>::insert(netuid, now);
                SubnetEpochIndex::<T>::mutate(netuid, |index| *index = index.saturating_add(1));
                BlocksSinceLastStep::<T>::insert(netuid, 0);
            } else {
                BlocksSinceLastStep::<T>::mutate(netuid, |blocks| *blocks = blocks.saturating_add(1));
            }
        }
    }

    fn run_epoch(netuid: u16, tempo: u64, now: u64) {
        let stakes = Self::stakes(netuid);
        let permits = top_stakes(&stakes, usize::from(MaxAllowedValidators::<T>::get(netuid)));
        let cutoff = u64::from(ActivityCutoff::<T>::get(netuid));
        let last_updates = LastUpdate::<T>::get(netuid);
        let last_update = |uid: usize| last_updates.get(uid).copied().unwrap_or(0);
        let active: Vec<bool> = (0..stakes.len()).map(|uid| last_update(uid).saturating_add(cutoff) >= now).collect();
        let neurons: Vec<Neuron> = (0..SubnetworkN::<T>::get(netuid))
            .map(|uid| {
                let index = usize::from(uid);
                Neuron {
                    stake: stakes[index],
                    votes: permits[index] && active[index],
                    last_update: last_update(index),
                    registered: BlockAtRegistration::<T>::get(netuid, uid),
                    weights: Weights::<T>::get(netuid, uid),
                }
            })
            .collect();
        let owner = Uids::<T>::get(netuid, SubnetOwnerHotkey::<T>::get(netuid));
        let outcome = consensus(&neurons, owner, Kappa::<T>::get(netuid));

        let total_stake: u128 = stakes.iter().map(|stake| u128::from(*stake)).sum();
        let stake_share = |stake: &u64| *stake as f64 / total_stake.max(1) as f64;
        let stored = |proportions: &[f64]| proportions.iter().map(|p| to_u16(*p)).collect::<Vec<_>>();
        let per_side = tempo as f64 * EMISSION_PER_BLOCK * SHARE_OF_EACH_SIDE;
        let emission = outcome.incentive.iter().zip(&outcome.dividends);
        Emission::<T>::insert(netuid, emission.map(|(i, d)| ((i + d) * per_side) as u64).collect::<Vec<_>>());
        StakeWeight::<T>::insert(netuid, stakes.iter().map(|stake| to_u16(stake_share(stake))).collect::<Vec<_>>());
        Consensus::<T>::insert(netuid, stored(&outcome.consensus));
        Incentive::<T>::insert(netuid, stored(&outcome.incentive));
        Dividends::<T>::insert(netuid, stored(&outcome.dividends));
        ValidatorTrust::<T>::insert(netuid, stored(&outcome.validator_trust));
        ValidatorPermit::<T>::insert(netuid, permits);
        Active::<T>::insert(netuid, active);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u16 = 32_767;

    fn validator(stake: u64, weights: &[(u16, u16)]) -> Neuron {
        Neuron { stake, votes: true, last_update: 10, registered: 0, weights: weights.to_vec() }
    }

    fn miner() -> Neuron {
        Neuron { last_update: 10, ..Default::default() }
    }

    #[test]
    fn a_minority_validator_moves_nothing_by_giving_all_weight_to_its_friend() {
        let honest = [(3, 2), (4, 2)];
        let cheat = [(5, 65_535)];
        let neurons = [validator(60, &honest), validator(1, &honest), validator(39, &cheat), miner(), miner(), miner()];
        let outcome = consensus(&neurons, None, HALF);
        assert_eq!(outcome.incentive, [0.0, 0.0, 0.0, 0.5, 0.5, 0.0]);
        assert_eq!(outcome.validator_trust[2], 0.0);
        assert_eq!(outcome.dividends[2], 0.0);
    }

    #[test]
    fn what_the_majority_did_not_set_is_clipped_to_what_it_did() {
        let neurons = [validator(2, &[(2, 1), (3, 1)]), validator(1, &[(2, 3), (3, 1)]), miner(), miner()];
        let outcome = consensus(&neurons, None, HALF);
        assert_eq!(outcome.consensus, [0.0, 0.0, 0.5, 0.5]);
        // Voter 1's 3/4 is clipped to 1/2: ranks are 1/2 and 2/3 * 1/2 + 1/3 * 1/4.
        let ranks = (0.5, 1.0 / 3.0 + 1.0 / 12.0);
        assert!((outcome.incentive[2] - ranks.0 / (ranks.0 + ranks.1)).abs() < 1e-12);
    }

    #[test]
    fn no_stake_no_weights_and_no_neurons_give_zeros() {
        assert_eq!(consensus(&[], None, HALF), Outcome::default());
        let unstaked = Neuron { stake: 0, ..validator(0, &[(1, 1)]) };
        assert_eq!(consensus(&[unstaked, miner()], None, HALF).incentive, [0.0, 0.0]);
        assert_eq!(consensus(&[validator(5, &[]), miner()], None, HALF).incentive, [0.0, 0.0]);
        assert_eq!(consensus(&[validator(5, &[(1, 0), (9, 7)]), miner()], None, HALF).incentive, [0.0, 0.0]);
    }

    #[test]
    fn one_validator_decides_alone() {
        let outcome = consensus(&[validator(1, &[(1, 3), (2, 1)]), miner(), miner()], None, HALF);
        assert_eq!(outcome.incentive, [0.0, 0.75, 0.25]);
        assert_eq!(outcome.dividends, [1.0, 0.0, 0.0]);
        assert_eq!(outcome.validator_trust, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn equal_weights_pay_equally() {
        let all = [(2, 7), (3, 7), (4, 7)];
        let neurons = [validator(5, &all), validator(5, &all), miner(), miner(), miner()];
        let outcome = consensus(&neurons, None, HALF);
        assert_eq!(outcome.incentive[2], outcome.incentive[3]);
        assert_eq!(outcome.incentive[3], outcome.incentive[4]);
        assert_eq!(outcome.dividends, [0.5, 0.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn stakes_up_to_the_largest_do_not_overflow() {
        let neurons = [validator(u64::MAX, &[(2, 1)]), validator(u64::MAX, &[(2, 1)]), miner()];
        assert_eq!(consensus(&neurons, None, HALF).incentive, [0.0, 0.0, 1.0]);
    }

    #[test]
    fn self_weights_count_for_the_owner_only() {
        let neurons = [validator(1, &[(0, 1), (1, 1)]), miner()];
        assert_eq!(consensus(&neurons, None, HALF).incentive, [0.0, 1.0]);
        assert_eq!(consensus(&neurons, Some(0), HALF).incentive, [0.5, 0.5]);
    }

    #[test]
    fn weights_older_than_the_registration_they_point_at_are_ignored() {
        let newcomer = Neuron { registered: 11, last_update: 11, ..Default::default() };
        let outcome = consensus(&[validator(1, &[(1, 1), (2, 1)]), miner(), newcomer], None, HALF);
        assert_eq!(outcome.incentive, [0.0, 1.0, 0.0]);
    }

    #[test]
    fn permits_go_to_the_largest_stakes_above_zero() {
        assert_eq!(top_stakes(&[3, 0, 9, 3], 2), [true, false, true, false]);
        assert_eq!(top_stakes(&[0, 0], 2), [false, false]);
        assert_eq!(top_stakes(&[], 2), [] as [bool; 0]);
    }

    #[test]
    fn proportions_are_stored_rounded_down_and_saturate() {
        assert_eq!([to_u16(1.0), to_u16(0.5), to_u16(0.0), to_u16(2.0)], [65_535, 32_767, 0, 65_535]);
        assert_eq!(to_u16(f64::NAN), 0);
    }
}
