//! Registration, the replacement of uids, and stake.

use super::{epoch, pallet::*};
use frame_support::{
    StorageMap,
    dispatch::DispatchResult,
    ensure,
    traits::{
        fungible::Mutate,
        tokens::{Fortitude, Precision, Preservation},
    },
};

/// The least that `add_stake` takes, in rao (mainnet's InitialMinStake).
const MIN_STAKE: u64 = 2_000_000;

impl<T: Config> Pallet<T> {
    /// The number of the block being built.
    pub(in crate::runtime) fn block() -> u64 {
        frame_system::Pallet::<T>::block_number().try_into().unwrap_or(u64::MAX)
    }

    pub(super) fn build_subnet(subnet: &SubnetGenesis<T::AccountId>) {
        let netuid = subnet.netuid;
        NetworksAdded::<T>::insert(netuid, true);
        SubnetOwner::<T>::insert(netuid, &subnet.owner);
        SubnetOwnerHotkey::<T>::insert(netuid, &subnet.owner);
        Owner::<T>::insert(&subnet.owner, &subnet.owner);
        SubnetworkN::<T>::insert(netuid, 0);
        Tempo::<T>::insert(netuid, subnet.tempo);
        WeightsSetRateLimit::<T>::insert(netuid, subnet.weights_rate_limit);
        CommitRevealWeightsEnabled::<T>::insert(netuid, subnet.commit_reveal);
        MaxAllowedUids::<T>::insert(netuid, subnet.max_uids);
        MaxAllowedValidators::<T>::insert(netuid, subnet.max_validators);
        ImmunityPeriod::<T>::insert(netuid, subnet.immunity_blocks);
        MinAllowedWeights::<T>::insert(netuid, 1);
        Burn::<T>::insert(netuid, subnet.burn);
    }

    pub(in crate::runtime) fn set_owner_hotkey(netuid: u16, hotkey: T::AccountId) {
        SubnetOwnerHotkey::<T>::insert(netuid, &hotkey);
        Self::deposit_event(Event::SubnetOwnerHotkeySet(netuid, hotkey));
    }

    pub(super) fn do_register(coldkey: T::AccountId, netuid: u16, hotkey: T::AccountId) -> DispatchResult {
        ensure!(netuid != 0, Error::<T>::RegistrationNotPermittedOnRootSubnet);
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
        ensure!(NetworkRegistrationAllowed::<T>::get(netuid), Error::<T>::SubNetRegistrationDisabled);
        ensure!(!Uids::<T>::contains_key(netuid, &hotkey), Error::<T>::HotKeyAlreadyRegisteredInSubNet);
        Self::burn(&coldkey, Burn::<T>::get(netuid))?;
        if !Owner::<T>::contains_key(&hotkey) {
            Owner::<T>::insert(&hotkey, &coldkey);
            // A hotkey has no balance, and FRAME's CheckNonce lets only accounts that exist sign; mainnet's
            // lets hotkeys sign calls that cost nothing. One reference makes the account exist.
            frame_system::Pallet::<T>::inc_sufficients(&hotkey);
        }
        ensure!(Owner::<T>::get(&hotkey) == coldkey, Error::<T>::NonAssociatedColdKey);

        let size = SubnetworkN::<T>::get(netuid);
        let uid = if size < MaxAllowedUids::<T>::get(netuid) {
            SubnetworkN::<T>::insert(netuid, size.saturating_add(1));
            size
        } else {
            let uid = Self::uid_to_replace(netuid).ok_or(Error::<T>::NoNeuronIdAvailable)?;
            Self::clear_uid(netuid, uid);
            uid
        };
        Self::place(netuid, uid, &hotkey);
        Self::deposit_event(Event::NeuronRegistered(netuid, uid, hotkey));
        Ok(())
    }

    pub(super) fn do_add_stake(
        coldkey: T::AccountId,
        hotkey: T::AccountId,
        netuid: u16,
        amount: u64,
    ) -> DispatchResult {
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
        ensure!(amount >= MIN_STAKE, Error::<T>::AmountTooLow);
        ensure!(Owner::<T>::contains_key(&hotkey), Error::<T>::HotKeyAccountNotExists);
        Self::burn(&coldkey, amount)?;
        TotalHotkeyAlpha::<T>::mutate(&hotkey, netuid, |alpha| *alpha = alpha.saturating_add(amount));
        if let Some(uid) = Uids::<T>::get(netuid, &hotkey) {
            Self::grant_permit_if_among_top(netuid, uid);
        }
        Self::deposit_event(Event::StakeAdded(coldkey, hotkey, amount, amount, netuid, 0));
        Ok(())
    }

