//! The S3 client: rustls with ring, explicit timeouts, no hidden retries.

use std::time::Duration;

use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
        SharedHttpClient, StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::{
    Builder, Connector,
    tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use bistro_api::settings;

use super::{Credentials, Error, clock::BucketClock, transfer::SILENCE};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

pub(super) async fn client(
    settings: &settings::Bucket,
    credentials: Credentials,
    clock: BucketClock,
) -> Result<Client, Error> {
    let http = http_client(settings.ca_bundle.as_deref())?;
    let region = Region::new(settings.region.clone());
    let credentials = match credentials {
        Credentials::Keys { access_key_id, secret_access_key } => {
            let keys = aws_sdk_s3::config::Credentials::new(access_key_id, secret_access_key, None, None, "bistro");
            Some(SharedCredentialsProvider::new(keys))
        }
        Credentials::Aws => {
            let chain = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client(None)?);
            chain.region(region.clone()).load().await.credentials_provider()
        }
    };
    let mut config = Config::builder();
    config.set_credentials_provider(credentials).set_endpoint_url(settings.endpoint.clone());
    let config = config
        .behavior_version(BehaviorVersion::latest())
        .region(region)
        // A bucket's name as a part of the host name needs DNS that S3 services of one's own rarely have.
        .force_path_style(settings.endpoint.is_some())
        .http_client(http)
        .interceptor(clock)
        // Services other than AWS rarely know the newer checksums; every object that matters has a digest of its own.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // Trying again belongs to the caller, and limits on answers and bodies depend on the size.
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
        // The only bound on the silence within an upload.
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(SILENCE).build())
        .build();
    Ok(Client::from_conf(config))
}

fn http_client(ca_bundle: Option<&str>) -> Result<SharedHttpClient, Error> {
    let trust = match ca_bundle {
        None => TrustStore::default(),
        Some(pem) => TrustStore::empty().with_pem_certificate(checked(pem)?.as_bytes().to_vec()),
    };
    let context =
        TlsContext::builder().with_trust_store(trust).build().map_err(|e| Error::CaBundle { reason: e.to_string() })?;
    let provider = tls::Provider::Rustls(CryptoMode::Ring);
    if ca_bundle.is_some() {
        // The client would panic on certificates that it cannot parse, at its first connection: try it here.
        let trial = || Connector::builder().tls_provider(provider.clone()).tls_context(context.clone()).build();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(trial))
            .map_err(|_| Error::CaBundle { reason: "a certificate in it cannot be parsed".to_owned() })?;
    }
    Ok(Builder::new().tls_provider(provider).tls_context(context).build_https())
}

/// Text without any certificate would be a client that trusts nobody.
fn checked(pem: &str) -> Result<&str, Error> {
    let count = |mark: &str| pem.matches(mark).count();
    let begins = count("-----BEGIN CERTIFICATE-----");
    if begins == 0 || begins != count("-----END CERTIFICATE-----") {
        return Err(Error::CaBundle { reason: "it holds no whole certificate".to_owned() });
    }
    Ok(pem)
}
