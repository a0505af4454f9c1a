//! Tokens that clients show (SecurityPolicy `jwt`).

use crate::lowering::{Asked, digest, milliseconds, time};
use crate::{About, BackendRef, Capability, Effect, InputKind, Kind, Lowering, place};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HttpUri, data_source, http_uri};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwksAsyncFetch, JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement,
    JwtRequirementOrList, PerRouteConfig, RemoteJwks, jwt_provider, jwt_requirement, per_route_config,
};
use envoy_types::pb::google::protobuf::Empty;
use moorgate_model::{FieldPath, Node};
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct Jwt;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    jwt: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    optional: Option<bool>,
    fail_open: Option<bool>,
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(rename = "remoteJWKS")]
    remote: Option<Remote>,
    #[serde(rename = "localJWKS")]
    local: Option<Local>,
    #[serde(default)]
    claim_to_headers: Vec<ClaimToHeader>,
    extract_from: Option<ExtractFrom>,
    recompute_route: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Remote {
    uri: String,
    cache_duration: Option<String>,
    failed_refetch_duration: Option<String>,
    backend_ref: Option<BackendRef>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Local {
    inline: Option<String>,
    value_ref: Option<ValueRef>,
}

#[derive(Debug, Deserialize)]
struct ValueRef {
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct ClaimToHeader {
    header: String,
    claim: String,
}

#[derive(Debug, Default, Deserialize)]
struct ExtractFrom {
    #[serde(default)]
    headers: Vec<FromHeader>,
    #[serde(default)]
    cookies: Vec<String>,
    #[serde(default)]
    params: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FromHeader {
    name: String,
    value_prefix: Option<String>,
}

/// The filter, under whose name claims are found by what decides by them.
pub(crate) const NAME: &str = "envoy.filters.http.jwt_authn";
/// The claims that list what a token is good for: words between spaces (RFC 8693, section 4.2), or under the name that some
/// providers have for it, also as a list.
pub(crate) const SCOPES: [&str; 2] = ["scope", "scp"];
/// The annotation of a policy whose keys are those of a declared input, and not what their server gives Envoy at any time: a
/// key then changes by a reviewed change only, and a server that cannot be reached keeps nobody out.
const PINNED: &str = "moorgate.dev/pinned-jwks";
/// A server that has not given its keys by then has none.
const FETCH: Duration = Duration::from_secs(5);

impl Capability for Jwt {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "jwt",
        kind: Kind::Security,
        fields: &["jwt"],
        except: &[],
        since: "0.1.0",
        docs: "\
Requests need a token of one of the providers: issuer, audiences, and keys from localJWKS (inline, or a ConfigMap's key jwks) or \
remoteJWKS, which Envoy itself fetches and keeps for cacheDuration; its server is verified by the roots of Envoy's image, or is one \\
of backendRefs, reached as backendSettings say. With failedRefetchDuration keys are fetched before the first request asks for them, and \\
so long after a failure again. With the annotation moorgate.dev/pinned-jwks (\"true\") they are those of a declared input instead (moorgate \\
inputs update). claimToHeaders tells claims to the backend; with recomputeRoute the route is looked for again by them. What it asks for before tokens are \
read (csrf, extAuth, apiKeyAuth, basicAuth, oidc, jwt) is not asked any more then, so a route that could be found and asks for more than the \
first one closes that: attach such policies to the Gateway. extractFrom says where tokens are. optional lets requests without a token \\
pass, failOpen those with a broken one too. Others are answered with 401.",
        effect: Effect::Filter {
            name: NAME,
            place: place::JWT,
            why: "tokens are read before anything decides by their claims",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.jwt else { return };
        let at = FieldPath::parse("spec.jwt");
        if rules.providers.is_empty() {
            return cx.invalid(at.key("providers"), "there is no provider, so no token is good");
        }
        let (mut base, mut any) = (JwtAuthentication::default(), Vec::new());
        for (index, spec) in rules.providers.iter().enumerate() {
            let Some(provider) = provider(spec, &at.key("providers").index(index), cx) else { return };
            if spec.recompute_route == Some(true) {
                cx.recomputes(place::JWT, &at.key("providers").index(index).key("recomputeRoute"));
            }
            // Several policies share the filter, and one may be merged with several others.
            let name = cx.own_name(&format!("{}/{}", spec.name, digest(&provider)));
            any.push(requires(jwt_requirement::RequiresType::ProviderName(name.clone())));
            base.providers.insert(name, provider);
        }
        if rules.fail_open == Some(true) {
            any.push(requires(jwt_requirement::RequiresType::AllowMissingOrFailed(Empty::default())));
        } else if rules.optional == Some(true) {
            any.push(requires(jwt_requirement::RequiresType::AllowMissing(Empty::default())));
        }
        let requirement = match any.as_slice() {
            [one] => one.clone(),
            _ => requires(jwt_requirement::RequiresType::RequiresAny(JwtRequirementOrList {
                requirements: any,
            })),
        };
        let name = cx.own_name(&digest(&requirement));
        base.requirement_map.insert(name.clone(), requirement);
        let own = PerRouteConfig {
            requirement_specifier: Some(per_route_config::RequirementSpecifier::RequirementName(name)),
        };
        cx.filter((NAME, place::JWT), &base, &own);
    }
}

fn requires(what: jwt_requirement::RequiresType) -> JwtRequirement {
    JwtRequirement { requires_type: Some(what) }
}

fn provider(spec: &Provider, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<JwtProvider> {
    let keys = match (&spec.local, &spec.remote) {
        (Some(local), None) => {
            let text = local_keys(local, &at.key("localJWKS"), cx)?;
            jwt_provider::JwksSourceSpecifier::LocalJwks(inline(text))
        }
        (None, Some(remote)) if cx.annotation(PINNED) == Some("true") => {
            let at = at.key("remoteJWKS").key("uri");
            let found = cx.input(&at, InputKind::Keys, &remote.uri)?;
            jwt_provider::JwksSourceSpecifier::LocalJwks(inline(usable(found.text().to_owned(), &at, cx)?))
        }
        (None, Some(remote)) => {
            let at = at.key("remoteJWKS");
            jwt_provider::JwksSourceSpecifier::RemoteJwks(remote_keys(remote, &spec.name, &at, cx)?)
        }
        _ => {
            cx.invalid(at.clone(), "a provider has either localJWKS or remoteJWKS");
            return None;
        }
    };
    if !headers_have_names(spec, at, cx) {
        return None;
    }
    if spec.claim_to_headers.iter().any(|claim| claim.claim.is_empty()) {
        cx.invalid(at.key("claimToHeaders"), "a claim has a name");
        return None;
    }
    let from = spec.extract_from.as_ref();
    let headers = from.map_or(&[][..], |from| &from.headers).iter().map(|header| JwtHeader {
        name: header.name.clone(),
        value_prefix: header.value_prefix.clone().unwrap_or_default(),
    });
    let claims = spec.claim_to_headers.iter().map(|claim| JwtClaimToHeader {
        header_name: claim.header.clone(),
        claim_name: claim.claim.clone(),
        ..Default::default()
    });
    Some(JwtProvider {
        issuer: spec.issuer.clone(),
        audiences: spec.audiences.clone(),
        forward: true,
        from_headers: headers.collect(),
        from_cookies: from.map(|from| from.cookies.clone()).unwrap_or_default(),
        from_params: from.map(|from| from.params.clone()).unwrap_or_default(),
        payload_in_metadata: spec.name.clone(),
        normalize_payload_in_metadata: Some(jwt_provider::NormalizePayload {
            space_delimited_claims: SCOPES.map(str::to_owned).to_vec(),
        }),
        claim_to_headers: claims.collect(),
        jwks_source_specifier: Some(keys),
        clear_route_cache: spec.recompute_route == Some(true),
        ..Default::default()
    })
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..Default::default() }
}

fn local_keys(local: &Local, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<String> {
    let text = written_keys(local, at, cx)?;
    usable(text, at, cx)
}

/// The keys, if Envoy can use one of them: it would refuse the whole listener for a set without any.
fn usable(text: String, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<String> {
    let keys = cx.json(&text);
    let keys = keys.as_ref().and_then(|set| set.get("keys")).and_then(Node::as_sequence).unwrap_or_default();
    if !keys.iter().any(is_key) {
        cx.invalid(at.clone(), "there is no key in it that Envoy could use (RFC 7517)");
        return None;
    }
    Some(text)
}

/// Whether BoringSSL takes them for a public key: an odd modulus of 512 to 16,384 bits, and one of the two usual exponents.
fn is_rsa(modulus: &str, exponent: &str) -> bool {
    let number = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(bytes.get(zeros..)?.to_vec())
    };
    let (Some(modulus), Some(exponent)) = (number(modulus), number(exponent)) else { return false };
    let (Some(first), Some(last)) = (modulus.first(), modulus.last()) else { return false };
    let bits = modulus.len() * 8 - first.leading_zeros() as usize;
    last % 2 == 1 && (512..=16_384).contains(&bits) && [&[3][..], &[1, 0, 1]].contains(&&*exponent)
}

/// Whether a key has what its type needs, in letters that can be read (RFC 7518 6, RFC 8037 2).
fn is_key(key: &Node) -> bool {
    let text = |name: &str| key.get(name).and_then(Node::as_str).unwrap_or_default();
    let coded = |name: &str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !text(name).is_empty() && text(name).len() % 4 != 1 && text(name).bytes().all(letter)
    };
    let alg = text("alg");
    let fits = |of: &[&str]| alg.is_empty() || of.iter().any(|start| alg.starts_with(start));
    match text("kty") {
        "RSA" => is_rsa(text("n"), text("e")) && fits(&["RS", "PS"]),
        "EC" => {
            ["P-256", "P-384", "P-521"].contains(&text("crv")) && coded("x") && coded("y") && fits(&["ES"])
        }
        "OKP" => text("crv") == "Ed25519" && text("x").len() == 43 && coded("x") && fits(&["EdDSA"]),
        "oct" => coded("k") && fits(&["HS"]),
        _ => false,
    }
}

fn written_keys(local: &Local, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<String> {
    match (&local.inline, &local.value_ref) {
        (Some(text), None) => Some(text.clone()),
        (None, Some(reference)) if reference.kind == "ConfigMap" => {
            cx.config_map(&at.key("valueRef").key("name"), &reference.name, &["jwks"])
        }
        (None, Some(_)) => {
            cx.invalid(at.key("valueRef").key("kind"), "keys are taken from a ConfigMap");
            None
        }
        _ => {
            cx.invalid(at.clone(), "localJWKS has either inline or valueRef");
            None
        }
    }
}

fn remote_keys(remote: &Remote, name: &str, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<RemoteJwks> {
    let Some((tls, host, port)) = address(&remote.uri) else {
        cx.invalid(at.key("uri"), &format!("{:?} is no address of a server", remote.uri));
        return None;
    };
    let asked = Asked {
        one: remote.backend_ref.as_ref(),
        several: &remote.backend_refs,
        outside: Some((host, port, tls)),
        named_by: "uri",
        http2: false,
    };
    let found = cx.provider(at, asked, &format!("jwt.{name}"))?;
    let kept = time(cx, &at.key("cacheDuration"), remote.cache_duration.as_deref());
    let again = time(cx, &at.key("failedRefetchDuration"), remote.failed_refetch_duration.as_deref());
    Some(RemoteJwks {
        http_uri: Some(HttpUri {
            uri: remote.uri.clone(),
            timeout: Some(milliseconds(found.timeout.unwrap_or(FETCH))),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(found.cluster)),
        }),
        cache_duration: kept.map(milliseconds),
        // A server that does not answer must not hold up the listener.
        async_fetch: again.map(|again| JwksAsyncFetch {
            fast_listener: true,
            failed_refetch_duration: Some(milliseconds(again)),
        }),
        retry_policy: found.retry,
    })
}

fn headers_have_names(spec: &Provider, at: &FieldPath, cx: &mut Lowering<'_>) -> bool {
    let from = spec.extract_from.iter().flat_map(|from| &from.headers).map(|header| header.name.as_str());
    let to = spec.claim_to_headers.iter().map(|claim| claim.header.as_str());
    let lists = [("extractFrom", from.collect::<Vec<_>>()), ("claimToHeaders", to.collect())];
    let mut names = lists.iter().flat_map(|(list, names)| names.iter().map(move |name| (list, name)));
    names.all(|(list, name)| match *list {
        "claimToHeaders" => cx.foreign_header(at.key(list), name),
        list => cx.header_name(at.key(list), name),
    })
}

/// Whether an address is of TLS, its host, and its port.
pub(crate) fn address(uri: &str) -> Option<(bool, &str, u16)> {
    let (scheme, rest) = uri.split_once("://")?;
    let tls = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, if tls { 443 } else { 80 }),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    (!host.is_empty() && host.bytes().all(plain)).then_some((tls, host, port))
}

#[cfg(test)]
pub(crate) mod tests;
