//! S3's operations on the one bucket.
//!
//! Not s3s-fs: it shows an object before it has checked its digest, decides a conditional write before it takes
//! the bytes, and reads the whole bucket for every listing.

use super::{
    BUCKET,
    access::may_write,
    answer::{access_key, condition, length, max_keys, objects, ours, prefixes},
    body::{self, Claims},
    folder::{Attributes, Folder, Opened, internal},
    listing::{self, Page, Query},
    uploads::Uploads,
};
use s3s::{S3, S3Request, S3Response, S3Result, dto::*, s3_error};
use std::{
    io::{Seek, SeekFrom},
    sync::Arc,
};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

const READ_BYTES: usize = 128 << 10;

/// The bucket, as s3s serves it.
pub struct Bucket {
    folder: Arc<Folder>,
    uploads: Arc<Uploads>,
}

type Answer<T> = S3Result<S3Response<T>>;

impl Bucket {
    pub fn new(folder: Folder) -> Bucket {
        Bucket { folder: Arc::new(folder), uploads: Arc::default() }
    }

    /// Runs something that reads or writes files where it may block.
    async fn blocking<T, F>(&self, action: F) -> S3Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Folder, &Uploads) -> S3Result<T> + Send + 'static,
    {
        let (folder, uploads) = (self.folder.clone(), self.uploads.clone());
        let joined = tokio::task::spawn_blocking(move || action(&folder, &uploads)).await;
        joined.map_err(|_| s3_error!(InternalError, "the operation failed"))?
    }

    async fn page(&self, bucket: &str, query: Query) -> S3Result<Page> {
        ours(bucket)?;
        self.blocking(move |folder, _| listing::list(folder, &query).map_err(internal)).await
    }
}

