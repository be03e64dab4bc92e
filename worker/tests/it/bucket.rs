//! The bucket client against a real S3 server, and against one that lies.

use bistro_worker::{
    bucket::{Bucket, Credentials, Error, Put},
    chain::Hotkey,
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{bucket, bucket_settings, devnet, soon, telemetry};

fn key(hotkey: &Hotkey, name: &str) -> String {
    format!("1/1/{}/00000007/{name}", hotkey.ss58())
}

#[tokio::test]
async fn objects_come_back_as_they_were_written_and_absence_is_no_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let hotkey = Hotkey::development("//writer");
    let telemetry = telemetry();
    let bucket = bucket(&devnet, "subnet/", &hotkey, telemetry.clone()).await;
    let key = key(&hotkey, "delta.safetensors");
    assert!(bucket.get(&key, 100).await.expect("absent is no error").is_none());
    assert!(bucket.head(&key).await.expect("absent is no error").is_none());
    bucket.delete(&key).await.expect("absent is no error");

    assert_eq!(bucket.put_new(&key, Bytes::from_static(b"first")).await.expect("stored"), Put::Stored);
    assert_eq!(bucket.put_new(&key, Bytes::from_static(b"other")).await.expect("answered"), Put::Exists);
    let object = bucket.get(&key, 5).await.expect("readable").expect("there");
    assert_eq!((&object.bytes[..], object.size), (&b"first"[..], 5));
    let head = bucket.head(&key).await.expect("readable").expect("there");
    assert_eq!((head.size, head.last_modified), (5, object.last_modified));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(object.last_modified.abs_diff(now as i64) < 3600, "Unix seconds: {}", object.last_modified);

    bucket.put(&key, Bytes::from_static(b"second")).await.expect("replaced");
    let own = format!("1/1/{}/", hotkey.ss58());
    assert_eq!(bucket.list(&own, 10).await.expect("listed"), [(key.clone(), 6)], "the prefix is taken off again");
    bucket.delete(&key).await.expect("deleted");
    assert!(bucket.list(&own, 10).await.expect("listed").is_empty());

    let shown = telemetry.status.read().bucket;
    assert!(shown.reachable && shown.error.is_none());
    assert_eq!(telemetry.metrics.upload_bytes.get(), 11);
    assert_eq!(telemetry.metrics.bucket_requests.with_label_values(&["put", "exists"]).get(), 1);
    devnet.shutdown().await;
}

#[tokio::test]
async fn of_many_first_writers_one_wins() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let hotkey = Hotkey::development("//writer");
    let bucket = bucket(&devnet, "", &hotkey, telemetry()).await;
    let key = key(&hotkey, "commit.json");
    let writes = (0..8u8).map(|i| {
        let (bucket, key) = (bucket.clone(), key.clone());
        tokio::spawn(async move { bucket.put_new(&key, Bytes::from(vec![i; 1000])).await })
    });
    let mut stored = Vec::new();
    for (i, write) in writes.collect::<Vec<_>>().into_iter().enumerate() {
        if soon(write).await.expect("no panic").expect("answered") == Put::Stored {
            stored.push(i as u8);
        }
    }
    assert_eq!(stored.len(), 1);
    let object = bucket.get(&key, 1000).await.expect("readable").expect("there");
    assert!(object.bytes.iter().all(|byte| *byte == stored[0]), "the winner's bytes are there");
    devnet.shutdown().await;
}

#[tokio::test]
async fn listings_of_many_pages_are_whole_and_bounded() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let hotkey = Hotkey::development("//writer");
    let bucket = bucket(&devnet, "", &hotkey, telemetry()).await;
    for name in 0..7 {
        bucket.put(&key(&hotkey, &format!("{name}")), Bytes::from(vec![0; name])).await.expect("stored");
    }
    let all = bucket.list("1/1/", 100).await.expect("listed");
    assert_eq!(all.iter().map(|(_, size)| *size).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(bucket.list("1/1/", 3).await.expect("listed"), all[..3]);
    devnet.shutdown().await;
}

