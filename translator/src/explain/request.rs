//! A request as a user writes it.

use thiserror::Error;

/// Everything that decides which route answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// `http` or `https`; `tcp`, `tls` or `udp` for bytes of any kind.
    pub scheme: String,
    /// The name that the connection asks for (SNI), lower case.
    pub server_name: String,
    /// The port.
    pub port: u16,
    /// The `Host` header or `:authority` without its port.
    pub host: String,
    /// The path with its query, as sent.
    pub path: String,
    /// Other headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// A request that cannot be understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// The URL has no scheme, host or valid port.
    #[error(
        "{0:?} is no URL of the form http://host[:port]/path, https://host[:port]/path, or tcp://host:port (also tls, udp)"
    )]
    Url(String),
    /// A header is not `name: value`.
    #[error("{0:?} is no header: write 'name: value'")]
    Header(String),
}

impl Request {
    /// Reads method, URL and headers; a `Host` header replaces the URL's host, but not the name that TLS asks for.
    ///
    /// # Errors
    /// The first part that cannot be understood.
    pub fn parse(method: &str, url: &str, headers: &[String]) -> Result<Self, RequestError> {
        let error = || RequestError::Url(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(error)?;
        let scheme = scheme.to_ascii_lowercase();
        if !["http", "https", "tcp", "tls", "udp"].contains(&scheme.as_str()) {
            return Err(error());
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // A fragment stays with the client.
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let (host, port) = split_port(authority).ok_or_else(error)?;
        let usual = match scheme.as_str() {
            "http" => Some(80),
            "https" | "tls" => Some(443),
            _ => None,
        };
        let port = port.or(usual).ok_or_else(error)?;
        if host.is_empty() {
            return Err(error());
        }
        let mut request = Self {
            method: method.to_owned(),
            scheme,
            server_name: host.to_ascii_lowercase(),
            port,
            host: host.to_ascii_lowercase(),
            path,
            headers: Vec::new(),
        };
        for header in headers {
            let (name, value) = header.split_once(':').ok_or_else(|| RequestError::Header(header.clone()))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
            if name == "host" {
                let (host, _) = split_port(&value).ok_or_else(|| RequestError::Header(header.clone()))?;
                request.host = host.to_ascii_lowercase();
            } else {
                request.headers.push((name, value));
            }
        }
        Ok(request)
    }

    /// All values of a header. Envoy itself says by which scheme the client came, whatever the client says.
    pub(super) fn header<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r str> {
        let scheme = (name == "x-forwarded-proto").then_some(self.scheme.as_str());
        let sent = self.headers.iter().filter(move |(other, _)| scheme.is_none() && other == name);
        scheme.into_iter().chain(sent.map(|(_, value)| value.as_str()))
    }

    /// What Envoy takes for gRPC: `application/grpc`, or that with a suffix such as `+proto`.
    pub(super) fn is_grpc(&self) -> bool {
        let rest = self.header("content-type").next().and_then(|kind| kind.strip_prefix("application/grpc"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
    }

    /// The first value of a query parameter, undecoded as Envoy compares it.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

// Cookies.
impl Request {
    /// The first value of a cookie, without quotes around it (RFC 6265 §5.4).
    pub(super) fn cookie(&self, name: &str) -> Option<&str> {
        let pairs = self.header("cookie").flat_map(|value| value.split(';'));
        let mut values = pairs.filter_map(|pair| pair.trim().split_once('='));
        let value = values.find_map(|(key, value)| (key == name).then_some(value))?;
        Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
    }
}

/// Host and port of an authority; an IPv6 address stands in brackets.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let colon = if authority.starts_with('[') {
        authority.find("]:").map(|position| position + 1)
    } else {
        authority.rfind(':')
    };
    match colon {
        None => Some((authority, None)),
        Some(position) => {
            Some((authority.get(..position)?, Some(authority.get(position + 1..)?.parse().ok()?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_headers() {
        let headers = ["Host: shop.example.com:8080".to_owned(), "X-A:  b ".to_owned(), "x-a: c".to_owned()];
        let request = Request::parse("GET", "https://10.0.0.1/a?b=1&b=2#c", &headers).unwrap();
        assert_eq!(
            (request.port, request.host.as_str(), request.server_name.as_str()),
            (443, "shop.example.com", "10.0.0.1")
        );
        assert_eq!((request.path.as_str(), request.query("b")), ("/a?b=1&b=2", Some("1")));
        assert_eq!(request.header("x-a").collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(request.header("x-forwarded-proto").collect::<Vec<_>>(), ["https"]);
        assert_eq!(Request::parse("GET", "http://[::1]:81", &[]).unwrap().port, 81);
        assert_eq!(Request::parse("CONNECT", "udp://a:53", &[]).unwrap().port, 53);
        for url in ["example.com/", "ftp://a/", "http:///x", "http://a:99999/", "tcp://a"] {
            assert!(Request::parse("GET", url, &[]).is_err(), "{url}");
        }
    }
}
