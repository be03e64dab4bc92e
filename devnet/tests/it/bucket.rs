//! The bucket through the AWS client, the way workers use it.

use crate::{
    s3::{BUCKET, client, code, get, hotkey, put},
    support::{Net, address, key},
};
use aws_sdk_s3::{
    error::ProvideErrorMetadata,
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bistro_devnet::Options;
use subxt_signer::sr25519::dev;

#[tokio::test(flavor = "multi_thread")]
async fn a_hotkey_writes_under_itself_and_everybody_reads_it() {
    let net = Net::start(Options::default()).await;
    let (alice, bob) = (address(&dev::alice()), address(&dev::bob()));
    let (writer, reader) = (hotkey(&net, &alice), hotkey(&net, &bob));
    let key = format!("1/1/{alice}/00000003/commit.json");
    let body = ByteStream::from_static(b"hello");
    let put = writer.put_object().bucket(BUCKET).key(&key).body(body).metadata("run", "7").content_type("text/plain");
    let e_tag = put.send().await.expect("written").e_tag;
    let got = reader.get_object().bucket(BUCKET).key(&key).send().await.expect("read");
    assert_eq!(got.e_tag, e_tag);
    assert_eq!(got.content_type.as_deref(), Some("text/plain"));
    assert_eq!(got.metadata.as_ref().and_then(|all| all.get("run")).map(String::as_str), Some("7"));
    let modified = got.last_modified;
    assert_eq!(modified.expect("a time").subsec_nanos(), 0);
    assert_eq!(got.body.collect().await.expect("bytes").to_vec(), b"hello");
    let head = reader.head_object().bucket(BUCKET).key(&key).send().await.expect("read");
    assert_eq!((head.content_length, head.e_tag, head.last_modified), (Some(5), e_tag, modified));
    let part = reader.get_object().bucket(BUCKET).key(&key).range("bytes=1-3").send().await.expect("read");
    assert_eq!(part.content_range.as_deref(), Some("bytes 1-3/5"));
    assert_eq!(part.body.collect().await.expect("bytes").to_vec(), b"ell");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_conditional_writes_exactly_one_wins() {
    let net = Net::start(Options::default()).await;
    let alice = address(&dev::alice());
    let client = hotkey(&net, &alice);
    for round in 0..8 {
        let key = format!("1/1/{alice}/{round:08}/commit.json");
        let writes = (0..16u8).map(|writer| {
            let (client, key) = (client.clone(), key.clone());
            tokio::spawn(async move {
                let body = ByteStream::from(vec![writer; 100_000]);
                let put = client.put_object().bucket(BUCKET).key(key).if_none_match("*").body(body).send().await;
                (writer, put.map(|_| ()).map_err(|error| error.code().unwrap_or("?").to_owned()))
            })
        });
        let mut winners = Vec::new();
        for write in writes.collect::<Vec<_>>() {
            match write.await.expect("finished") {
                (writer, Ok(())) => winners.push(writer),
                (_, Err(code)) => assert_eq!(code, "PreconditionFailed"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(get(&client, &key).await, Ok(vec![winners[0]; 100_000]));
    }
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_counts_whole_or_not_at_all() {
    let net = Net::start(Options::default()).await;
    let alice = address(&dev::alice());
    let client = hotkey(&net, &alice);
    let key = format!("1/1/{alice}/00000003/delta.safetensors");
    // CRC32 of other bytes.
    let body = ByteStream::from_static(b"real bytes");
    let put = client.put_object().bucket(BUCKET).key(&key).checksum_crc32("AAAAAA==").body(body).send().await;
    assert_eq!(code(put), "BadDigest");
    assert_eq!(get(&client, &key).await, Err("NoSuchKey".into()));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_sees_half_of_a_rewrite() {
    let net = Net::start(Options::default()).await;
    let alice = address(&dev::alice());
    let client = hotkey(&net, &alice);
    let key = format!("1/1/{alice}/00000003/verdicts.json");
    put(&client, &key, &[0; 300_000]).await.expect("written");
    let writer = {
        let (client, key) = (client.clone(), key.clone());
        tokio::spawn(async move {
            for value in 1..10u8 {
                let body = vec![value; 300_000 - usize::from(value)];
                put(&client, &key, &body).await.expect("written");
            }
        })
    };
    while !writer.is_finished() {
        let bytes = get(&client, &key).await.expect("read");
        assert_eq!(bytes.len(), 300_000 - usize::from(bytes[0]));
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    }
    writer.await.expect("all written");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_corpus_can_be_read_and_listed_but_not_written() {
    let corpus = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(corpus.path().join("std")).expect("made");
    std::fs::write(corpus.path().join("std/vec.rs"), "pub struct Vec;").expect("written");
    std::os::unix::fs::symlink("/etc/hostname", corpus.path().join("secret")).expect("linked");
    std::os::unix::fs::symlink("/etc", corpus.path().join("etc")).expect("linked");
    let net = Net::start(Options { corpus: Some(corpus.path().to_path_buf()), ..Options::default() }).await;
    let alice = address(&dev::alice());
    let client = hotkey(&net, &alice);
    assert_eq!(get(&client, "corpus/std/vec.rs").await.as_deref(), Ok(&b"pub struct Vec;"[..]));
    for key in ["corpus/secret", "corpus/etc/hostname", "corpus/std", "corpus"] {
        assert_eq!(get(&client, key).await, Err("NoSuchKey".into()), "{key}");
    }
    let listed = client.list_objects_v2().bucket(BUCKET).prefix("corpus/").send().await.expect("listed");
    let keys: Vec<_> = listed.contents().iter().filter_map(|object| object.key()).collect();
    assert_eq!(keys, ["corpus/std/vec.rs"]);
    assert_eq!(put(&client, &format!("corpus/{alice}/00000001/x"), b"x").await, Err("AccessDenied".into()));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_fold_and_page() {
    let net = Net::start(Options::default()).await;
    let admin = client(&net.devnet.s3_url(), "admin", "admin");
    for index in 0..7 {
        put(&admin, &format!("datasets/rust/{index:04}.shard"), b"x").await.expect("written");
    }
    put(&admin, "datasets/other/index.json", b"x").await.expect("written");
    let folded =
        admin.list_objects_v2().bucket(BUCKET).prefix("datasets/").delimiter("/").send().await.expect("listed");
    let prefixes: Vec<_> = folded.common_prefixes().iter().filter_map(|prefix| prefix.prefix()).collect();
    assert_eq!(prefixes, ["datasets/other/", "datasets/rust/"]);
    let mut pages = admin.list_objects_v2().bucket(BUCKET).prefix("datasets/rust/").max_keys(3).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        keys.extend(page.expect("listed").contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    assert_eq!(keys, (0..7).map(|index| format!("datasets/rust/{index:04}.shard")).collect::<Vec<_>>());
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_becomes_one_object() {
    let net = Net::start(Options::default()).await;
    let alice = address(&key("//parts"));
    let client = hotkey(&net, &alice);
    let key = format!("1/1/{alice}/00000001/model.safetensors");
    let created = client.create_multipart_upload().bucket(BUCKET).key(&key).send().await.expect("begun");
    let id = created.upload_id.expect("an id");
    let mut parts = Vec::new();
    for number in 1..=3 {
        let body = ByteStream::from(vec![number as u8; 1000]);
        let part = client.upload_part().bucket(BUCKET).key(&key).upload_id(&id).part_number(number).body(body);
        let e_tag = part.send().await.expect("a part").e_tag;
        parts.push(CompletedPart::builder().part_number(number).set_e_tag(e_tag).build());
    }
    assert_eq!(get(&client, &key).await, Err("NoSuchKey".into()));
    let thief = hotkey(&net, &address(&dev::bob()));
    let abort = thief.abort_multipart_upload().bucket(BUCKET).key(&key).upload_id(&id).send().await;
    assert_eq!(code(abort), "AccessDenied");
    let all = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let complete = client.complete_multipart_upload().bucket(BUCKET).key(&key).upload_id(&id).multipart_upload(all);
    complete.send().await.expect("joined");
    let expected: Vec<u8> = (1..=3u8).flat_map(|number| vec![number; 1000]).collect();
    assert_eq!(get(&client, &key).await, Ok(expected));
    net.stop().await;
}