#[tokio::test]
async fn nobody_writes_under_a_foreign_hotkey() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let (owner, stranger) = (Hotkey::development("//owner"), Hotkey::development("//stranger"));
    let bucket = bucket(&devnet, "", &stranger, telemetry()).await;
    let key = key(&owner, "commit.json");
    let refused = bucket.put_new(&key, Bytes::from_static(b"x")).await.expect_err("it must be refused");
    assert!(matches!(refused, Error::Denied { .. }) && refused.to_string().contains(&key), "{refused}");
    assert!(!refused.is_transient());
    assert!(bucket.get(&key, 10).await.expect("readable").is_none());
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_wrong_secret_and_a_missing_bucket_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let hotkey = Hotkey::development("//writer").ss58();
    let wrong = Credentials::Keys { access_key_id: hotkey.clone(), secret_access_key: "wrong".into() };
    let telemetry = telemetry();
    let bucket = Bucket::new(&bucket_settings(&devnet.s3_url(), ""), wrong, telemetry.clone()).await.expect("sound");
    let refused = bucket.get("1/1/x", 10).await.expect_err("a wrong secret");
    assert!(matches!(refused, Error::BadCredentials { .. } | Error::Denied { .. }), "{refused}");

    let mut settings = bucket_settings(&devnet.s3_url(), "");
    settings.name = "nothing-here".into();
    let bucket = Bucket::new(&settings, Credentials::development(&hotkey), telemetry).await.expect("sound");
    let refused = bucket.get("1/1/x", 10).await.expect_err("no such bucket");
    assert!(matches!(refused, Error::NoSuchBucket { .. } | Error::Denied { .. }), "{refused}");
    devnet.shutdown().await;
}

#[tokio::test]
async fn an_oversized_object_is_refused_before_it_is_downloaded() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let hotkey = Hotkey::development("//writer");
    let telemetry = telemetry();
    let bucket = bucket(&devnet, "", &hotkey, telemetry.clone()).await;
    let key = key(&hotkey, "delta.safetensors");
    bucket.put(&key, Bytes::from(vec![7; 3_000_000])).await.expect("stored");
    match bucket.get(&key, 2_999_999).await {
        Err(Error::TooLarge { size: 3_000_000, most: 2_999_999, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(telemetry.metrics.download_bytes.get(), 0);
    assert_eq!(bucket.get(&key, 3_000_000).await.expect("it fits").expect("there").size, 3_000_000);
    assert_eq!(telemetry.metrics.download_bytes.get(), 3_000_000);
    devnet.shutdown().await;
}

/// Answers every request with these headers and then with bytes for ever.
async fn endless(headers: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                if client.read(&mut request).await.is_err() {
                    return;
                }
                let head = format!("HTTP/1.1 200 OK\r\nLast-Modified: Sat, 21 Nov 2026 08:00:00 GMT\r\n{headers}\r\n");
                let mut answer = client.write_all(head.as_bytes()).await;
                while answer.is_ok() {
                    answer = client.write_all(format!("400\r\n{}\r\n", "x".repeat(0x400)).as_bytes()).await;
                }
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_server_that_hides_the_size_cannot_fill_the_memory() {
    let endpoint = endless("Transfer-Encoding: chunked\r\n").await;
    let telemetry = telemetry();
    let keys = Credentials::development("5Anybody");
    let bucket = Bucket::new(&bucket_settings(&endpoint, ""), keys, telemetry.clone()).await.expect("sound");
    let refused = soon(bucket.get("1/1/x", 100_000)).await.expect_err("it never ends");
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    assert!(telemetry.metrics.download_bytes.get() < 10_000_000);
}

#[tokio::test]
async fn unreadable_certificates_are_refused_at_the_start() {
    let mut settings = bucket_settings("https://127.0.0.1:1", "");
    for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        settings.ca_bundle = Some(pem.to_owned());
        let refused = Bucket::new(&settings, Credentials::development("5Anybody"), telemetry()).await.err();
        assert!(matches!(refused, Some(Error::CaBundle { .. })), "{pem}");
    }
}
