//! The runtime: real FRAME pallets plus three pallets of our own, executed natively (no wasm).
//!
//! Every entry that a Bistro node uses has mainnet's interface (subtensor, spec 424): pallet, call, event and
//! error indices, argument names, hashers, key, value and default types. Only values differ. The contract
//! test in `tests/it` compares the metadata with mainnet's, entry by entry.

pub mod admin_utils;
pub mod commitments;
pub mod extensions;
pub mod subtensor;

use frame_support::{
    derive_impl, parameter_types,
    traits::{ConstU8, ConstU16, ConstU32, ConstU64},
    weights::{FixedFee, IdentityFee, Weight},
};
use sp_runtime::{
    MultiAddress, MultiSignature, generic,
    traits::{AccountIdLookup, BlakeTwo256, Block as BlockT, IdentifyAccount, Verify},
    transaction_validity::{TransactionSource, TransactionValidity},
};
use sp_version::RuntimeVersion;

/// 32 bytes; shown as SS58 with prefix 42.
pub type AccountId = <<MultiSignature as Verify>::Signer as IdentifyAccount>::AccountId;
/// Rao; 1e9 rao are 1 TAO.
pub type Balance = u64;
pub type Address = MultiAddress<AccountId, ()>;
pub type Header = generic::Header<u32, BlakeTwo256>;
pub type Block = generic::Block<Header, UncheckedExtrinsic>;
pub type UncheckedExtrinsic =
    generic::UncheckedExtrinsic<Address, RuntimeCall, MultiSignature, extensions::TransactionExtensions>;
pub type Executive =
    frame_executive::Executive<Runtime, Block, frame_system::ChainContext<Runtime>, Runtime, AllPalletsWithSystem>;

/// Mainnet's version, so that transactions signed with mainnet's metadata are valid here too.
pub const VERSION: RuntimeVersion = RuntimeVersion {
    spec_name: std::borrow::Cow::Borrowed("node-subtensor"),
    impl_name: std::borrow::Cow::Borrowed("node-subtensor"),
    authoring_version: 1,
    spec_version: 424,
    impl_version: 1,
    apis: RUNTIME_API_VERSIONS,
    transaction_version: 1,
    system_version: 1,
};

#[frame_support::runtime]
mod construct {
    #[runtime::runtime]
    #[runtime::derive(
        RuntimeCall,
        RuntimeEvent,
        RuntimeError,
        RuntimeOrigin,
        RuntimeFreezeReason,
        RuntimeHoldReason,
        RuntimeSlashReason,
        RuntimeLockId,
        RuntimeTask,
        RuntimeViewFunction
    )]
    pub struct Runtime;

    #[runtime::pallet_index(0)]
    pub type System = frame_system;
    #[runtime::pallet_index(2)]
    pub type Timestamp = pallet_timestamp;
    #[runtime::pallet_index(5)]
    pub type Balances = pallet_balances;
    #[runtime::pallet_index(6)]
    pub type TransactionPayment = pallet_transaction_payment;
    #[runtime::pallet_index(7)]
    pub type SubtensorModule = crate::runtime::subtensor::pallet;
    #[runtime::pallet_index(18)]
    pub type Commitments = crate::runtime::commitments::pallet;
    #[runtime::pallet_index(19)]
    pub type AdminUtils = crate::runtime::admin_utils::pallet;
}

parameter_types! {
    pub const Version: RuntimeVersion = VERSION;
}

#[derive_impl(frame_system::config_preludes::SolochainDefaultConfig)]
impl frame_system::Config for Runtime {
    type Block = Block;
    type AccountId = AccountId;
    type Nonce = u32;
    type Hash = sp_core::H256;
    type Lookup = AccountIdLookup<AccountId, ()>;
    type BlockHashCount = ConstU32<2400>;
    type Version = Version;
    type AccountData = pallet_balances::AccountData<Balance>;
    type SS58Prefix = ConstU16<42>;
    type MaxConsumers = ConstU32<16>;
}

impl pallet_timestamp::Config for Runtime {
    type Moment = u64;
    type OnTimestampSet = ();
    // The node takes the wall clock; this only demands that time moves on.
    type MinimumPeriod = ConstU64<1>;
    type WeightInfo = ();
}

