//! The bucket, and the only place that knows S3.
//!
//! Every method puts the subnet's prefix before the key, counts its requests, notes whether the bucket answers, and tries
//! again for [`PATIENCE`] where a fault may pass. What stays is an [`Error`] that names the key and the remedy. Sizes are
//! checked against the reader's bound before the body is read, and again while it is read: nobody's object decides how
//! much memory a node takes.

mod clock;
mod connect;
pub(crate) mod credentials;
mod error;
mod transfer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_sdk_s3::{Client, primitives::ByteStream};
use bistro_api::settings;
use bytes::Bytes;

pub use credentials::Credentials;
pub use error::{Error, Op};

use self::clock::BucketClock;
use crate::{
    retry::{Fault, Retry, Stopped},
    telemetry::Telemetry,
};

/// How long one call tries again before it gives the error back.
const PATIENCE: Duration = Duration::from_secs(15);

/// Objects per page of a listing; what S3 allows.
const PAGE: usize = 1000;

/// An object as it was read.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its content.
    pub bytes: Bytes,
    /// When the bucket took it, Unix time in whole seconds.
    pub last_modified: i64,
    /// Length of the content in bytes.
    pub size: u64,
}

/// What the bucket says about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Length in bytes.
    pub size: u64,
    /// When the bucket took it, Unix time in whole seconds.
    pub last_modified: i64,
}

/// What a listing says about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// When the bucket took it, Unix time in whole seconds; 0 where the bucket does not say.
    pub last_modified: i64,
}

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was not there and is now.
    Stored,
    /// An object is there already and was left alone. It may be our own, stored by a write whose answer got lost: read it
    /// back and compare.
    Exists,
}

/// One subnet's bucket. Clones share connections.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    name: String,
    prefix: String,
    clock: BucketClock,
    telemetry: Telemetry,
    /// The bucket took a read from this node.
    read: AtomicBool,
    /// The bucket took a write from this node.
    written: AtomicBool,
}

impl Inner {
    /// Whether the bucket took a request of this kind before.
    fn worked(&self, op: Op) -> &AtomicBool {
        match op {
            Op::Get | Op::Head | Op::List => &self.read,
            Op::Put | Op::Delete => &self.written,
        }
    }
}

