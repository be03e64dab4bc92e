//! `set_weights`: mainnet's checks, in mainnet's order, and the scaling of what is stored.

use super::pallet::*;
use frame_support::{dispatch::DispatchResult, ensure};
use std::collections::HashSet;

impl<T: Config> Pallet<T> {
    /// Whether the pool and `set_weights` accept this hotkey's stake: the owner's hotkey needs none.
    pub fn has_stake_for_weights(netuid: u16, hotkey: &T::AccountId) -> bool {
        let is_owner = SubnetOwnerHotkey::<T>::get(netuid) == *hotkey && Uids::<T>::contains_key(netuid, hotkey);
        is_owner || TotalHotkeyAlpha::<T>::get(hotkey, netuid) >= StakeThreshold::<T>::get()
    }

    pub(super) fn do_set_weights(
        hotkey: &T::AccountId,
        netuid: u16,
        uids: Vec<u16>,
        values: Vec<u16>,
        version_key: u64,
    ) -> DispatchResult {
        // First, as on mainnet: a subnet that does not exist has the default, which is "on".
        ensure!(!CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealEnabled);
        ensure!(netuid != 0, Error::<T>::CanNotSetRootNetworkWeights);
        ensure!(uids.len() == values.len(), Error::<T>::WeightVecNotEqualSize);
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
        let size = SubnetworkN::<T>::get(netuid);
        ensure!(uids.len() <= usize::from(size), Error::<T>::UidsLengthExceedUidsInSubNet);
        let own_uid = Uids::<T>::get(netuid, hotkey).ok_or(Error::<T>::HotKeyNotRegisteredInSubNet)?;
        ensure!(Self::has_stake_for_weights(netuid, hotkey), Error::<T>::NotEnoughStakeToSetWeights);
        let wanted_version = WeightsVersionKey::<T>::get(netuid);
        ensure!(wanted_version == 0 || version_key >= wanted_version, Error::<T>::IncorrectWeightVersionKey);

        let now = Self::block();
        let last_update = LastUpdate::<T>::get(netuid).get(usize::from(own_uid)).copied().unwrap_or(0);
        let waited = now.saturating_sub(last_update);
        let in_time = last_update == 0 || waited >= WeightsSetRateLimit::<T>::get(netuid);
        ensure!(in_time, Error::<T>::SettingWeightsTooFast);

        let only_self = uids == [own_uid];
        let may_validate = only_self
            || SubnetOwnerHotkey::<T>::get(netuid) == *hotkey
            || ValidatorPermit::<T>::get(netuid).get(usize::from(own_uid)).copied().unwrap_or(false);
        ensure!(may_validate, Error::<T>::NeuronNoValidatorPermit);
        let distinct = uids.iter().collect::<HashSet<_>>().len();
        ensure!(distinct == uids.len(), Error::<T>::DuplicateUids);
        ensure!(uids.iter().all(|uid| *uid < size), Error::<T>::UidVecContainInvalidOne);
        let fewest = usize::from(MinAllowedWeights::<T>::get(netuid).min(size));
        ensure!(only_self || uids.len() >= fewest, Error::<T>::WeightVecLengthIsLow);
        let values = upscale(&values);
        let within = only_self || largest_share_within(&values, MaxWeightsLimit::<T>::get(netuid));
        ensure!(within, Error::<T>::MaxWeightExceeded);

        Weights::<T>::insert(netuid, own_uid, uids.into_iter().zip(values).collect::<Vec<_>>());
        Self::set_slot::<LastUpdate<T>, _>(netuid, own_uid, now);
        Self::deposit_event(Event::WeightsSet(netuid, own_uid));
        Ok(())
    }
}

/// Scales so that the largest value becomes 65535: v * 65535 / max, rounded. All zeros stay zeros.
fn upscale(values: &[u16]) -> Vec<u16> {
    let max = u64::from(values.iter().copied().max().unwrap_or(0));
    if max == 0 {
        return values.to_vec();
    }
    let scale = |value: &u16| (u64::from(*value) * 65_535 + max / 2) / max;
    values.iter().map(|value| u16::try_from(scale(value)).unwrap_or(u16::MAX)).collect()
}

/// Whether the largest value is at most `limit` / 65535 of the sum. The limit 65535 allows everything.
fn largest_share_within(values: &[u16], limit: u16) -> bool {
    let sum: u64 = values.iter().copied().map(u64::from).sum();
    let max = u64::from(values.iter().copied().max().unwrap_or(0));
    limit == u16::MAX || max * 65_535 <= u64::from(limit) * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upscaling_makes_the_largest_weight_65535_and_rounds_the_rest() {
        assert_eq!(upscale(&[100, 50]), [65_535, 32_768]);
        assert_eq!(upscale(&[65_535, 9]), [65_535, 9]);
        assert_eq!(upscale(&[0, 0]), [0, 0]);
        assert_eq!(upscale(&[]), [] as [u16; 0]);
    }

    #[test]
    fn the_largest_share_is_measured_against_the_sum() {
        assert!(largest_share_within(&[1, 1], 32_768));
        assert!(!largest_share_within(&[2, 1], 32_768));
        assert!(largest_share_within(&[1], u16::MAX));
        assert!(largest_share_within(&[], 1));
    }
}
