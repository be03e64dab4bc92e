//! `AdminUtils`: the one call of mainnet's pallet that a node uses.

pub use pallet::*;

#[frame_support::pallet]
pub mod pallet {
    use crate::runtime::subtensor;
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;

    #[pallet::pallet]
    pub struct Pallet<T>(_);

    #[pallet::config]
    pub trait Config: frame_system::Config + subtensor::Config {}

    #[pallet::error]
    pub enum Error<T> {
        /// No subnet has this netuid.
        #[codec(index = 0)]
        SubnetDoesNotExist,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Names the hotkey that speaks for the subnet's owner. Signed by the owner's coldkey (or root).
        #[pallet::call_index(67)]
        #[pallet::weight(Weight::from_parts(10_000_000, 0))]
        pub fn sudo_set_sn_owner_hotkey(
            origin: OriginFor<T>,
            netuid: u16,
            hotkey: <T as frame_system::Config>::AccountId,
        ) -> DispatchResult {
            let signer = ensure_signed_or_root(origin)?;
            ensure!(subtensor::NetworksAdded::<T>::get(netuid), Error::<T>::SubnetDoesNotExist);
            if let Some(signer) = signer {
                ensure!(signer == subtensor::SubnetOwner::<T>::get(netuid), DispatchError::BadOrigin);
            }
            subtensor::Pallet::<T>::set_owner_hotkey(netuid, hotkey);
            Ok(())
        }
    }
}
