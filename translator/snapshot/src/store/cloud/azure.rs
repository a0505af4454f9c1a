//! Azure Blob Storage.
//!
//! Credentials are looked for where Azure's tools look: a connection string, an account's key or signature (SAS), a service
//! principal, a workload identity, a managed identity, and last the Azure CLI, if somebody is signed in there.

use super::{client, http, retries};
use crate::store::Settings;
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use std::collections::BTreeMap;

/// Variables, the first of a line that is set, and what they mean.
const READ: [(&[&str], AzureConfigKey); 10] = [
    (&["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"], AzureConfigKey::AccountName),
    (&["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"], AzureConfigKey::AccessKey),
    (&["AZURE_STORAGE_SAS_TOKEN"], AzureConfigKey::SasKey),
    (&["AZURE_STORAGE_SERVICE_ENDPOINT", "AZURE_STORAGE_ENDPOINT"], AzureConfigKey::Endpoint),
    (&["AZURE_CLIENT_ID"], AzureConfigKey::ClientId),
    (&["AZURE_CLIENT_SECRET"], AzureConfigKey::ClientSecret),
    (&["AZURE_TENANT_ID"], AzureConfigKey::AuthorityId),
    (&["AZURE_AUTHORITY_HOST"], AzureConfigKey::AuthorityHost),
    (&["AZURE_FEDERATED_TOKEN_FILE"], AzureConfigKey::FederatedTokenFile),
    (&["IDENTITY_ENDPOINT", "MSI_ENDPOINT"], AzureConfigKey::MsiEndpoint),
];

/// Whatever says who one is, so that the Azure CLI is not asked.
const IDENTITIES: [&str; 7] = [
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_CLIENT_ID",
    "IDENTITY_ENDPOINT",
    "MSI_ENDPOINT",
];

/// Opens a container.
pub(super) fn open(container: &str, settings: &Settings) -> Result<MicrosoftAzure, String> {
    let mut builder = MicrosoftAzureBuilder::new();
    let connection = match settings.get("AZURE_STORAGE_CONNECTION_STRING") {
        Some(text) => connection(text)?,
        None => BTreeMap::new(),
    };
    let mut endpoint = None;
    for (names, key) in READ {
        let of_connection = connection.get(key.as_ref()).map(String::as_str);
        let Some(value) = of_connection.or_else(|| settings.first(names)) else { continue };
        if key == AzureConfigKey::Endpoint {
            endpoint = Some(value);
        }
        builder = builder.with_config(key, value);
    }
    if settings.first(&IDENTITIES).is_none() && signed_in(settings) {
        builder = builder.with_use_azure_cli(true);
    }
    builder
        .with_client_options(client(endpoint)?)
        .with_retry(retries())
        .with_http_connector(http::Connector::default())
        .with_container_name(container)
        .build()
        .map_err(|error| match settings.first(&["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"]) {
            None if connection.is_empty() => "AZURE_STORAGE_ACCOUNT is not set".to_owned(),
            _ => error.to_string(),
        })
}

/// Whether somebody is signed in to the Azure CLI.
fn signed_in(settings: &Settings) -> bool {
    settings.file("AZURE_CONFIG_DIR", ".azure").is_some_and(|dir| dir.join("azureProfile.json").exists())
}

/// A connection string, by the keys of `object_store`. Errors do not repeat it: it holds the account's key.
fn connection(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut parts = BTreeMap::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or("AZURE_STORAGE_CONNECTION_STRING: no name and value between two semicolons")?;
        parts.insert(name.to_ascii_lowercase(), value);
    }
    let account = parts.get("accountname").copied();
    let protocol = parts.get("defaultendpointsprotocol").copied().unwrap_or("https");
    let suffix = parts.get("endpointsuffix").map(|suffix| {
        account.map(|account| format!("{protocol}://{account}.blob.{suffix}")).unwrap_or_default()
    });
    let endpoint =
        parts.get("blobendpoint").map(|endpoint| endpoint.trim_end_matches('/').to_owned()).or(suffix);
    let pairs = [
        (AzureConfigKey::AccountName, account.map(str::to_owned)),
        (AzureConfigKey::AccessKey, parts.get("accountkey").map(|key| (*key).to_owned())),
        (AzureConfigKey::SasKey, parts.get("sharedaccesssignature").map(|sas| (*sas).to_owned())),
        (AzureConfigKey::Endpoint, endpoint),
    ];
    let known = pairs.into_iter().filter_map(|(key, value)| Some((key.as_ref().to_owned(), value?)));
    Ok(known.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_taken_apart() {
        let text = "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey=aHVudGVyMg==;EndpointSuffix=core.windows.net";
        let read = connection(text).unwrap();
        assert_eq!(read["azure_storage_account_name"], "shop");
        assert_eq!(read["azure_storage_account_key"], "aHVudGVyMg==");
        assert_eq!(read["azure_storage_endpoint"], "https://shop.blob.core.windows.net");
        let text =
            "AccountName=dev;BlobEndpoint=http://127.0.0.1:10000/dev/;SharedAccessSignature=sv=1&sig=x";
        let read = connection(text).unwrap();
        assert_eq!(read["azure_storage_endpoint"], "http://127.0.0.1:10000/dev");
        assert_eq!(read["azure_storage_sas_key"], "sv=1&sig=x");
        let error = connection("AccountKey").unwrap_err();
        assert!(!error.contains("AccountKey"), "{error}");
    }

    #[test]
    fn an_account_is_needed_and_the_cli_is_asked_last() {
        let error = open("container", &Settings::default()).unwrap_err();
        assert!(error.contains("AZURE_STORAGE_ACCOUNT"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().to_str().unwrap();
        let settings = Settings::of([("AZURE_CONFIG_DIR", config)]);
        assert!(!signed_in(&settings));
        std::fs::write(dir.path().join("azureProfile.json"), "{}").unwrap();
        assert!(signed_in(&settings));
    }
}
