//! Rules that need settings which no flag makes, on a state without a chain around it.

use super::pallet::*;
use crate::{
    Options,
    chain::{execute, genesis},
    runtime::{AccountId, Runtime, RuntimeOrigin},
};
use frame_support::dispatch::DispatchResult;
use sp_core::{Pair, sr25519};

const NETUID: u16 = genesis::NETUID;
const RATE_LIMIT: u64 = 5;
const IMMUNITY: u16 = 10;

/// Runs at block 1 of a subnet with three uids.
fn on_chain(test: impl FnOnce()) {
    let options =
        Options { max_uids: 3, immunity_blocks: IMMUNITY, weights_rate_limit: Some(RATE_LIMIT), ..Options::default() };
    let state = genesis::state(&options).expect("a genesis");
    execute::on_copy(&state, || {
        at_block(1);
        test();
    });
}

fn at_block(number: u32) {
    frame_system::Pallet::<Runtime>::set_block_number(number);
}

fn alice() -> AccountId {
    sr25519::Pair::from_string("//Alice", None).expect("a key").public().into()
}

fn hotkey(number: u8) -> AccountId {
    AccountId::new([number; 32])
}

fn register(hotkey: &AccountId) -> DispatchResult {
    Pallet::<Runtime>::burned_register(RuntimeOrigin::signed(alice()), NETUID, hotkey.clone())
}

fn set_weights(by: &AccountId, netuid: u16, uids: &[u16], weights: &[u16], version: u64) -> DispatchResult {
    let origin = RuntimeOrigin::signed(by.clone());
    Pallet::<Runtime>::set_weights(origin, netuid, uids.to_vec(), weights.to_vec(), version)
}

fn refused(error: Error<Runtime>) -> DispatchResult {
    Err(error.into())
}

#[test]
fn set_weights_names_the_first_rule_that_is_broken() {
    on_chain(|| {
        let validator = hotkey(1);
        register(&validator).expect("registered");
        register(&hotkey(2)).expect("registered");
        let set =
            |netuid, uids: &[u16], weights: &[u16], version| set_weights(&validator, netuid, uids, weights, version);

        assert_eq!(set(9, &[7, 7], &[1], 0), refused(Error::CommitRevealEnabled));
        CommitRevealWeightsEnabled::<Runtime>::insert(0, false);
        CommitRevealWeightsEnabled::<Runtime>::insert(9, false);
        assert_eq!(set(0, &[7, 7], &[1], 0), refused(Error::CanNotSetRootNetworkWeights));
        assert_eq!(set(9, &[7, 7], &[1], 0), refused(Error::WeightVecNotEqualSize));
        assert_eq!(set(9, &[7, 7, 7], &[1, 1, 1], 0), refused(Error::SubnetNotExists));
        assert_eq!(set(NETUID, &[7, 7, 7], &[1, 1, 1], 0), refused(Error::UidsLengthExceedUidsInSubNet));
        let stranger = set_weights(&hotkey(3), NETUID, &[7, 7], &[1, 1], 0);
        assert_eq!(stranger, refused(Error::HotKeyNotRegisteredInSubNet));

        StakeThreshold::<Runtime>::put(1);
        WeightsVersionKey::<Runtime>::insert(NETUID, 5);
        assert_eq!(set(NETUID, &[7, 7], &[1, 1], 4), refused(Error::NotEnoughStakeToSetWeights));
        TotalHotkeyAlpha::<Runtime>::insert(&validator, NETUID, 1);
        assert_eq!(set(NETUID, &[7, 7], &[1, 1], 4), refused(Error::IncorrectWeightVersionKey));
        assert_eq!(set(NETUID, &[7, 7], &[1, 1], 5), refused(Error::SettingWeightsTooFast));
        at_block(5);
        assert_eq!(set(NETUID, &[7, 7], &[1, 1], 5), refused(Error::SettingWeightsTooFast));
        at_block(6);
        assert_eq!(set(NETUID, &[7, 7], &[1, 1], 5), refused(Error::NeuronNoValidatorPermit));
        ValidatorPermit::<Runtime>::insert(NETUID, vec![true, false]);
        assert_eq!(set(NETUID, &[7, 7], &[1, 1], 5), refused(Error::DuplicateUids));
        assert_eq!(set(NETUID, &[0, 7], &[1, 1], 5), refused(Error::UidVecContainInvalidOne));
        MinAllowedWeights::<Runtime>::insert(NETUID, 1024);
        assert_eq!(set(NETUID, &[1], &[1], 5), refused(Error::WeightVecLengthIsLow));
        MaxWeightsLimit::<Runtime>::insert(NETUID, 40_000);
        assert_eq!(set(NETUID, &[0, 1], &[3, 1], 5), refused(Error::MaxWeightExceeded));

        assert_eq!(set(NETUID, &[0, 1], &[2, 2], 5), Ok(()));
        assert_eq!(Weights::<Runtime>::get(NETUID, 0), [(0, 65_535), (1, 65_535)]);
        assert_eq!(LastUpdate::<Runtime>::get(NETUID), [6, 1]);
        assert_eq!(set(NETUID, &[0, 1], &[2, 2], 5), refused(Error::SettingWeightsTooFast));
    });
}