/// What a request says about its bytes. Both inputs that have bytes name these fields alike, without a trait.
macro_rules! claims {
    ($input:ident, $trailers:expr) => {
        Claims {
            length: $input.content_length,
            algorithm: $input.checksum_algorithm.clone(),
            checksum: Checksum {
                checksum_crc32: $input.checksum_crc32.clone(),
                checksum_crc32c: $input.checksum_crc32c.clone(),
                checksum_sha1: $input.checksum_sha1.clone(),
                checksum_sha256: $input.checksum_sha256.clone(),
                checksum_crc64nvme: $input.checksum_crc64nvme.clone(),
                ..Default::default()
            },
            trailers: $trailers,
        }
    };
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        let bucket = s3s::dto::Bucket { name: Some(BUCKET.into()), ..Default::default() };
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(vec![bucket]), ..Default::default() }))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        ours(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(&self, request: S3Request<GetBucketLocationInput>) -> Answer<GetBucketLocationOutput> {
        ours(&request.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        let input = request.input;
        let max_keys = max_keys(input.max_keys);
        let query = Query {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: input.continuation_token.clone().max(input.start_after.clone()),
            max_keys,
        };
        let page = self.page(&input.bucket, query).await?;
        let count = page.objects.len() + page.prefixes.len();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            start_after: input.start_after,
            continuation_token: input.continuation_token,
            max_keys: i32::try_from(max_keys).ok(),
            key_count: i32::try_from(count).ok(),
            is_truncated: Some(page.truncated),
            next_continuation_token: page.last.filter(|_| page.truncated),
            common_prefixes: prefixes(&page.prefixes),
            contents: objects(page.objects)?,
            ..Default::default()
        }))
    }

    async fn list_objects(&self, request: S3Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        let input = request.input;
        let max_keys = max_keys(input.max_keys);
        let query = Query {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: input.marker.clone(),
            max_keys,
        };
        let page = self.page(&input.bucket, query).await?;
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            marker: input.marker,
            max_keys: i32::try_from(max_keys).ok(),
            is_truncated: Some(page.truncated),
            next_marker: page.last.filter(|_| page.truncated),
            common_prefixes: prefixes(&page.prefixes),
            contents: objects(page.objects)?,
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = request.input;
        ours(&input.bucket)?;
        let opened = self.blocking(move |folder, _| folder.read(&input.key)).await?;
        let Opened { file: _, stat, attributes } = opened;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length(stat.size)?),
            content_type: attributes.content_type,
            metadata: attributes.user,
            last_modified: Some(stat.modified.into()),
            e_tag: Some(ETag::Strong(stat.e_tag)),
            ..Default::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = request.input;
        ours(&input.bucket)?;
        let Opened { mut file, stat, attributes } = self.blocking(move |folder, _| folder.read(&input.key)).await?;
        if let Some(ETagCondition::ETag(wanted)) = &input.if_match
            && wanted.value() != stat.e_tag
        {
            return Err(s3_error!(PreconditionFailed, "the object has another ETag"));
        }
        let range = match input.range {
            Some(range) => range.check(stat.size)?,
            None => 0..stat.size,
        };
        file.seek(SeekFrom::Start(range.start)).map_err(internal)?;
        let bytes = range.end - range.start;
        let file = tokio::fs::File::from_std(file).take(bytes);
        let last = range.end.saturating_sub(1);
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(ReaderStream::with_capacity(file, READ_BYTES))),
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length(bytes)?),
            content_range: input.range.map(|_| format!("bytes {}-{last}/{}", range.start, stat.size)),
            content_type: attributes.content_type,
            metadata: attributes.user,
            last_modified: Some(stat.modified.into()),
            e_tag: Some(ETag::Strong(stat.e_tag)),
            ..Default::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let S3Request { input, trailing_headers, .. } = request;
        ours(&input.bucket)?;
        if input.content_md5.is_some() {
            return Err(s3_error!(NotImplemented, "send x-amz-checksum-* instead of Content-MD5"));
        }
        let condition = condition(input.if_match, input.if_none_match)?;
        let attributes = Attributes { content_type: input.content_type, user: input.metadata };
        let claims = claims!(input, trailing_headers);
        let path = self.folder.temporary_path();
        body::receive(input.body, claims, &path).await?;
        let commit = move |folder: &Folder, _: &Uploads| folder.commit(&path, &input.key, &attributes, &condition);
        let stat = self.blocking(commit).await?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(stat.e_tag)), ..Default::default() }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let input = request.input;
        ours(&input.bucket)?;
        self.blocking(move |folder, _| folder.delete(&input.key)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, request: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        let access_key = access_key(&request)?;
        let input = request.input;
        ours(&input.bucket)?;
        let delete = move |folder: &Folder, _: &Uploads| {
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for object in input.delete.objects {
                let key = Some(object.key.clone());
                if may_write(&access_key, &object.key) && folder.delete(&object.key).is_ok() {
                    deleted.push(DeletedObject { key, ..Default::default() });
                } else {
                    errors.push(Error { key, code: Some("AccessDenied".to_owned()), ..Default::default() });
                }
            }
            Ok(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..Default::default() })
        };
        Ok(S3Response::new(self.blocking(delete).await?))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let access_key = access_key(&request)?;
        let input = request.input;
        ours(&input.bucket)?;
        let attributes = Attributes { content_type: input.content_type, user: input.metadata };
        let id = self.uploads.create(&access_key, &input.key, attributes)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let access_key = access_key(&request)?;
        let S3Request { input, trailing_headers, .. } = request;
        ours(&input.bucket)?;
        let claims = claims!(input, trailing_headers);
        let path = self.folder.temporary_path();
        let size = body::receive(input.body, claims, &path).await?;
        let (id, key, number) = (input.upload_id, input.key, input.part_number);
        let e_tag = self.uploads.add(&id, &access_key, &key, number, &path, size)?;
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(ETag::Strong(e_tag)), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let access_key = access_key(&request)?;
        let input = request.input;
        ours(&input.bucket)?;
        let condition = condition(input.if_match, input.if_none_match)?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let named: Vec<_> =
            parts.into_iter().map(|part| (part.part_number.unwrap_or(0), part.e_tag.map(ETag::into_value))).collect();
        let (key, id) = (input.key.clone(), input.upload_id);
        let complete = move |folder: &Folder, uploads: &Uploads| {
            let (path, attributes) = uploads.join(&id, &access_key, &key, &named, folder)?;
            folder.commit(&path, &key, &attributes, &condition)
        };
        let stat = self.blocking(complete).await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(stat.e_tag)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let access_key = access_key(&request)?;
        let input = request.input;
        ours(&input.bucket)?;
        self.uploads.abort(&input.upload_id, &access_key, &input.key)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
