//! The chain through subxt's legacy backend, the way workers use it.

use crate::support::{Net, address, key, pool_error, register, set_weights, transfer};
use bistro_devnet::Options;
use subxt::{
    config::DefaultExtrinsicParamsBuilder,
    rpcs::{Error as RpcError, rpc_params},
};
use subxt_signer::sr25519::dev;

#[tokio::test(flavor = "multi_thread")]
async fn finalised_blocks_come_without_gaps_and_hash_as_clients_compute() {
    let net = Net::start(Options::default()).await;
    assert_eq!(net.client.legacy.system_chain().await.expect("a name"), "Bistro devnet");
    assert_eq!(net.client.api.genesis_hash().0, net.devnet.genesis());
    let mut stream = net.client.api.stream_blocks().await.expect("a stream");
    let mut last = None;
    for _ in 0..5 {
        let block = stream.next().await.expect("a block").expect("no error");
        assert!(last.is_none_or(|last| last + 1 == block.number()));
        last = Some(block.number());
        let hash = net.client.legacy.chain_get_block_hash(Some(block.number().into())).await.expect("an answer");
        assert_eq!(hash, Some(block.hash()));
    }
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_refuses_what_can_only_fail() {
    let net = Net::start(Options { stake_threshold: 1_000_000_000, ..Options::default() }).await;
    let client = &net.client;
    let (alice, bob) = (dev::alice(), dev::bob());
    let too_poor = client.send(&bob, &set_weights(1, &[0], &[1], 0)).await;
    assert_eq!(too_poor, Err("1010 \"Custom error: 1\"".into()));
    let penniless = client.send(&key("//Nobody"), &register(1, &bob)).await;
    let fees = "1010 \"Inability to pay some fees (e.g. account balance too low)\"";
    assert_eq!(penniless, Err(fees.into()));
    client.send(&alice, &register(1, &bob)).await.expect("registered");
    let at = client.api.at_current_block().await.expect("a block");
    let stale = DefaultExtrinsicParamsBuilder::new().nonce(0).build();
    let stale = at.tx().sign_and_submit_then_watch(&register(1, &alice), &alice, stale).await;
    let Err(refused) = stale else { panic!("a stale nonce must be refused") };
    assert_eq!(pool_error(&refused), "1010 \"Transaction is outdated\"");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_transfers_of_one_account_are_finalised() {
    let net = Net::start(Options::default()).await;
    let client = &net.client;
    let (alice, to) = (dev::alice(), key("//somebody"));
    let first = client.next_nonce(&alice).await;
    let at = client.api.at_current_block().await.expect("a block");
    for nonce in first..first + 200 {
        let params = DefaultExtrinsicParamsBuilder::new().nonce(nonce).immortal().build();
        let signed = at.tx().create_signed(&transfer(&to, 1_000), &alice, params).await.expect("signed");
        signed.submit().await.expect("taken");
    }
    client.blocks(12).await;
    let account = client.api.at_current_block().await.expect("a block");
    let nonce = account.tx().account_nonce(&alice.public_key().to_account_id()).await.expect("a nonce");
    assert_eq!(nonce, first + 200);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_are_refused_and_change_nothing() {
    let net = Net::start(Options::default()).await;
    let rpc = &net.client.rpc;
    let refused = async |method: &str, params| {
        let answer: Result<serde_json::Value, RpcError> = rpc.request(method, params).await;
        answer.expect_err(method).to_string()
    };
    refused("author_submitExtrinsic", rpc_params!["0x0badc0de"]).await;
    refused("author_submitExtrinsic", rpc_params!["not hex"]).await;
    refused("author_submitExtrinsic", rpc_params![format!("0x{}", "ff".repeat(1 << 20))]).await;
    refused("state_call", rpc_params!["AccountNonceApi_account_nonce", "0x00"]).await;
    refused("state_call", rpc_params!["TransactionPaymentApi_query_info", "0xffffffff"]).await;
    refused("state_call", rpc_params!["TaggedTransactionQueue_validate_transaction", "0x02ff"]).await;
    refused("state_call", rpc_params!["Core_execute_block", "0x"]).await;
    refused("state_call", rpc_params!["No_such_method", "0x"]).await;
    refused("state_getKeysPaged", rpc_params!["0x", 1001]).await;
    refused("chain_getBlockHash", rpc_params!["0xffffffffffffffffffff"]).await;
    refused("system_accountNextIndex", rpc_params!["5nonsense"]).await;
    let unknown = refused("state_getStorage", rpc_params!["0x00", format!("0x{}", "11".repeat(32))]).await;
    assert!(unknown.contains("Header was not found in the database"), "{unknown}");
    net.client.blocks(2).await;
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_of_other_clients_answer_the_same() {
    let net = Net::start(Options::default()).await;
    let rpc = &net.client.rpc;
    let alice = address(&dev::alice());
    let ask = async |method: &str, params| rpc.request::<serde_json::Value>(method, params).await.expect("an answer");
    let nonce = ask("system_accountNextIndex", rpc_params![&alice]).await;
    assert_eq!(ask("account_nextIndex", rpc_params![&alice]).await, nonce);
    let version = ask("state_getRuntimeVersion", rpc_params![]).await;
    assert_eq!(version["specName"], "node-subtensor");
    assert_eq!(version["specVersion"], 424);
    assert_eq!(ask("chain_getRuntimeVersion", rpc_params![]).await, version);
    let listed = ask("rpc_methods", rpc_params![]).await.to_string();
    assert!(!listed.contains("chainHead_v1") && !listed.contains("archive_v1"), "clients would use nothing else");
    net.stop().await;
}