#[derive_impl(pallet_balances::config_preludes::TestDefaultConfig)]
impl pallet_balances::Config for Runtime {
    type Balance = Balance;
    type ExistentialDeposit = ConstU64<500>;
    type AccountStore = System;
    type RuntimeEvent = RuntimeEvent;
}

impl pallet_transaction_payment::Config for Runtime {
    type RuntimeEvent = RuntimeEvent;
    type OnChargeTransaction = pallet_transaction_payment::FungibleAdapter<Balances, ()>;
    type OperationalFeeMultiplier = ConstU8<5>;
    // A flat fee of mainnet's order; IdentityFee would charge 0.1 TAO a call.
    type WeightToFee = FixedFee<100_000, Balance>;
    type LengthToFee = IdentityFee<Balance>;
    type FeeMultiplierUpdate = ();
    type WeightInfo = ();
}

impl subtensor::Config for Runtime {
    type Currency = Balances;
}

impl commitments::Config for Runtime {}

impl admin_utils::Config for Runtime {}

sp_api::impl_runtime_apis! {
    impl sp_api::Core<Block> for Runtime {
        fn version() -> RuntimeVersion {
            VERSION
        }

        fn execute_block(block: <Block as BlockT>::LazyBlock) {
            Executive::execute_block(block)
        }

        fn initialize_block(header: &Header) -> sp_runtime::ExtrinsicInclusionMode {
            Executive::initialize_block(header)
        }
    }

    impl sp_api::Metadata<Block> for Runtime {
        fn metadata() -> sp_core::OpaqueMetadata {
            sp_core::OpaqueMetadata::new(Runtime::metadata().into())
        }

        fn metadata_at_version(version: u32) -> Option<sp_core::OpaqueMetadata> {
            Runtime::metadata_at_version(version)
        }

        fn metadata_versions() -> Vec<u32> {
            Runtime::metadata_versions()
        }
    }

    impl sp_block_builder::BlockBuilder<Block> for Runtime {
        fn apply_extrinsic(extrinsic: <Block as BlockT>::Extrinsic) -> sp_runtime::ApplyExtrinsicResult {
            Executive::apply_extrinsic(extrinsic)
        }

        fn finalize_block() -> Header {
            Executive::finalize_block()
        }

        fn inherent_extrinsics(data: sp_inherents::InherentData) -> Vec<<Block as BlockT>::Extrinsic> {
            data.create_extrinsics()
        }

        fn check_inherents(
            block: <Block as BlockT>::LazyBlock,
            data: sp_inherents::InherentData,
        ) -> sp_inherents::CheckInherentsResult {
            data.check_extrinsics(&block)
        }
    }

    impl sp_transaction_pool::runtime_api::TaggedTransactionQueue<Block> for Runtime {
        fn validate_transaction(
            source: TransactionSource,
            transaction: <Block as BlockT>::Extrinsic,
            hash: <Block as BlockT>::Hash,
        ) -> TransactionValidity {
            Executive::validate_transaction(source, transaction, hash)
        }
    }

    impl frame_system_rpc_runtime_api::AccountNonceApi<Block, AccountId, u32> for Runtime {
        fn account_nonce(account: AccountId) -> u32 {
            System::account_nonce(account)
        }
    }

    impl pallet_transaction_payment_rpc_runtime_api::TransactionPaymentApi<Block, Balance> for Runtime {
        fn query_info(
            extrinsic: <Block as BlockT>::Extrinsic,
            length: u32,
        ) -> pallet_transaction_payment_rpc_runtime_api::RuntimeDispatchInfo<Balance> {
            TransactionPayment::query_info(extrinsic, length)
        }

        fn query_fee_details(
            extrinsic: <Block as BlockT>::Extrinsic,
            length: u32,
        ) -> pallet_transaction_payment::FeeDetails<Balance> {
            TransactionPayment::query_fee_details(extrinsic, length)
        }

        fn query_weight_to_fee(weight: Weight) -> Balance {
            TransactionPayment::weight_to_fee(weight)
        }

        fn query_length_to_fee(length: u32) -> Balance {
            TransactionPayment::length_to_fee(length)
        }
    }
}

/// Calls a runtime API by name (`Trait_method`) with SCALE arguments; `None`: no such method.
///
/// Must run inside externalities. Panics on arguments that do not decode, where wasm would trap.
pub fn call_api(method: &str, arguments: &[u8]) -> Option<Vec<u8>> {
    api::dispatch(method, arguments)
}
