//! Store URLs.

use super::cloud::{self, Cloud};
use super::{Settings, Store, StoreError};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) fn open(url: &str, settings: &Settings) -> Result<Store, StoreError> {
    let error = |reason: &str| StoreError::Url { url: redacted(url), reason: reason.to_owned() };
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(error("no URL: write file:///directory"));
    };
    match scheme {
        "file" => {
            let decoded = percent_decoded(rest).ok_or_else(|| error("no valid percent encoding"))?;
            if !decoded.starts_with('/') {
                return Err(error("a file URL has three slashes and an absolute path: file:///directory"));
            }
            let prefix = Path::from_absolute_path(&decoded).map_err(|_| error("no valid path"))?;
            // Durable before it is confirmed: the default of object_store is not.
            let inner = Arc::new(LocalFileSystem::new().with_fsync(true));
            let mut store = Store::new(inner, prefix, url);
            store.dir = Some(Arc::new(PathBuf::from(decoded)));
            Ok(store)
        }
        "memory" => Ok(Store::new(Arc::new(InMemory::new()), Path::default(), url)),
        "https" => {
            // The client takes the process-wide library for cryptography; a second call finds it in place.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let (inner, prefix) = cloud::front::open(rest, settings).map_err(|reason| error(&reason))?;
            Ok(Store::new(Arc::new(inner), prefix, url))
        }
        scheme => match Cloud::of_scheme(scheme) {
            Some(cloud) => cloud::open(cloud, url, rest, settings).map_err(|reason| error(&reason)),
            None => Err(error("unknown scheme: write file:///directory, s3://, gs://, az:// or https://")),
        },
    }
}

/// The URL without a password, should somebody have put one there.
fn redacted(url: &str) -> String {
    match url
        .split_once("://")
        .and_then(|(scheme, rest)| rest.split_once('@').map(|(_, host)| (scheme, host)))
    {
        Some((scheme, host)) => format!("{scheme}://…@{host}"),
        None => url.to_owned(),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_what_is_wrong_with_them() {
        let none = Settings::default();
        assert!(open("file:///tmp/a%20b", &none).is_ok());
        assert!(open("memory:///", &none).is_ok());
        for (url, word) in [
            ("/tmp/store", "file:///"),
            ("file://tmp/store", "three slashes"),
            ("file:///a%2", "percent"),
            ("s3:///prefix", "bucket"),
            ("ftp://host", "unknown scheme"),
        ] {
            let error = open(url, &none).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let error = open("ftp://user:hunter2@host", &none).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
