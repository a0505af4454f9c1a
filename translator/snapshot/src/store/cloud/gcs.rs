//! Google Cloud Storage.
//!
//! Credentials are looked for where Google's tools look: an access token in the environment, the file that
//! `GOOGLE_APPLICATION_CREDENTIALS` names, `gcloud auth application-default login`, and the metadata server (GCE, GKE).

use super::{client, http, retries};
use crate::store::Settings;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};

/// Opens a bucket.
pub(super) fn open(bucket: &str, settings: &Settings) -> Result<GoogleCloudStorage, String> {
    let mut builder = GoogleCloudStorageBuilder::new();
    let emulator = settings.get("STORAGE_EMULATOR_HOST").map(|host| {
        if host.contains("://") { host.trim_end_matches('/').to_owned() } else { format!("http://{host}") }
    });
    if let Some(emulator) = &emulator {
        // Skipping signatures, the library asks the metadata server all the same: a token is what keeps it from that.
        builder = builder.with_base_url(emulator).with_bearer_token("emulator");
    } else if let Some(token) = settings.first(&["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"]) {
        builder = builder.with_bearer_token(token);
    } else if let Some(key) = settings.get("GOOGLE_SERVICE_ACCOUNT_KEY") {
        builder = builder.with_service_account_key(key);
    } else if let Some(path) = settings.get("GOOGLE_APPLICATION_CREDENTIALS") {
        check_kind(path)?;
        builder = builder.with_application_credentials(path);
    }
    builder
        .with_client_options(client(emulator.as_deref())?)
        .with_retry(retries())
        .with_http_connector(http::Connector::default())
        .with_bucket_name(bucket)
        .build()
        .map_err(|error| error.to_string())
}

/// Files of workload identity federation need an exchange of tokens that `object_store` does not do.
fn check_kind(path: &str) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    let text = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let kind: Kind =
        serde_json::from_slice(&text).map_err(|_| format!("{path}: no credentials of Google"))?;
    match kind.kind.as_str() {
        "service_account" | "authorized_user" => Ok(()),
        other => Err(format!(
            "{path}: credentials of type {other:?} cannot be used directly: \
             export CLOUDSDK_AUTH_ACCESS_TOKEN=\"$(gcloud auth print-access-token)\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn federated_credentials_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adc.json");
        let settings = Settings::of([("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap())]);
        assert!(open("bucket", &settings).unwrap_err().contains("adc.json"));
        std::fs::write(&path, r#"{"type":"external_account","token_url":"hunter2"}"#).unwrap();
        let error = open("bucket", &settings).unwrap_err();
        assert!(error.contains("print-access-token") && !error.contains("hunter2"), "{error}");
    }
}
