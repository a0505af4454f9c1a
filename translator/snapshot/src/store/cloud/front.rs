//! A store behind HTTPS, as `moorgate watch --serve-store` serves one: `https://host:port/prefix`.
//!
//! What a reader may read and write there is the server's business: it knows the reader by a token, a projected one of a
//! Kubernetes ServiceAccount. Token and CA lie in files that are replaced from time to time, so both are read anew.

use super::{client, http, retries};
use crate::store::Settings;
use ::http::HeaderValue;
use ::http::header::AUTHORIZATION;
use async_trait::async_trait;
use object_store::client::{
    Certificate, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::http::{HttpBuilder, HttpStore};
use object_store::{ClientOptions, path::Path};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The variable with the file of the token.
pub(in crate::store) const TOKEN_FILE: &str = "MOORGATE_STORE_TOKEN_FILE";
/// The variable with the file of the CA, PEM; without one the system's are trusted.
pub(in crate::store) const CA_FILE: &str = "MOORGATE_STORE_CA_FILE";
/// The largest token, and the largest file of CA certificates, in bytes.
const MAX_FILE: u64 = 256 << 10;

/// Opens what lies at `rest`, which is what follows `https://`; also its prefix.
pub(in crate::store) fn open(rest: &str, settings: &Settings) -> Result<(HttpStore, Path), String> {
    if rest.contains(['@', '?', '#']) {
        return Err("only host, port and a prefix stand in the URL; the token comes from a file".to_owned());
    }
    let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let endpoint = format!("https://{authority}");
    let token = settings.get(TOKEN_FILE).map(PathBuf::from);
    let token =
        token.ok_or_else(|| format!("a store at https:// needs the file of a token: {TOKEN_FILE}"))?;
    let connector = Connector { token, ca: settings.get(CA_FILE).map(PathBuf::from) };
    let store = HttpBuilder::new()
        .with_url(&endpoint)
        .with_client_options(client(Some(&endpoint))?)
        .with_retry(retries())
        .with_http_connector(connector)
        .build()
        .map_err(|error| error.to_string())?;
    Ok((store, Path::parse(prefix).map_err(|_| "the prefix is no valid path".to_owned())?))
}

#[derive(Debug)]
struct Connector {
    token: PathBuf,
    ca: Option<PathBuf>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let caller = Caller {
            token: self.token.clone(),
            ca: self.ca.clone(),
            options: options.clone(),
            made: Mutex::default(),
        };
        Ok(HttpClient::new(caller))
    }
}

/// Makes every call with the token and the CA of now.
struct Caller {
    token: PathBuf,
    ca: Option<PathBuf>,
    options: ClientOptions,
    /// The client, and the CA that it was made with.
    made: Mutex<Option<(Vec<u8>, HttpClient)>>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Caller")
    }
}

impl Caller {
    fn client(&self) -> io::Result<HttpClient> {
        let pem = self.ca.as_deref().map(read).transpose()?.unwrap_or_default();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = made.as_ref().filter(|(of, _)| *of == pem) {
            return Ok(client.clone());
        }
        let mut options = self.options.clone();
        if self.ca.is_some() {
            let certificates = Certificate::from_pem_bundle(&pem).map_err(io::Error::other)?;
            if certificates.is_empty() {
                return Err(io::Error::other("no certificate in the file of the CA"));
            }
            options = options.with_no_system_certificates(true);
            options = certificates.into_iter().fold(options, ClientOptions::with_root_certificate);
        }
        let client = http::Connector::default().connect(&options).map_err(io::Error::other)?;
        *made = Some((pem, client.clone()));
        Ok(client)
    }

    fn bearer(&self) -> io::Result<HeaderValue> {
        let token = read(&self.token)?;
        let text = std::str::from_utf8(&token).map_err(|_| io::Error::other("the token is no text"))?;
        let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
        let mut value = value.map_err(|_| io::Error::other("the token is no token"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[async_trait]
impl HttpService for Caller {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let failed = |error: io::Error| HttpError::new(HttpErrorKind::Request, error);
        let client = self.client().map_err(failed)?;
        request.headers_mut().insert(AUTHORIZATION, self.bearer().map_err(failed)?);
        client.execute(request).await
    }
}

fn read(path: &std::path::Path) -> io::Result<Vec<u8>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path).map_err(named)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(named(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_host_port_and_prefix_and_the_token_lies_in_a_file() {
        let settings = Settings::of([(TOKEN_FILE, "/token")]);
        assert_eq!(open("moorgate.infra.svc:8443/a/b", &settings).unwrap().1.as_ref(), "a/b");
        assert_eq!(open("[::1]:8443", &settings).unwrap().1.as_ref(), "");
        for rest in ["", "/a", "user:hunter2@host", "host?token=hunter2"] {
            let error = open(rest, &settings).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(open("host", &Settings::default()).unwrap_err().contains(TOKEN_FILE));
    }

    #[test]
    fn a_token_that_is_replaced_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        let made = Mutex::default();
        let caller = Caller { token: token.clone(), ca: None, options: ClientOptions::new(), made };
        assert!(caller.bearer().unwrap_err().to_string().contains("token"));
        for text in ["one\n", "two"] {
            std::fs::write(&token, text).unwrap();
            assert_eq!(caller.bearer().unwrap(), format!("Bearer {}", text.trim()));
        }
        assert!(!format!("{:?} {caller:?}", caller.bearer()).contains("two"));
        std::fs::write(&token, "a\nb").unwrap();
        assert!(caller.bearer().is_err());
    }
}