impl Bucket {
    /// Prepares the client; nothing is sent yet. Fails only where the settings cannot work at all.
    pub async fn new(
        settings: &settings::Bucket,
        credentials: Credentials,
        telemetry: Telemetry,
    ) -> Result<Self, Error> {
        let clock = BucketClock::default();
        let client = connect::client(settings, credentials, clock.clone()).await?;
        let settings::Bucket { name, prefix, .. } = settings.clone();
        let (read, written) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { inner: Arc::new(Inner { client, name, prefix, clock, telemetry, read, written }) })
    }

    /// A lower bound of what the bucket's own clock shows now, Unix time in milliseconds; `None` before its first
    /// answer. LastModified is set by that clock, so deadlines and openings are waited for by it.
    pub fn now_ms(&self) -> Option<u64> {
        self.inner.clock.now_ms()
    }

    /// The object, or `None` where there is none. Larger than `most` bytes: [`Error::TooLarge`], and nothing of it was
    /// downloaded.
    pub async fn get(&self, key: &str, most: u64) -> Result<Option<Object>, Error> {
        self.patiently(Op::Get, || self.get_once(key, None, most)).await
    }

    /// As [`get`](Self::get), of the `length` bytes from `start` on, which lie within the object; `length` is not 0.
    pub async fn get_range(&self, key: &str, start: u64, length: u64) -> Result<Option<Object>, Error> {
        let range = format!("bytes={start}-{}", start.saturating_add(length) - 1);
        self.patiently(Op::Get, || self.get_once(key, Some(range.clone()), length)).await
    }

    /// What the bucket says about the object, or `None` where there is none.
    pub async fn head(&self, key: &str) -> Result<Option<Head>, Error> {
        self.patiently(Op::Head, || self.head_once(key)).await
    }

    /// Stores the object unless one is there (`If-None-Match: *`). Of any number of concurrent writers one gets
    /// [`Put::Stored`].
    pub async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Put, Error> {
        self.patiently(Op::Put, || self.put_once(key, bytes.clone(), true)).await
    }

    /// Stores the object, in place of one that may be there.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), Error> {
        self.patiently(Op::Put, || self.put_once(key, bytes.clone(), false)).await.map(|_| ())
    }

    /// Keys that start with `prefix`, in order, and their sizes in bytes; no more than `limit`. A listing is a hint for
    /// cleaning up: never proof that an object is there or is not.
    pub async fn list(&self, prefix: &str, limit: usize) -> Result<Vec<(String, u64)>, Error> {
        let listed = self.list_objects(prefix, limit).await?;
        Ok(listed.into_iter().map(|Listed { key, size, last_modified: _ }| (key, size)).collect())
    }

    /// As [`list`](Self::list), with all that a listing says.
    pub async fn list_objects(&self, prefix: &str, limit: usize) -> Result<Vec<Listed>, Error> {
        self.patiently(Op::List, || self.list_once(prefix, limit)).await
    }

    /// Removes the object; it is no error if there is none.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        self.patiently(Op::Delete, || self.delete_once(key)).await
    }

    /// Runs one operation with the counting, noting and trying again that all operations share.
    async fn patiently<T, F>(&self, op: Op, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Answer<T>, Error>>,
    {
        let telemetry = &self.inner.telemetry;
        let count = |outcome| telemetry.metrics.bucket_requests.with_label_values(&[op.as_str(), outcome]).inc();
        let once = || async {
            match attempt().await {
                Ok(Answer { value, outcome }) => {
                    count(outcome);
                    telemetry.bucket(Ok(()));
                    self.inner.worked(op).store(true, Ordering::Relaxed);
                    Ok(value)
                }
                Err(error) => {
                    count(error.outcome());
                    if let Some(answered) = error.reached() {
                        telemetry.bucket(answered);
                    }
                    Err(error)
                }
            }
        };
        let judge = |error: &Error| {
            if error.is_transient() {
                tracing::debug!("{error}");
                Fault::Transient
            } else {
                Fault::Permanent
            }
        };
        Retry::new().within(PATIENCE).run(judge, once).await.map_err(|stopped| match stopped {
            Stopped::Fault(error) => error,
            Stopped::Cancelled => Error::Stopped { op },
        })
    }

    async fn get_once(&self, key: &str, range: Option<String>, most: u64) -> Result<Answer<Option<Object>>, Error> {
        let at = self.at(Op::Get, key);
        let request =
            self.inner.client.get_object().bucket(&self.inner.name).key(self.full(key)).set_range(range).send();
        let output = match transfer::within(transfer::ANSWER, &at, request).await? {
            Ok(output) => output,
            Err(e) if at.is_absent(&e) => return Ok(Answer { value: None, outcome: "absent" }),
            Err(e) => return Err(at.failed(e)),
        };
        let last_modified = output.last_modified().ok_or_else(|| at.odd("the answer has no LastModified"))?.secs();
        let promised = output.content_length().and_then(|size| u64::try_from(size).ok());
        if let Some(size) = promised.filter(|size| *size > most) {
            return Err(Error::TooLarge { key: key.to_owned(), size, most });
        }
        let received = &self.inner.telemetry.metrics.download_bytes;
        let bytes = transfer::collect(output.body, promised, most, &at, received).await?;
        let size = bytes.len() as u64;
        Ok(Answer::ok(Some(Object { bytes, last_modified, size })))
    }

    async fn head_once(&self, key: &str) -> Result<Answer<Option<Head>>, Error> {
        let at = self.at(Op::Head, key);
        let request = self.inner.client.head_object().bucket(&self.inner.name).key(self.full(key)).send();
        let output = match transfer::within(transfer::ANSWER, &at, request).await? {
            Ok(output) => output,
            Err(e) if at.is_absent(&e) => return Ok(Answer { value: None, outcome: "absent" }),
            Err(e) => return Err(at.failed(e)),
        };
        let last_modified = output.last_modified().ok_or_else(|| at.odd("the answer has no LastModified"))?.secs();
        let size = output.content_length().and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| at.odd("the answer has no Content-Length"))?;
        Ok(Answer::ok(Some(Head { size, last_modified })))
    }

    async fn put_once(&self, key: &str, bytes: Bytes, only_new: bool) -> Result<Answer<Put>, Error> {
        let at = self.at(Op::Put, key);
        let size = bytes.len() as u64;
        let request = self
            .inner
            .client
            .put_object()
            .bucket(&self.inner.name)
            .key(self.full(key))
            .set_if_none_match(only_new.then(|| "*".to_owned()))
            .body(ByteStream::from(bytes))
            .send();
        match transfer::within(transfer::for_upload(size), &at, request).await? {
            Ok(_) => {
                self.inner.telemetry.metrics.upload_bytes.inc_by(size);
                Ok(Answer::ok(Put::Stored))
            }
            Err(e) if only_new && error::status(&e) == Some(412) => {
                Ok(Answer { value: Put::Exists, outcome: "exists" })
            }
            Err(e) => Err(at.failed(e)),
        }
    }

    async fn list_once(&self, prefix: &str, limit: usize) -> Result<Answer<Vec<Listed>>, Error> {
        let at = self.at(Op::List, prefix);
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        while found.len() < limit {
            let page = PAGE.min(limit - found.len());
            let request = self
                .inner
                .client
                .list_objects_v2()
                .bucket(&self.inner.name)
                .prefix(self.full(prefix))
                .max_keys(page as i32)
                .set_continuation_token(next.take())
                .send();
            let output = transfer::within(transfer::ANSWER, &at, request).await?.map_err(|e| at.failed(e))?;
            for object in output.contents().iter().take(page) {
                let Some(key) = object.key().and_then(|key| key.strip_prefix(&self.inner.prefix)) else { continue };
                let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                let last_modified = object.last_modified().map_or(0, |time| time.secs());
                found.push(Listed { key: key.to_owned(), size, last_modified });
            }
            next = output.next_continuation_token().map(str::to_owned);
            // A page without objects would let a hostile server keep us here for ever.
            if next.is_none() || output.contents().is_empty() {
                break;
            }
        }
        Ok(Answer::ok(found))
    }

    async fn delete_once(&self, key: &str) -> Result<Answer<()>, Error> {
        let at = self.at(Op::Delete, key);
        let request = self.inner.client.delete_object().bucket(&self.inner.name).key(self.full(key)).send();
        match transfer::within(transfer::ANSWER, &at, request).await? {
            Ok(_) => Ok(Answer::ok(())),
            Err(e) if at.is_absent(&e) => Ok(Answer { value: (), outcome: "absent" }),
            Err(e) => Err(at.failed(e)),
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.inner.prefix)
    }

    fn at(&self, op: Op, key: &str) -> error::At {
        let worked = self.inner.worked(op).load(Ordering::Relaxed);
        error::At { op, bucket: self.inner.name.clone(), key: key.to_owned(), worked }
    }
}

/// What one attempt brought, and the word that it is counted under.
struct Answer<T> {
    value: T,
    outcome: &'static str,
}

impl<T> Answer<T> {
    fn ok(value: T) -> Self {
        Self { value, outcome: "ok" }
    }
}
