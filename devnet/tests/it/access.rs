//! Who may do what in the bucket.

use crate::{
    s3::{BUCKET, client, code, get, hotkey, put},
    support::{Net, address},
};
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Region},
    types::{Delete, ObjectIdentifier},
};
use bistro_devnet::Options;
use subxt_signer::sr25519::dev;

#[tokio::test(flavor = "multi_thread")]
async fn foreign_writes_and_deletes_are_refused() {
    let net = Net::start(Options::default()).await;
    let (alice, bob) = (address(&dev::alice()), address(&dev::bob()));
    let (owner, thief) = (hotkey(&net, &alice), hotkey(&net, &bob));
    let admin = client(&net.devnet.s3_url(), "admin", "admin");
    let key = format!("1/1/{alice}/00000003/delta.safetensors");
    put(&owner, &key, b"mine").await.expect("written");
    for other in [&thief, &admin] {
        assert_eq!(put(other, &key, b"theirs").await, Err("AccessDenied".into()));
        assert_eq!(code(other.delete_object().bucket(BUCKET).key(&key).send().await), "AccessDenied");
    }
    let object = ObjectIdentifier::builder().key(&key).build().expect("a key");
    let all = Delete::builder().objects(object).build().expect("a list");
    let deleted = thief.delete_objects().bucket(BUCKET).delete(all).send().await.expect("answered");
    assert_eq!(deleted.errors().first().and_then(|error| error.code()), Some("AccessDenied"));
    assert_eq!(code(thief.delete_bucket().bucket(BUCKET).send().await), "AccessDenied");
    assert_eq!(code(thief.create_bucket().bucket("another").send().await), "AccessDenied");
    let copy = thief.copy_object().bucket(BUCKET).key(&key).copy_source(format!("{BUCKET}/{key}"));
    assert_eq!(code(copy.send().await), "AccessDenied");
    assert_eq!(get(&thief, &key).await.as_deref(), Ok(&b"mine"[..]));
    owner.delete_object().bucket(BUCKET).key(&key).send().await.expect("deleted");
    assert_eq!(get(&owner, &key).await, Err("NoSuchKey".into()));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_writes_data_sets_and_nothing_else() {
    let net = Net::start(Options { admin_secret: "s3cret".into(), ..Options::default() }).await;
    let admin = client(&net.devnet.s3_url(), "admin", "s3cret");
    put(&admin, "datasets/rust/index.json", b"{}").await.expect("written");
    put(&admin, "demo/datasets/rust/index.json", b"{}").await.expect("written after a prefix");
    assert_eq!(put(&admin, "index.json", b"{}").await, Err("AccessDenied".into()));
    assert_eq!(put(&admin, "corpus/datasets/x", b"{}").await, Err("AccessDenied".into()));
    let wrong = client(&net.devnet.s3_url(), "admin", "admin");
    assert_eq!(get(&wrong, "datasets/rust/index.json").await, Err("SignatureDoesNotMatch".into()));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_the_right_secret() {
    let net = Net::start(Options::default()).await;
    let alice = address(&dev::alice());
    let wrong = client(&net.devnet.s3_url(), &alice, "wrong");
    assert_eq!(put(&wrong, &format!("1/1/{alice}/00000003/x"), b"x").await, Err("SignatureDoesNotMatch".into()));
    let stranger = client(&net.devnet.s3_url(), "stranger", "x");
    assert_eq!(get(&stranger, "x").await, Err("InvalidAccessKeyId".into()));
    let anonymous = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .region(Region::new("us-east-1"))
        .endpoint_url(net.devnet.s3_url())
        .force_path_style(true)
        .allow_no_auth()
        .build();
    let anonymous = Client::from_conf(anonymous);
    assert_eq!(code(anonymous.list_objects_v2().bucket(BUCKET).send().await), "AccessDenied");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_would_lead_out_of_the_bucket_are_refused() {
    let net = Net::start(Options::default()).await;
    let alice = address(&dev::alice());
    let client = hotkey(&net, &alice);
    let escape = format!("../../escape/{alice}/00000001/x");
    assert!(put(&client, &escape, b"x").await.is_err());
    assert!(get(&client, "../../chain/blocks.log").await.is_err());
    assert!(put(&client, &format!("1/./{alice}/00000001/x"), b"x").await.is_err());
    assert!(put(&client, &format!("1/1/{alice}/00000001/{}", "x".repeat(256)), b"x").await.is_err());
    assert!(!net._folder.path().join("escape").exists());
    net.stop().await;
}
