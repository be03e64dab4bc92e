//! `Commitments`: what a registered hotkey commits itself to, with the block in which it did.
//!
//! Mainnet's interface for the one call that a node uses. Where it differs, on purpose: a commitment with a
//! timelock is kept as it is and never revealed, and the bonds that `ResetBondsFlag` resets do not exist.

mod data;

pub use data::Data;
pub use pallet::*;

#[frame_support::pallet]
pub mod pallet {
    use super::Data;
    use crate::runtime::subtensor;
    use codec::{DecodeWithMemTracking, MaxEncodedLen};
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use scale_info::TypeInfo;

    /// Bytes that the smallest commitment is charged.
    const LEAST: u64 = 100;

    /// What is committed to: at most three pieces of data.
    #[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, DecodeWithMemTracking, MaxEncodedLen, TypeInfo)]
    pub struct CommitmentInfo {
        /// The pieces.
        pub fields: BoundedVec<Data, ConstU32<3>>,
    }

    /// A commitment as it is stored.
    #[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, MaxEncodedLen, TypeInfo)]
    pub struct Registration {
        /// Rao that were set aside for it: none.
        pub deposit: u64,
        /// The block in which it was made.
        pub block: u32,
        /// What it says.
        pub info: CommitmentInfo,
    }

    /// Bytes that a hotkey committed in one epoch.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, MaxEncodedLen, TypeInfo)]
    pub struct UsageTracker {
        /// The epoch.
        pub last_epoch: u64,
        /// The bytes.
        pub used_space: u64,
    }

    #[pallet::pallet]
    pub struct Pallet<T>(_);

    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> + subtensor::Config {}

    #[pallet::type_value]
    pub fn DefaultMaxSpace() -> u32 {
        3100
    }

    #[pallet::storage]
    pub type CommitmentOf<T: Config> = StorageDoubleMap<
        _,
        Identity,
        u16,
        Twox64Concat,
        <T as frame_system::Config>::AccountId,
        Registration,
        OptionQuery,
    >;
    #[pallet::storage]
    pub type UsedSpaceOf<T: Config> = StorageDoubleMap<
        _,
        Identity,
        u16,
        Twox64Concat,
        <T as frame_system::Config>::AccountId,
        UsageTracker,
        OptionQuery,
    >;
    #[pallet::storage]
    pub type MaxSpace<T: Config> = StorageValue<_, u32, ValueQuery, DefaultMaxSpace>;

    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A hotkey committed itself.
        #[codec(index = 0)]
        Commitment { netuid: u16, who: <T as frame_system::Config>::AccountId },
    }

    #[pallet::error]
    pub enum Error<T> {
        /// More pieces of data than three.
        #[codec(index = 0)]
        TooManyFieldsInCommitmentInfo,
        /// The hotkey is not registered on the subnet.
        #[codec(index = 1)]
        AccountNotAllowedCommit,
        /// More bytes than a hotkey may commit in one epoch.
        #[codec(index = 2)]
        SpaceLimitExceeded,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Takes the place of what the signing hotkey committed itself to before. Costs no fee.
        #[pallet::call_index(0)]
        #[pallet::weight((Weight::from_parts(10_000_000, 0), DispatchClass::Normal, Pays::No))]
        pub fn set_commitment(origin: OriginFor<T>, netuid: u16, info: Box<CommitmentInfo>) -> DispatchResult {
            let who = ensure_signed(origin)?;
            ensure!(subtensor::Uids::<T>::contains_key(netuid, &who), Error::<T>::AccountNotAllowedCommit);
            let block = subtensor::Pallet::<T>::block().try_into().unwrap_or(u32::MAX);
            let epoch = subtensor::SubnetEpochIndex::<T>::get(netuid);
            let used = UsedSpaceOf::<T>::get(netuid, &who).filter(|used| used.last_epoch == epoch);
            let bytes = info.fields.iter().map(|data| data.len() as u64).sum::<u64>().max(LEAST);
            let used_space = used.map_or(0, |used| used.used_space) + bytes;
            ensure!(used_space <= MaxSpace::<T>::get().into(), Error::<T>::SpaceLimitExceeded);
            UsedSpaceOf::<T>::insert(netuid, &who, UsageTracker { last_epoch: epoch, used_space });
            CommitmentOf::<T>::insert(netuid, &who, Registration { deposit: 0, block, info: *info });
            Self::deposit_event(Event::Commitment { netuid, who });
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Data, Error, pallet::*};
    use crate::{
        Options,
        chain::{execute, genesis},
        runtime::{AccountId, Runtime, RuntimeOrigin, subtensor},
    };
    use frame_support::{BoundedVec, dispatch::DispatchResult};
    use sp_core::{Pair, sr25519};

    fn commit(by: &AccountId, pieces: &[Vec<u8>]) -> DispatchResult {
        let pieces = pieces.iter().map(|piece| Data::Raw(piece.clone().try_into().expect("short")));
        let fields = BoundedVec::truncate_from(pieces.collect());
        let info = Box::new(CommitmentInfo { fields });
        Pallet::<Runtime>::set_commitment(RuntimeOrigin::signed(by.clone()), genesis::NETUID, info)
    }

    #[test]
    fn the_registered_commit_until_their_space_is_used_up() {
        let state = genesis::state(&Options::default()).expect("a genesis");
        execute::on_copy(&state, || {
            let hotkey = AccountId::new([1; 32]);
            let of = |hotkey| CommitmentOf::<Runtime>::get(genesis::NETUID, hotkey);
            frame_system::Pallet::<Runtime>::set_block_number(1);
            assert_eq!(commit(&hotkey, &[]), Err(Error::<Runtime>::AccountNotAllowedCommit.into()));
            let alice: AccountId = sr25519::Pair::from_string("//Alice", None).expect("a key").public().into();
            let owner = RuntimeOrigin::signed(alice);
            subtensor::Pallet::<Runtime>::burned_register(owner, genesis::NETUID, hotkey.clone()).expect("registered");
            assert_eq!(of(&hotkey), None);
            for byte in 0..10 {
                commit(&hotkey, &[vec![byte; 128], vec![byte; 128]]).expect("there is space");
            }
            commit(&hotkey, &[vec![9]]).expect("each takes 100 bytes at least");
            assert_eq!(of(&hotkey).map(|found| found.block), Some(1));
            for _ in 0..4 {
                commit(&hotkey, &[vec![7]]).expect("3060 bytes of 3100");
            }
            assert_eq!(commit(&hotkey, &[vec![8]]), Err(Error::<Runtime>::SpaceLimitExceeded.into()));
            let kept = of(&hotkey).expect("the last one that was accepted stays");
            assert_eq!(kept.info.fields.to_vec(), [Data::Raw(BoundedVec::truncate_from(vec![7]))]);
        });
    }
}
