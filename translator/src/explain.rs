//! Which listener, host, route, rule and backend answer a request; who lost, and why.
//!
//! Works on the same intermediate representation that becomes Envoy's configuration, with Envoy's own rules:
//! normalised paths ([`normalize`]), hosts without port and case, the first route that matches.

mod matching;
pub mod normalize;
mod request;

pub use crate::xds::{Reading, Slashes, Underscores};
pub use matching::Mismatch;
pub use request::{Request, RequestError};
use std::borrow::Cow;

use moorgate_model::ir::{
    Action, FilterChain, Fleet, Listener, Route, RouteTable, Serves, Stream, Transport, VirtualHost,
};
use normalize::Normalized;

/// What happens to a request at one fleet.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer<'f> {
    /// No listener has this port.
    NoListener,
    /// No filter chain is for this server name, or it has nothing to serve: the connection is closed.
    Refused {
        /// The listener's name.
        listener: &'f str,
        /// The route that would carry it, with its chain, where one is there and closed.
        route: Option<(&'f FilterChain, &'f Stream)>,
    },
    /// The bytes go to backends as they are, whatever is asked in them.
    Carried {
        /// The listener's name.
        listener: &'f str,
        /// The filter chain.
        chain: &'f FilterChain,
        /// The backends.
        stream: &'f Stream,
    },
    /// Envoy answers by itself before any route is looked at (400 or 307).
    Early {
        /// The listener's name.
        listener: &'f str,
        /// The status.
        status: u16,
    },
    /// The connection is for another listener than the one that the host belongs to: 421.
    Misdirected(Trace<'f>, &'f VirtualHost),
    /// No host or no route: 404.
    NotFound(Trace<'f>),
    /// A route answers.
    Found(Trace<'f>, &'f Route),
}

/// The way of a request to its route.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace<'f> {
    /// The Envoy listener's name.
    pub listener: &'f str,
    /// The filter chain.
    pub chain: &'f FilterChain,
    /// The virtual host, if one is for this hostname.
    pub host: Option<&'f VirtualHost>,
    /// Routes of that host that did not answer, in their order, with the first condition that failed; those behind
    /// the winner that would have matched have none.
    pub losers: Vec<(&'f Route, Option<Mismatch>)>,
}

/// Follows a request through a fleet.
pub fn explain<'f>(fleet: &'f Fleet, request: &Request) -> Answer<'f> {
    let transport = if request.scheme == "udp" { Transport::Udp } else { Transport::Tcp };
    let Some((name, listener)) = fleet
        .listeners
        .iter()
        .find(|(_, listener)| listener.port == request.port && listener.transport == transport)
    else {
        return Answer::NoListener;
    };
    let Some(chain) = chain(listener, request) else {
        return Answer::Refused { listener: name, route: None };
    };
    let routes = match &chain.serves {
        Serves::Http(routes) => routes,
        Serves::Stream(stream) if stream.backends.iter().any(|backend| backend.cluster.is_some()) => {
            return Answer::Carried { listener: name, chain, stream };
        }
        Serves::Stream(stream) => return Answer::Refused { listener: name, route: Some((chain, stream)) },
        Serves::Refuse => return Answer::Refused { listener: name, route: None },
    };
    // Only the bytes of a request meet routes.
    if !matches!(request.scheme.as_str(), "http" | "https") {
        return Answer::Early { listener: name, status: 400 };
    }
    let reading = Reading::of(chain);
    // Backends may take `x_user` for `x-user`, so Envoy refuses the former before anything else, unless a policy says so.
    let underscored = request.headers.iter().any(|(name, _)| name.contains('_'));
    let request = match reading.underscores {
        Underscores::Reject if underscored => return Answer::Early { listener: name, status: 400 },
        Underscores::Drop if underscored => {
            let mut request = request.clone();
            request.headers.retain(|(name, _)| !name.contains('_'));
            Cow::Owned(request)
        }
        _ => Cow::Borrowed(request),
    };
    let request = &*request;
    let path = match normalize::normalize(&request.path, reading) {
        Normalized::Path(path) => path,
        Normalized::Redirect => return Answer::Early { listener: name, status: 307 },
        Normalized::Reject => return Answer::Early { listener: name, status: 400 },
    };
    let host = host(routes, &request.host);
    let mut trace = Trace { listener: name, chain, host, losers: Vec::new() };
    if let Some(host) = host
        && host.listener.as_ref().is_some_and(|owner| *owner != chain.name)
    {
        return Answer::Misdirected(trace, host);
    }
    let mut winner = None;
    for route in host.into_iter().flat_map(|host| &host.routes) {
        match matching::mismatch(route, &path, request) {
            None if winner.is_none() => winner = Some(route),
            reason => trace.losers.push((route, reason)),
        }
    }
    match winner {
        Some(route) => Answer::Found(trace, route),
        None => Answer::NotFound(trace),
    }
}

/// The status that Envoy itself gives, if the answer does not come from a backend.
pub fn direct_status(route: &Route) -> Option<u16> {
    match &route.action {
        Action::Respond(respond) => Some(respond.status),
        Action::Redirect(redirect) => Some(redirect.status),
        Action::Forward(_) => None,
    }
}

/// The chain for a connection: plain text meets plain text, TLS the most specific server name. What only carries bytes
/// does not look whether they are TLS.
fn chain<'f>(listener: &'f Listener, request: &Request) -> Option<&'f FilterChain> {
    let tls = matches!(request.scheme.as_str(), "https" | "tls");
    let fits = |chain: &&FilterChain| match chain.server_names.as_slice() {
        [] => true,
        names => tls && names.iter().any(|name| crate::attach::covers(name, &request.server_name)),
    };
    let best = listener.chains.iter().filter(fits).max_by_key(|chain| {
        chain.server_names.iter().map(|name| (!name.starts_with('*'), name.len())).max()
    })?;
    let carries = best.tls.is_none() && best.stream().is_some();
    ((best.tls.is_some() == tls || carries) && !best.refuses()).then_some(best)
}

/// Envoy's choice of virtual host: exact, then the longest wildcard, then `*`. `example.com.` is the same name.
fn host<'f>(table: &'f RouteTable, host: &str) -> Option<&'f VirtualHost> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let exact = table.hosts.binary_search_by(|candidate| candidate.domain.as_str().cmp(&host)).ok();
    if let Some(found) = exact.and_then(|position| table.hosts.get(position)) {
        return Some(found);
    }
    let wild = table.hosts.iter().filter(|candidate| {
        candidate.domain == "*"
            || (candidate.domain.starts_with("*.") && crate::attach::covers(&candidate.domain, &host))
    });
    wild.max_by_key(|candidate| candidate.domain.len())
}
