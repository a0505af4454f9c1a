//! Amazon S3 and what speaks its language: MinIO, Ceph, R2 and others.
//!
//! Credentials are looked for where the AWS tools look: keys in the environment, a profile that `AWS_PROFILE` names, a web
//! identity (IRSA), the default profile, a container's (ECS, EKS pod identity), and the machine's (IMDSv2).

mod profile;

use super::{client, http, retries};
use crate::store::Settings;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use profile::Profile;

/// Variables that `object_store` understands. Not all that it would take: none that switches verification off.
const READ: [&str; 18] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_SKIP_SIGNATURE",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
];

/// Opens a bucket.
pub(super) fn open(bucket: &str, settings: &Settings) -> Result<AmazonS3, String> {
    let profile = match settings.get("AWS_ACCESS_KEY_ID") {
        Some(_) => Profile::region_of(settings),
        None => Profile::read(settings)?,
    };
    let mut endpoint = settings.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]).map(str::to_owned);
    let mut builder = AmazonS3Builder::new();
    // The profile first: what the environment says goes before it.
    for (name, value) in profile.variables() {
        if name == "AWS_ENDPOINT_URL" && endpoint.is_none() {
            endpoint = Some(value.to_owned());
        }
        builder = set(builder, name, value)?;
    }
    for name in READ {
        if let Some(value) = settings.get(name) {
            builder = set(builder, name, value)?;
        }
    }
    if let Some(metadata) = settings.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        builder = builder.with_metadata_endpoint(metadata);
    }
    builder
        .with_client_options(client(endpoint.as_deref())?)
        .with_retry(retries())
        .with_http_connector(http::Connector::default())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_bucket_name(bucket)
        .build()
        .map_err(|error| error.to_string())
}

fn set(builder: AmazonS3Builder, name: &str, value: &str) -> Result<AmazonS3Builder, String> {
    let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse().map_err(|_| format!("{name}: unknown"))?;
    Ok(builder.with_config(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_one_that_the_library_knows() {
        let settings = Settings::of(READ.map(|name| {
            let value = match name {
                "AWS_VIRTUAL_HOSTED_STYLE_REQUEST" | "AWS_SKIP_SIGNATURE" => "true",
                "AWS_SERVER_SIDE_ENCRYPTION" => "aws:kms",
                name if name.contains("_URL") => "https://localhost",
                _ => "x",
            };
            (name, value)
        }));
        let _ = rustls::crypto::ring::default_provider().install_default();
        open("bucket", &settings).unwrap();
    }

    #[test]
    fn half_a_pair_of_keys_is_an_error() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let error = open("bucket", &Settings::of([("AWS_ACCESS_KEY_ID", "id")])).unwrap_err();
        assert!(error.to_lowercase().contains("secret"), "{error}");
    }
}
