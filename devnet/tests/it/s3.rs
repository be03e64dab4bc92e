//! An S3 client of a devnet, and short ways to use it.

use crate::support::Net;
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation},
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
};
use bistro_devnet::s3::secret_of;
use std::fmt::Debug;

pub const BUCKET: &str = "bistro";

pub fn client(url: &str, access_key: &str, secret: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .credentials_provider(Credentials::new(access_key, secret, None, None, "test"))
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

pub fn hotkey(net: &Net, address: &str) -> Client {
    client(&net.devnet.s3_url(), address, &secret_of(address))
}

pub fn code<T: Debug, E: ProvideErrorMetadata + Debug>(result: Result<T, SdkError<E>>) -> String {
    let error = result.expect_err("refused");
    // HEAD has no body that could name a code.
    let status = error.raw_response().map(|response| response.status().as_u16().to_string());
    error.code().map(str::to_owned).or(status).expect("an answer of the server")
}

pub async fn put(client: &Client, key: &str, body: &[u8]) -> Result<(), String> {
    let body = ByteStream::from(body.to_vec());
    let put = client.put_object().bucket(BUCKET).key(key).body(body).send().await;
    put.map(|_| ()).map_err(|error| error.code().unwrap_or("?").to_owned())
}

pub async fn get(client: &Client, key: &str) -> Result<Vec<u8>, String> {
    let got = client.get_object().bucket(BUCKET).key(key).send().await;
    let got = got.map_err(|error| error.code().unwrap_or("?").to_owned())?;
    Ok(got.body.collect().await.expect("the whole body").to_vec())
}
