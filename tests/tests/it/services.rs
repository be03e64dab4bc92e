//! The bucket client against every fault of an S3 service: what may pass is told from what will not, and nothing is
//! lost when it has passed.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bistro_api::{Role, settings};
use bistro_devnet::{Devnet, Options};
use bistro_tests::proxy::{BucketFault, BucketProxy};
use bistro_worker::{
    bucket::{Bucket, Credentials, Error, Put},
    chain::Hotkey,
    telemetry::Telemetry,
};
use bytes::Bytes;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const SIZE: usize = 300_000;

async fn devnet(folder: &std::path::Path) -> Devnet {
    let options = Options { data: folder.to_owned(), ..Options::default() };
    Devnet::start(options).await.expect("a devnet starts")
}

fn s3(devnet: &Devnet) -> SocketAddr {
    devnet.s3_url().trim_start_matches("http://").parse().expect("the devnet listens on an address")
}

async fn client(endpoint: &str, hotkey: &str) -> (Bucket, Telemetry) {
    let settings: settings::Bucket =
        serde_json::from_value(json!({ "name": "bistro", "endpoint": endpoint })).expect("sound settings");
    let telemetry = Telemetry::new(Role::Miner);
    let keys = Credentials::development(hotkey);
    (Bucket::new(&settings, keys, telemetry.clone()).await.expect("sound settings"), telemetry)
}

/// One node's bucket behind a proxy, and the keys that it writes.
struct Way {
    proxy: BucketProxy,
    bucket: Bucket,
    telemetry: Telemetry,
    hotkey: String,
}

impl Way {
    async fn to(devnet: &Devnet, name: &str) -> Self {
        let (proxy, hotkey) = (BucketProxy::to(s3(devnet)).await, Hotkey::development(&format!("//{name}")).ss58());
        let (bucket, telemetry) = client(&proxy.url(), &hotkey).await;
        Self { proxy, bucket, telemetry, hotkey }
    }

    fn key(&self, name: &str) -> String {
        format!("1/1/{}/00000007/{name}", self.hotkey)
    }

    /// Stores an object and reads it.
    async fn works(&self, name: &str) {
        let bytes = Bytes::from(vec![7; SIZE]);
        assert_eq!(self.bucket.put_new(&self.key(name), bytes.clone()).await.expect("stored"), Put::Stored);
        let found = self.bucket.get(&self.key(name), SIZE as u64).await.expect("readable").expect("there");
        assert_eq!(found.bytes, bytes);
    }

    /// While this fault lasts reads and writes fail with something that may pass, and the status says so; afterwards
    /// everything is as it should be, whatever of it was stored.
    async fn survives(self, fault: BucketFault) {
        self.works("before").await;
        self.proxy.set(fault);
        let (read, written) = (self.key("before"), self.key("meanwhile"));
        let bytes = Bytes::from(vec![8; SIZE]);
        let (read, put) =
            tokio::join!(self.bucket.get(&read, SIZE as u64), self.bucket.put_new(&written, bytes.clone()));
        for error in [read.map(drop).expect_err("no read works"), put.map(drop).expect_err("no write works")] {
            assert!(error.is_transient(), "{fault:?}: {error}");
        }
        let shown = self.telemetry.status.read().bucket;
        assert!(!shown.reachable && shown.error.is_some(), "{fault:?}: {shown:?}");

        self.proxy.set(BucketFault::None);
        self.bucket.put_new(&written, bytes.clone()).await.expect("stored now, or before without a word");
        let found = self.bucket.get(&written, SIZE as u64).await.expect("readable").expect("there");
        assert_eq!(found.bytes, bytes, "{fault:?}");
        assert!(self.telemetry.status.read().bucket.reachable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_pass_are_told_from_faults_that_stay() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = &devnet(folder.path()).await;
    let faults = [
        ("refused", BucketFault::Refused),
        ("hanging", BucketFault::Hanging),
        ("busy", BucketFault::Busy),
        ("denied", BucketFault::Denied),
        ("truncated", BucketFault::Truncated),
    ];
    let passing = futures::future::join_all(
        faults.map(|(name, fault)| async move { Way::to(devnet, name).await.survives(fault).await }),
    );
    let staying = async {
        // Refused from the first request on: somebody has to change something.
        let way = Way::to(devnet, "stranger").await;
        way.proxy.set(BucketFault::Denied);
        let denied = way.bucket.get(&way.key("x"), 10).await.expect_err("denied");
        assert!(!denied.is_transient(), "{denied}");
        // Who may read and never could write has the wrong keys.
        way.proxy.set(BucketFault::None);
        assert!(way.bucket.get(&way.key("x"), 10).await.expect("answered").is_none());
        way.proxy.set(BucketFault::Denied);
        let denied = way.bucket.put_new(&way.key("x"), Bytes::new()).await.expect_err("denied");
        assert!(!denied.is_transient(), "{denied}");
    };
    let slow = async {
        let way = Way::to(devnet, "slow").await;
        way.proxy.set(BucketFault::Slow { delay: Duration::from_millis(500), bytes_per_second: 200_000 });
        way.works("slowly").await;
        assert!(way.proxy.met() >= 2 && way.telemetry.status.read().bucket.reachable);
    };
    let stale = async {
        let way = Way::to(devnet, "stale").await;
        way.proxy.set(BucketFault::Stale(SystemTime::now() - Duration::from_secs(2)));
        let (key, bytes) = (way.key("new"), Bytes::from_static(b"new"));
        assert_eq!(way.bucket.put_new(&key, bytes.clone()).await.expect("stored"), Put::Stored);
        assert!(way.bucket.get(&key, 10).await.expect("answered").is_none(), "it is not shown yet");
        assert_eq!(way.bucket.put_new(&key, bytes).await.expect("answered"), Put::Exists, "it is there all the same");
    };
    tokio::join!(passing, staying, slow, stale);
}

/// A 404 from whatever else answers at this address would be taken for the absence of everybody's work.
#[tokio::test]
async fn only_the_bucket_itself_can_say_that_an_object_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = client.read(&mut request).await;
            let page = "<html>no such host here</html>";
            let head = format!("HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", page.len());
            let _ = client.write_all((head + page).as_bytes()).await;
        }
    });
    let (bucket, telemetry) = client(&endpoint, "5Anybody").await;
    let odd = bucket.get("1/1/x", 10).await.expect_err("nothing is known of this object");
    assert!(matches!(odd, Error::OddAnswer { .. }) && odd.is_transient(), "{odd}");
    assert!(!telemetry.status.read().bucket.reachable);
}
