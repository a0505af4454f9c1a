//! Buckets: what S3, Google Cloud Storage and Azure have in common.
//!
//! Requests are retried little: publishers and relays have loops of their own, which know what an answer means.

mod azure;
pub(super) mod front;
mod gcs;
mod http;
mod s3;

pub(super) use http::Fresh;

use super::{Settings, Store};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// Tries after the first, and the time from which on there is no other.
const RETRIES: (usize, Duration) = (2, Duration::from_secs(10));
/// Waits between tries: the first, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A connection must be there within this time.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest time without a byte.
const STALL: Duration = Duration::from_secs(20);
/// The longest time for one request, however slowly its bytes come.
const REQUEST: Duration = Duration::from_mins(5);

/// A cloud that has buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    /// Amazon S3 and what speaks its language.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Cloud {
    /// The cloud of a URL's scheme.
    pub(super) fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" => Some(Self::S3),
            "gs" => Some(Self::Gcs),
            "az" => Some(Self::Azure),
            _ => None,
        }
    }
}

/// Opens a bucket: `rest` is what follows `s3://`, `gs://` or `az://`.
pub(super) fn open(cloud: Cloud, url: &str, rest: &str, settings: &Settings) -> Result<Store, String> {
    let (bucket, prefix) = location(rest)?;
    // The client takes the process-wide library for cryptography; a second call finds it in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let inner: Arc<dyn ObjectStore> = match cloud {
        Cloud::S3 => Arc::new(s3::open(bucket, settings)?),
        Cloud::Gcs => Arc::new(gcs::open(bucket, settings)?),
        Cloud::Azure => Arc::new(azure::open(bucket, settings)?),
    };
    let mut store = Store::new(inner, prefix, url);
    store.attributes = true;
    Ok(store)
}

/// Bucket and prefix. A URL is shown in messages, so that nothing but these may stand in it.
fn location(rest: &str) -> Result<(&str, Path), String> {
    if rest.contains(['@', '?', '#']) {
        let reason = "only a bucket and a prefix stand in the URL; credentials come from the environment";
        return Err(reason.to_owned());
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    if !(1..=222).contains(&bucket.len()) || !bucket.bytes().all(plain) {
        return Err("the bucket's name is missing, or no name of a bucket".to_owned());
    }
    let prefix = Path::parse(prefix).map_err(|_| "the prefix is no valid path".to_owned())?;
    Ok((bucket, prefix))
}

fn retries() -> RetryConfig {
    let (init_backoff, max_backoff) = BACK_OFF;
    RetryConfig {
        backoff: BackoffConfig { init_backoff, max_backoff, base: 2.0 },
        max_retries: RETRIES.0,
        retry_timeout: RETRIES.1,
    }
}

/// The client's options for an endpoint, which is https unless the user wrote http.
fn client(endpoint: Option<&str>) -> Result<ClientOptions, String> {
    let mut options =
        ClientOptions::new().with_connect_timeout(CONNECT).with_read_timeout(STALL).with_timeout(REQUEST);
    if let Some(endpoint) = endpoint {
        let (scheme, rest) = endpoint.split_once("://").ok_or("the endpoint is no URL")?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() || authority.contains('@') {
            return Err("the endpoint must be scheme, host and port, without credentials".to_owned());
        }
        match scheme {
            "https" => {}
            "http" => {
                if !is_loopback(authority) {
                    let warning = "plain http: whoever is on the way can read and withhold objects; what is signed cannot be forged";
                    tracing::warn!(endpoint = authority, "{warning}");
                }
                options = options.with_allow_http(true);
            }
            _ => return Err("the endpoint is neither https nor http".to_owned()),
        }
    }
    Ok(options)
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_bucket_and_prefix_only() {
        let (bucket, prefix) = location("my-bucket.x/a/b/").unwrap();
        assert_eq!((bucket, prefix.as_ref()), ("my-bucket.x", "a/b"));
        assert_eq!(location("bucket").unwrap().1.as_ref(), "");
        for rest in ["", "/a", "key:secret@bucket/a", "bucket?sig=secret", "Bucket/a", "b/a//c", "b/../c"] {
            let error = location(rest).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn plain_http_needs_an_endpoint_that_says_so() {
        assert!(client(None).is_ok());
        for endpoint in ["https://host", "http://127.0.0.1:9000", "http://[::1]:9000/path"] {
            assert!(client(Some(endpoint)).is_ok(), "{endpoint}");
        }
        for endpoint in ["host:9000", "ftp://host", "http://", "https://key:secret@host/"] {
            let error = client(Some(endpoint)).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        for (authority, loopback) in [
            ("localhost:1", true),
            ("127.1.2.3", true),
            ("[::1]:9", true),
            ("10.0.0.1:80", false),
            ("h", false),
        ] {
            assert_eq!(is_loopback(authority), loopback, "{authority}");
        }
    }

    #[test]
    fn each_cloud_opens_without_a_request_and_shows_no_secret() {
        let secret = "aHVudGVyMg==";
        let settings = Settings::of([
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AZURE_STORAGE_ACCOUNT", "account"),
            ("AZURE_STORAGE_KEY", secret),
            ("CLOUDSDK_AUTH_ACCESS_TOKEN", secret),
        ]);
        for url in ["s3://bucket/prefix", "gs://bucket/prefix", "az://container/prefix"] {
            let store = Store::open_with(url, &settings).unwrap();
            assert_eq!(store.to_string(), url);
            assert_eq!(format!("{store:?}"), format!("Store({url})"));
        }
        let error = Store::open_with("s3://id:hunter2@bucket", &settings).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
