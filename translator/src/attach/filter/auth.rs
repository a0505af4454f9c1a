//! The filter ExternalAuth: a service that is asked whether a request may pass.
//!
//! It restricts access, so whatever of it cannot be carried out closes its rule.

use super::{Context, Filters};
use crate::attach::backend::Use;
use crate::attach::spec::ExternalAuthFilter;
use moorgate_model::FieldPath;
use moorgate_model::ir::{AuthProtocol, ExternalAuth};

/// Headers that frame a message or belong to one connection: an authorization service that could set them would break
/// the request.
const FRAMING: [&str; 5] = ["connection", "content-length", "host", "transfer-encoding", "upgrade"];

/// Headers that every authorization service is shown, its own length among them.
const ALWAYS: [&str; 3] = ["authorization", "content-length", "host"];

/// Whether a header can be shown: a name that means nothing else to Envoy, of a header that does not frame the request.
fn is_shown_by_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(plain) && (ALWAYS.contains(&name) || !FRAMING.contains(&name))
}

pub(super) fn lower(
    cx: &mut Context<'_, '_>,
    at: &FieldPath,
    filter: &ExternalAuthFilter,
    out: &mut Filters,
) {
    let at = at.key("externalAuth");
    let grpc = filter.protocol == "GRPC";
    let usage = if grpc { Use::Http2 } else { Use::Requests };
    let cluster = match cx.resolve(usage, &at.key("backendRef"), &filter.backend_ref) {
        Ok(cluster) => cluster,
        Err(finding) => {
            out.broken = true;
            cx.findings.push(finding.help("requests that meet this filter are answered with 500"));
            return;
        }
    };
    let protocol = if grpc {
        if filter.grpc.as_ref().is_some_and(|grpc| !grpc.allowed_headers.is_empty()) {
            out.broken = true;
            let message = "an ExternalAuth filter of protocol GRPC cannot leave out headers";
            cx.unsupported(at.key("grpc").key("allowedHeaders"), message.to_owned());
        }
        AuthProtocol::Grpc
    } else {
        let http = filter.http.as_ref();
        let names = |list: &[String]| list.iter().map(|name| name.to_ascii_lowercase()).collect::<Vec<_>>();
        let response_headers = names(http.map_or(&[], |http| &http.allowed_response_headers));
        for (position, name) in response_headers.iter().enumerate() {
            if FRAMING.contains(&name.as_str()) {
                out.broken = true;
                let field = at.key("http").key("allowedResponseHeaders").index(position);
                cx.unsupported(field, format!("header {name:?} cannot come from an authorization service"));
            }
        }
        let mut request_headers = names(http.map_or(&[], |http| &http.allowed_headers));
        for (position, name) in request_headers.iter().enumerate() {
            if !is_shown_by_name(name) {
                out.broken = true;
                let field = at.key("http").key("allowedHeaders").index(position);
                cx.unsupported(field, format!("header {name:?} cannot be shown to an authorization service"));
            }
        }
        request_headers.retain(|name| !ALWAYS.contains(&name.as_str()));
        AuthProtocol::Http {
            prefix: http.and_then(|http| http.path.clone()).unwrap_or_default(),
            request_headers,
            response_headers,
        }
    };
    let body = filter.forward_body.as_ref().map(|body| body.max_size).filter(|size| *size > 0);
    out.auth = Some(ExternalAuth { cluster, protocol, body });
}