#[test]
fn a_single_weight_on_itself_needs_no_permit_and_knows_no_limits() {
    on_chain(|| {
        register(&hotkey(1)).expect("registered");
        register(&hotkey(2)).expect("registered");
        MinAllowedWeights::<Runtime>::insert(NETUID, 2);
        MaxWeightsLimit::<Runtime>::insert(NETUID, 1);
        at_block(6);
        assert_eq!(set_weights(&hotkey(1), NETUID, &[0], &[1], 0), Ok(()));
        assert_eq!(set_weights(&hotkey(2), NETUID, &[0], &[1], 0), refused(Error::NeuronNoValidatorPermit));
    });
}

#[test]
fn the_owners_hotkey_needs_neither_stake_nor_permit() {
    on_chain(|| {
        register(&hotkey(1)).expect("registered");
        register(&hotkey(2)).expect("registered");
        StakeThreshold::<Runtime>::put(1);
        SubnetOwnerHotkey::<Runtime>::insert(NETUID, hotkey(1));
        at_block(6);
        assert_eq!(set_weights(&hotkey(1), NETUID, &[1], &[1], 0), Ok(()));
        assert_eq!(set_weights(&hotkey(2), NETUID, &[0], &[1], 0), refused(Error::NotEnoughStakeToSetWeights));
    });
}

#[test]
fn a_full_subnet_replaces_the_least_paid_and_forgets_it() {
    on_chain(|| {
        for number in 1..=3 {
            register(&hotkey(number)).expect("registered");
        }
        Emission::<Runtime>::insert(NETUID, vec![5u64, 1, 5]);
        Weights::<Runtime>::insert(NETUID, 0, vec![(1u16, 9u16), (2, 9)]);
        Weights::<Runtime>::insert(NETUID, 1, vec![(0u16, 9u16)]);
        at_block(10);
        assert_eq!(register(&hotkey(4)), refused(Error::NoNeuronIdAvailable));
        at_block(11);
        assert_eq!(register(&hotkey(4)), Ok(()));

        assert_eq!(Uids::<Runtime>::get(NETUID, hotkey(4)), Some(1));
        assert_eq!(Keys::<Runtime>::get(NETUID, 1), hotkey(4));
        assert_eq!(Uids::<Runtime>::get(NETUID, hotkey(2)), None);
        assert!(!IsNetworkMember::<Runtime>::get(hotkey(2), NETUID));
        assert_eq!(Weights::<Runtime>::get(NETUID, 0), [(2, 9)]);
        assert!(Weights::<Runtime>::get(NETUID, 1).is_empty());
        assert_eq!(Emission::<Runtime>::get(NETUID), [5, 0, 5]);
        assert_eq!(LastUpdate::<Runtime>::get(NETUID), [1, 11, 1]);
        assert_eq!(BlockAtRegistration::<Runtime>::get(NETUID, 1), 11);
        assert_eq!(SubnetworkN::<Runtime>::get(NETUID), 3);
        for lengths in [Consensus::<Runtime>::get(NETUID).len(), Incentive::<Runtime>::get(NETUID).len()] {
            assert_eq!(lengths, 3);
        }
    });
}