    /// The alpha of each uid, in rao.
    pub(super) fn stakes(netuid: u16) -> Vec<u64> {
        let alpha_of = |uid| TotalHotkeyAlpha::<T>::get(Keys::<T>::get(netuid, uid), netuid);
        (0..SubnetworkN::<T>::get(netuid)).map(alpha_of).collect()
    }

    /// Writes one entry of a per-uid vector, which grows with defaults up to it.
    pub(super) fn set_slot<S, V>(netuid: u16, uid: u16, value: V)
    where
        S: StorageMap<u16, Vec<V>, Query = Vec<V>>,
        V: codec::FullCodec + Clone + Default,
    {
        S::mutate(netuid, |values| {
            let index = usize::from(uid);
            if values.len() <= index {
                values.resize(index + 1, V::default());
            }
            if let Some(slot) = values.get_mut(index) {
                *slot = value;
            }
        });
    }

    fn burn(coldkey: &T::AccountId, amount: u64) -> DispatchResult {
        T::Currency::burn_from(coldkey, amount, Preservation::Preserve, Precision::Exact, Fortitude::Polite)
            .map_err(|_| Error::<T>::NotEnoughBalanceToStake)?;
        Ok(())
    }

    fn grant_permit_if_among_top(netuid: u16, uid: u16) {
        let permits = epoch::top_stakes(&Self::stakes(netuid), usize::from(MaxAllowedValidators::<T>::get(netuid)));
        if permits.get(usize::from(uid)).copied().unwrap_or(false) {
            Self::set_slot::<ValidatorPermit<T>, _>(netuid, uid, true);
        }
    }

    /// The uid that a newcomer takes: lowest emission outside immunity, then oldest, then lowest uid.
    /// The owner's is never taken.
    fn uid_to_replace(netuid: u16) -> Option<u16> {
        let now = Self::block();
        let immunity = u64::from(ImmunityPeriod::<T>::get(netuid));
        let emission = Emission::<T>::get(netuid);
        let owner = Uids::<T>::get(netuid, SubnetOwnerHotkey::<T>::get(netuid));
        (0..SubnetworkN::<T>::get(netuid))
            .filter(|uid| Some(*uid) != owner)
            .map(|uid| (uid, BlockAtRegistration::<T>::get(netuid, uid)))
            .filter(|(_, registered)| now.saturating_sub(*registered) >= immunity)
            .min_by_key(|(uid, registered)| (emission.get(usize::from(*uid)).copied().unwrap_or(0), *registered, *uid))
            .map(|(uid, _)| uid)
    }

    /// Forgets who held a uid: keys, weights of it and weights to it.
    fn clear_uid(netuid: u16, uid: u16) {
        let old = Keys::<T>::get(netuid, uid);
        Uids::<T>::remove(netuid, &old);
        IsNetworkMember::<T>::remove(&old, netuid);
        Weights::<T>::remove(netuid, uid);
        for other in 0..SubnetworkN::<T>::get(netuid) {
            let row = Weights::<T>::get(netuid, other);
            if row.iter().any(|(to, _)| *to == uid) {
                let kept: Vec<_> = row.into_iter().filter(|(to, _)| *to != uid).collect();
                Weights::<T>::insert(netuid, other, kept);
            }
        }
    }

    /// Seats a hotkey on a free uid. LastUpdate starts now: mainnet makes a newcomer wait before it sets weights.
    fn place(netuid: u16, uid: u16, hotkey: &T::AccountId) {
        let now = Self::block();
        Uids::<T>::insert(netuid, hotkey, uid);
        Keys::<T>::insert(netuid, uid, hotkey);
        IsNetworkMember::<T>::insert(hotkey, netuid, true);
        BlockAtRegistration::<T>::insert(netuid, uid, now);
        Self::set_slot::<LastUpdate<T>, _>(netuid, uid, now);
        Self::set_slot::<Active<T>, _>(netuid, uid, true);
        Self::set_slot::<Emission<T>, u64>(netuid, uid, 0);
        Self::set_slot::<Consensus<T>, u16>(netuid, uid, 0);
        Self::set_slot::<Incentive<T>, u16>(netuid, uid, 0);
        Self::set_slot::<Dividends<T>, u16>(netuid, uid, 0);
        Self::set_slot::<StakeWeight<T>, u16>(netuid, uid, 0);
        Self::set_slot::<ValidatorTrust<T>, u16>(netuid, uid, 0);
        Self::set_slot::<ValidatorPermit<T>, _>(netuid, uid, false);
        // Stake belongs to the hotkey, not to the uid: one that comes back brings its own.
        Self::grant_permit_if_among_top(netuid, uid);
    }
}
