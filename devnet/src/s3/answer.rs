//! Between S3's types and ours.

use super::{
    BUCKET,
    folder::{Condition, Stat},
    listing::MAX_KEYS,
};
use s3s::{
    S3Request, S3Result,
    dto::{CommonPrefix, ETag, ETagCondition, Object},
    s3_error,
};

/// Refuses any other bucket.
pub fn ours(bucket: &str) -> S3Result<()> {
    if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket, "the only bucket is {BUCKET}")) }
}

/// Who asks. The access rules let nobody in without credentials.
pub fn access_key<T>(request: &S3Request<T>) -> S3Result<String> {
    let credentials = request.credentials.as_ref().ok_or_else(|| s3_error!(AccessDenied, "sign the request"))?;
    Ok(credentials.access_key.clone())
}

/// When a write counts, from its headers.
pub fn condition(if_match: Option<ETagCondition>, if_none_match: Option<ETagCondition>) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Condition::Present(None)),
        (Some(ETagCondition::ETag(e_tag)), None) => Ok(Condition::Present(Some(e_tag.into_value()))),
        _ => Err(s3_error!(NotImplemented, "a write knows If-None-Match: * or If-Match, not both")),
    }
}

/// A size as S3's types have it.
pub fn length(size: u64) -> S3Result<i64> {
    i64::try_from(size).map_err(|_| s3_error!(InternalError, "the object is too large"))
}

fn object((key, stat): (String, Stat)) -> S3Result<Object> {
    let Stat { size, modified, e_tag } = stat;
    Ok(Object {
        key: Some(key),
        size: Some(length(size)?),
        last_modified: Some(modified.into()),
        e_tag: Some(ETag::Strong(e_tag)),
        ..Default::default()
    })
}

/// The number of entries that a page may have.
pub fn max_keys(asked: Option<i32>) -> usize {
    asked.map_or(MAX_KEYS, |asked| usize::try_from(asked).unwrap_or(0).min(MAX_KEYS))
}

/// The folded entries of a page; absent if there are none.
pub fn prefixes(page: &[String]) -> Option<Vec<CommonPrefix>> {
    let prefix = |prefix: &String| CommonPrefix { prefix: Some(prefix.clone()) };
    (!page.is_empty()).then(|| page.iter().map(prefix).collect())
}

/// The objects of a page; absent if there are none.
pub fn objects(page: Vec<(String, Stat)>) -> S3Result<Option<Vec<Object>>> {
    let objects = page.into_iter().map(object).collect::<S3Result<Vec<_>>>()?;
    Ok((!objects.is_empty()).then_some(objects))
}
