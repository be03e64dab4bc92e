//! The contract with mainnet: what a client hashes, entry by entry, against real metadata.
//!
//! The metadata of spec 424 is not part of this repository: it is looked for beside it, and the test says so
//! when it is not there.

use crate::support::Net;
use bistro_devnet::Options;
use std::path::Path;
use subxt::{Metadata, ext::codec::Decode, metadata::PalletMetadata};

const MAINNET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/subtensor/finney-424-v16.scale");

/// Differences that no node sees: FRAME's own crates are newer here than on mainnet, and types that list every
/// pallet or hold an extrinsic differ because mainnet has more pallets. Clients decode these by the metadata
/// that they are given.
const ALLOWED: &[&str] = &[
    "storage System.BlockSize",
    "storage System.Events",
    "storage System.BlocksTillUpgrade",
    "constant System.BlockLength",
    "event System.CodeUpdated",
    "storage Balances.Reserves",
    "storage Balances.Holds",
    "storage Balances.Freezes",
    "event Balances.MintedCredit",
    "event Balances.Burned",
    "event Balances.BurnedDebt",
    "event Balances.Suspended",
    "event Balances.Restored",
    "event Balances.Upgraded",
    "event Balances.Issued",
    "event Balances.Rescinded",
    "event Balances.Locked",
    "event Balances.Unlocked",
    "event Balances.Frozen",
    "event Balances.Thawed",
    "event Balances.TotalIssuanceForced",
    "event Balances.Held",
    "event Balances.BurnedHeld",
    "event Balances.TransferOnHold",
    "event Balances.TransferAndHold",
    "event Balances.Released",
    "event Balances.Unexpected",
    "storage TransactionPayment.TxPaymentCredit",
    "api Core.execute_block",
    "api BlockBuilder.apply_extrinsic",
    "api BlockBuilder.inherent_extrinsics",
    "api BlockBuilder.check_inherents",
    "api TaggedTransactionQueue.validate_transaction",
    "api TransactionPaymentApi.query_info",
    "api TransactionPaymentApi.query_fee_details",
];

/// Entries of the allowed groups that a node uses all the same.
const REQUIRED: &[&str] = &[
    "storage System.Account",
    "storage System.Number",
    "storage System.BlockHash",
    "storage Commitments.CommitmentOf",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_uses_hashes_as_on_mainnet() {
    if !Path::new(MAINNET).exists() {
        eprintln!("SKIPPED: the contract with mainnet was not checked, for lack of {MAINNET}");
        return;
    }
    let bytes = std::fs::read(MAINNET).expect("the file can be read");
    let theirs = Metadata::decode(&mut &bytes[..]).expect("mainnet's metadata decodes");
    let net = Net::start(Options::default()).await;
    let at = net.client.api.at_current_block().await.expect("a block");
    let ours = at.metadata_ref();

    let mut report = Report::default();
    compare_extrinsic(ours, &theirs);
    for pallet in ours.pallets() {
        let other = theirs.pallet_by_name(pallet.name()).expect("mainnet has every pallet of ours");
        compare_pallet(&pallet, &other, &mut report);
    }
    for api in ours.runtime_api_traits() {
        for method in api.methods() {
            let other = theirs
                .runtime_api_trait_by_name(api.name())
                .and_then(|t| t.method_by_name(method.name()).map(|m| m.hash()));
            report.note(format!("api {}.{}", api.name(), method.name()), other == Some(method.hash()));
        }
    }
    let unexpected: Vec<&String> = report.different.iter().filter(|name| !ALLOWED.contains(&name.as_str())).collect();
    assert!(unexpected.is_empty(), "differ from mainnet: {unexpected:#?}");
    for required in REQUIRED {
        assert!(report.equal.iter().any(|name| name == required), "{required}");
    }
    for call in [
        "SubtensorModule.set_weights",
        "SubtensorModule.add_stake",
        "SubtensorModule.burned_register",
        "Commitments.set_commitment",
    ] {
        let name = format!("call {call}");
        assert!(report.equal.contains(&name), "{name}");
    }
    assert!(report.equal.len() > 120, "only {} entries were compared", report.equal.len());
    net.stop().await;
}

#[derive(Default)]
struct Report {
    equal: Vec<String>,
    different: Vec<String>,
}

impl Report {
    fn note(&mut self, name: String, equal: bool) {
        if equal { &mut self.equal } else { &mut self.different }.push(name);
    }
}

fn compare_extrinsic(ours: &Metadata, theirs: &Metadata) {
    let extensions = |metadata: &Metadata| -> Vec<String> {
        let extensions = metadata.extrinsic().transaction_extensions_by_version(0).expect("version 0");
        extensions.map(|extension| extension.identifier().to_string()).collect()
    };
    assert_eq!(extensions(ours), extensions(theirs));
    assert_eq!(ours.extrinsic().supported_versions(), theirs.extrinsic().supported_versions());
}

fn compare_pallet(ours: &PalletMetadata<'_>, theirs: &PalletMetadata<'_>, report: &mut Report) {
    let name = ours.name();
    if ours.call_variants().is_some() {
        assert_eq!(ours.call_index(), theirs.call_index(), "{name}");
    }
    assert!(ours.event_variants().is_none() || ours.event_index() == theirs.event_index(), "{name}");
    for call in ours.call_variants().into_iter().flatten() {
        let same_index = theirs.call_variant_by_name(&call.name).is_some_and(|other| other.index == call.index);
        let same = same_index && ours.call_hash(&call.name) == theirs.call_hash(&call.name);
        report.note(format!("call {name}.{}", call.name), same);
    }
    for entry in ours.storage().into_iter().flat_map(|storage| storage.entries()) {
        // A storage hash does not cover the default.
        let default = |pallet: &PalletMetadata<'_>| {
            let entry = pallet.storage().and_then(|storage| storage.entry_by_name(entry.name()))?;
            Some(entry.default_value().map(<[u8]>::to_vec))
        };
        let same =
            ours.storage_hash(entry.name()) == theirs.storage_hash(entry.name()) && default(ours) == default(theirs);
        report.note(format!("storage {name}.{}", entry.name()), same);
    }
    for constant in ours.constants() {
        let same = ours.constant_hash(constant.name()) == theirs.constant_hash(constant.name());
        report.note(format!("constant {name}.{}", constant.name()), same);
    }
    let variants = [
        ("error", ours.error_variants(), theirs.error_variants()),
        ("event", ours.event_variants(), theirs.event_variants()),
    ];
    for (kind, ours, theirs) in variants {
        for variant in ours.into_iter().flatten() {
            let same = theirs.into_iter().flatten().any(|other| {
                let same_fields = other.fields.len() == variant.fields.len();
                other.name == variant.name && other.index == variant.index && same_fields
            });
            report.note(format!("{kind} {name}.{}", variant.name), same);
        }
    }
}
