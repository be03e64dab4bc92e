//! Mainnet's thirteen transaction extensions, in mainnet's order.
//!
//! The order and the encoded size of each extension are part of what a client signs. Four of subtensor's own
//! encode to nothing; of these only [`SubtensorTransactionExtension`] does something here.

use super::{Runtime, RuntimeCall, subtensor};
use codec::{Decode, DecodeWithMemTracking, Encode};
use frame_support::weights::Weight;
use scale_info::TypeInfo;
use sp_runtime::{
    impl_tx_ext_default,
    traits::{
        AsSystemOriginSigner, DispatchInfoOf, DispatchOriginOf, Implication, TransactionExtension, ValidateResult,
    },
    transaction_validity::{InvalidTransaction, TransactionSource, ValidTransaction},
};

/// The custom validity code with which mainnet's pool refuses weights of a hotkey below StakeThreshold.
pub const STAKE_AMOUNT_TOO_LOW: u8 = 1;

// The trait is implemented for tuples of up to 12 members: nest. Encoding and metadata stay flat.
pub type TransactionExtensions = (
    frame_system::CheckNonZeroSender<Runtime>,
    frame_system::CheckSpecVersion<Runtime>,
    frame_system::CheckTxVersion<Runtime>,
    frame_system::CheckGenesis<Runtime>,
    frame_system::CheckMortality<Runtime>,
    frame_system::CheckNonce<Runtime>,
    frame_system::CheckWeight<Runtime>,
    pallet_transaction_payment::ChargeTransactionPayment<Runtime>,
    (SudoTransactionExtension, CheckShieldedTxValidity, SubtensorTransactionExtension, DrandPriority),
    frame_metadata_hash_extension::CheckMetadataHash<Runtime>,
);

macro_rules! extension_without_effect {
    ($name:ident) => {
        /// Encodes to nothing and allows everything: a client needs its name and its place.
        #[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, TypeInfo, Debug, Default)]
        pub struct $name;

        impl TransactionExtension<RuntimeCall> for $name {
            const IDENTIFIER: &'static str = stringify!($name);
            type Implicit = ();
            type Val = ();
            type Pre = ();

            fn weight(&self, _: &RuntimeCall) -> Weight {
                Weight::zero()
            }

            impl_tx_ext_default!(RuntimeCall; validate prepare);
        }
    };
}

extension_without_effect!(SudoTransactionExtension);
extension_without_effect!(CheckShieldedTxValidity);
extension_without_effect!(DrandPriority);

/// Refuses, before inclusion, weights that could only fail for lack of stake.
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, TypeInfo, Debug, Default)]
pub struct SubtensorTransactionExtension;

impl TransactionExtension<RuntimeCall> for SubtensorTransactionExtension {
    const IDENTIFIER: &'static str = "SubtensorTransactionExtension";
    type Implicit = ();
    type Val = ();
    type Pre = ();

    fn weight(&self, _: &RuntimeCall) -> Weight {
        Weight::zero()
    }

    fn validate(
        &self,
        origin: DispatchOriginOf<RuntimeCall>,
        call: &RuntimeCall,
        _info: &DispatchInfoOf<RuntimeCall>,
        _length: usize,
        _implicit: (),
        _implication: &impl Implication,
        _source: TransactionSource,
    ) -> ValidateResult<(), RuntimeCall> {
        if let RuntimeCall::SubtensorModule(subtensor::Call::set_weights { netuid, .. }) = call
            && let Some(hotkey) = origin.as_system_origin_signer()
            && !subtensor::Pallet::<Runtime>::has_stake_for_weights(*netuid, hotkey)
        {
            return Err(InvalidTransaction::Custom(STAKE_AMOUNT_TOO_LOW).into());
        }
        Ok((ValidTransaction::default(), (), origin))
    }

    impl_tx_ext_default!(RuntimeCall; prepare);
}
