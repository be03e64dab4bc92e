//! Bodies on their way, with bounds on memory and on time.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use prometheus::IntCounter;

use super::error::{At, Error, chain};

/// Longest wait for an answer to a request without a body.
pub(super) const ANSWER: Duration = Duration::from_secs(30);

/// Longest silence within a body.
pub(super) const SILENCE: Duration = Duration::from_secs(20);

/// Slowest upload that is waited for, in bytes per second.
const SLOWEST_UP: u64 = 64 * 1024;

/// Slowest download that is waited for, in bytes per second: a node reads sixteen objects at a time, over one link.
const SLOWEST_DOWN: u64 = SLOWEST_UP / 16;

/// First allocation for a body: beyond it memory follows the bytes that really came.
const FIRST: u64 = 1 << 20;

/// Longest time that an upload of this many bytes may take.
pub(super) fn for_upload(size: u64) -> Duration {
    ANSWER + Duration::from_secs(size / SLOWEST_UP)
}

/// Longest time that the body of a download of this many bytes may take.
fn for_download(size: u64) -> Duration {
    ANSWER + Duration::from_secs(size / SLOWEST_DOWN)
}

/// The output of `request`, or [`Error::Unreachable`] when it takes too long.
pub(super) async fn within<T>(limit: Duration, at: &At, request: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(limit, request)
        .await
        .map_err(|_| at.unreachable(format!("nothing within {} s", limit.as_secs())))
}

/// The whole body, of at most `most` bytes whatever the header promised.
pub(super) async fn collect(
    mut body: ByteStream,
    promised: Option<u64>,
    most: u64,
    at: &At,
    received: &IntCounter,
) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::with_capacity(promised.unwrap_or(0).min(FIRST) as usize);
    let reading = async {
        while let Some(chunk) = within(SILENCE, at, body.next()).await? {
            let chunk = chunk.map_err(|e| at.unreachable(chain(&e)))?;
            received.inc_by(chunk.len() as u64);
            let size = bytes.len() as u64 + chunk.len() as u64;
            if size > most {
                return Err(Error::TooLarge { key: at.key.clone(), size, most });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    within(for_download(promised.unwrap_or(most)), at, reading).await??;
    if promised.is_some_and(|size| size != bytes.len() as u64) {
        return Err(at.unreachable("the connection ended within the body"));
    }
    Ok(bytes.freeze())
}