#[test]
fn the_owners_uid_is_never_replaced() {
    on_chain(|| {
        for number in 1..=3 {
            register(&hotkey(number)).expect("registered");
        }
        SubnetOwnerHotkey::<Runtime>::insert(NETUID, hotkey(1));
        at_block(11);
        assert_eq!(register(&hotkey(4)), Ok(()));
        assert_eq!(Uids::<Runtime>::get(NETUID, hotkey(1)), Some(0));
        assert_eq!(Uids::<Runtime>::get(NETUID, hotkey(4)), Some(1));
    });
}

#[test]
fn registration_names_what_is_wrong() {
    on_chain(|| {
        let by = |coldkey: AccountId, netuid, hotkey| {
            Pallet::<Runtime>::burned_register(RuntimeOrigin::signed(coldkey), netuid, hotkey)
        };
        assert_eq!(by(alice(), 0, hotkey(1)), refused(Error::RegistrationNotPermittedOnRootSubnet));
        assert_eq!(by(alice(), 9, hotkey(1)), refused(Error::SubnetNotExists));
        assert_eq!(by(hotkey(8), NETUID, hotkey(1)), refused(Error::NotEnoughBalanceToStake));
        Owner::<Runtime>::insert(hotkey(5), hotkey(6));
        assert_eq!(by(alice(), NETUID, hotkey(5)), refused(Error::NonAssociatedColdKey));
        assert_eq!(by(alice(), NETUID, hotkey(1)), Ok(()));
        assert_eq!(by(alice(), NETUID, hotkey(1)), refused(Error::HotKeyAlreadyRegisteredInSubNet));
        NetworkRegistrationAllowed::<Runtime>::insert(NETUID, false);
        assert_eq!(by(alice(), NETUID, hotkey(2)), refused(Error::SubNetRegistrationDisabled));
    });
}

#[test]
fn stake_grants_a_permit_at_once_to_the_largest_only() {
    on_chain(|| {
        MaxAllowedValidators::<Runtime>::insert(NETUID, 1);
        let stake = |number, amount| {
            Pallet::<Runtime>::add_stake(RuntimeOrigin::signed(alice()), hotkey(number), NETUID, amount)
        };
        assert_eq!(stake(1, 2_000_000), refused(Error::HotKeyAccountNotExists));
        register(&hotkey(1)).expect("registered");
        register(&hotkey(2)).expect("registered");
        assert_eq!(stake(1, 1_999_999), refused(Error::AmountTooLow));
        assert_eq!(stake(1, 3_000_000), Ok(()));
        assert_eq!(ValidatorPermit::<Runtime>::get(NETUID), [true, false]);
        assert_eq!(stake(2, 2_000_000), Ok(()));
        assert_eq!(ValidatorPermit::<Runtime>::get(NETUID), [true, false]);
        assert_eq!(stake(2, 2_000_000), Ok(()));
        // The one that is no longer among the top keeps its permit until the epoch.
        assert_eq!(ValidatorPermit::<Runtime>::get(NETUID), [true, true]);
        Pallet::<Runtime>::run_epoch_now();
        assert_eq!(ValidatorPermit::<Runtime>::get(NETUID), [false, true]);
    });
}

impl Pallet<Runtime> {
    fn run_epoch_now() {
        at_block(1000);
        Self::run_due_epochs();
    }
}
