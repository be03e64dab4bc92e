//! The bytes of an upload: to a file, counted, and checked against what the client said about them.

use super::folder::internal;
use futures::StreamExt;
use s3s::{
    S3Result, TrailingHeaders,
    checksum::ChecksumHasher,
    dto::{Checksum, ChecksumAlgorithm, StreamingBlob},
    s3_error,
};
use std::path::Path;
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
};

/// The most bytes of an object, as on S3 for one PUT.
pub const MAX_OBJECT_BYTES: u64 = 5 << 30;

const BUFFER_BYTES: usize = 256 << 10;

/// What a client says about the bytes that it sends.
#[derive(Default)]
pub struct Claims {
    /// The length, if it is known beforehand.
    pub length: Option<i64>,
    /// The algorithm of a checksum that comes after the bytes.
    pub algorithm: Option<ChecksumAlgorithm>,
    /// The checksums that came before the bytes.
    pub checksum: Checksum,
    /// What came after the bytes.
    pub trailers: Option<TrailingHeaders>,
}

/// Writes the bytes to a new file.
///
/// # Errors
/// `EntityTooLarge`, `IncompleteBody` or `BadDigest`; the file is deleted.
pub async fn receive(body: Option<StreamingBlob>, claims: Claims, path: &Path) -> S3Result<u64> {
    let received = try_receive(body, claims, path).await;
    if received.is_err() {
        // Otherwise it is deleted at the next start.
        let _ = tokio::fs::remove_file(path).await;
    }
    received
}

async fn try_receive(body: Option<StreamingBlob>, claims: Claims, path: &Path) -> S3Result<u64> {
    let Claims { length, algorithm, checksum, trailers } = claims;
    let claimed = length.map(|length| u64::try_from(length).unwrap_or(u64::MAX));
    if claimed.is_some_and(|length| length > MAX_OBJECT_BYTES) {
        return Err(too_large());
    }
    let mut hasher = hasher(&checksum, algorithm.as_ref())?;
    let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create_new(path).await.map_err(internal)?);
    let mut size = 0;
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| s3_error!(IncompleteBody, "the body ended early: {error}"))?;
            size += chunk.len() as u64;
            if size > MAX_OBJECT_BYTES {
                return Err(too_large());
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(internal)?;
        }
    }
    file.flush().await.map_err(internal)?;
    verify(&hasher.finalize(), checksum, trailers)?;
    Ok(size)
}

fn too_large() -> s3s::S3Error {
    s3_error!(EntityTooLarge, "an object has at most {MAX_OBJECT_BYTES} bytes")
}

/// A hasher of every algorithm that the client uses.
fn hasher(claimed: &Checksum, later: Option<&ChecksumAlgorithm>) -> S3Result<ChecksumHasher> {
    let later = later.map(ChecksumAlgorithm::as_str);
    let known = [
        ChecksumAlgorithm::CRC32,
        ChecksumAlgorithm::CRC32C,
        ChecksumAlgorithm::SHA1,
        ChecksumAlgorithm::SHA256,
        ChecksumAlgorithm::CRC64NVME,
    ];
    if later.is_some_and(|later| !known.contains(&later)) {
        return Err(s3_error!(NotImplemented, "the checksum algorithm is not known"));
    }
    let wants = |claim: &Option<String>, name| claim.is_some() || later == Some(name);
    let mut hasher = ChecksumHasher::default();
    if wants(&claimed.checksum_crc32, ChecksumAlgorithm::CRC32) {
        hasher.crc32 = Some(Default::default());
    }
    if wants(&claimed.checksum_crc32c, ChecksumAlgorithm::CRC32C) {
        hasher.crc32c = Some(Default::default());
    }
    if wants(&claimed.checksum_sha1, ChecksumAlgorithm::SHA1) {
        hasher.sha1 = Some(Default::default());
    }
    if wants(&claimed.checksum_sha256, ChecksumAlgorithm::SHA256) {
        hasher.sha256 = Some(Default::default());
    }
    if wants(&claimed.checksum_crc64nvme, ChecksumAlgorithm::CRC64NVME) {
        hasher.crc64nvme = Some(Default::default());
    }
    Ok(hasher)
}

fn verify(found: &Checksum, mut claimed: Checksum, trailers: Option<TrailingHeaders>) -> S3Result<()> {
    let trailers = trailers.and_then(|trailers| trailers.take()).unwrap_or_default();
    let pairs = [
        ("x-amz-checksum-crc32", &found.checksum_crc32, &mut claimed.checksum_crc32),
        ("x-amz-checksum-crc32c", &found.checksum_crc32c, &mut claimed.checksum_crc32c),
        ("x-amz-checksum-sha1", &found.checksum_sha1, &mut claimed.checksum_sha1),
        ("x-amz-checksum-sha256", &found.checksum_sha256, &mut claimed.checksum_sha256),
        ("x-amz-checksum-crc64nvme", &found.checksum_crc64nvme, &mut claimed.checksum_crc64nvme),
    ];
    for (name, found, claimed) in pairs {
        let trailer = trailers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let claimed = claimed.take().or(trailer);
        if claimed.is_some() && claimed != *found {
            return Err(s3_error!(BadDigest, "{name} does not match the bytes"));
        }
    }
    Ok(())
}
