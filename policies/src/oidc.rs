//! Users of a browser log in at a provider (SecurityPolicy `oidc`).

mod session;

use crate::jwt::address;
use crate::lowering::{Asked, Provider, milliseconds, time};
use crate::lowering::{SecretRef, extension, late};
use crate::{About, BackendRef, Capability, Effect, InputKind, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::{HttpUri, http_uri::HttpUpstreamType};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::oauth2::v3::{
    OAuth2, OAuth2Config, OAuth2TokenForwarding, o_auth2_config::AuthType,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    PathMatcher, RegexMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern,
};
use envoy_types::pb::google::protobuf::{BoolValue, Duration as PbDuration};
use moorgate_model::FieldPath;
use moorgate_model::ir::{LateForm, LatePart};
use prost::Name as _;
use serde::Deserialize;
use session::{CookieConfig, CookieNames};
use std::time::Duration;

/// The capability.
pub(crate) struct Oidc;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    oidc: Option<Rules>,
    jwt: Option<Tokens>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    provider: Identity,
    #[serde(rename = "clientID")]
    client_id: Option<String>,
    #[serde(rename = "clientIDRef")]
    client_id_ref: Option<SecretRef>,
    client_secret: SecretRef,
    cookie_names: Option<CookieNames>,
    cookie_config: Option<CookieConfig>,
    cookie_domain: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(rename = "redirectURL")]
    redirect_url: Option<String>,
    deny_redirect: Option<DenyRedirect>,
    logout_path: Option<String>,
    forward_access_token: Option<bool>,
    #[serde(rename = "forwardIDToken")]
    forward_id_token: Option<Forwarding>,
    #[serde(rename = "defaultTokenTTL")]
    default_token_ttl: Option<String>,
    refresh_token: Option<bool>,
    #[serde(rename = "defaultRefreshTokenTTL")]
    default_refresh_token_ttl: Option<String>,
    #[serde(rename = "csrfTokenTTL")]
    csrf_token_ttl: Option<String>,
    disable_token_encryption: Option<bool>,
    pass_through_auth_header: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    backend_ref: Option<BackendRef>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
}

#[derive(Debug, Deserialize)]
struct DenyRedirect {
    #[serde(default)]
    headers: Vec<Header>,
}

#[derive(Debug, Deserialize)]
struct Header {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Forwarding {
    header: String,
}

/// Where the same policy's tokens are.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tokens {
    #[serde(default)]
    providers: Vec<TokenProvider>,
    fail_open: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenProvider {
    extract_from: Option<TokenPlaces>,
}

#[derive(Debug, Deserialize)]
struct TokenPlaces {
    #[serde(default)]
    headers: Vec<TokenHeader>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenHeader {
    name: String,
    value_prefix: Option<String>,
}

/// Where a provider is asked.
struct Endpoints {
    authorization: String,
    token: String,
    end_session: Option<String>,
}

const NAME: &str = "envoy.filters.http.oauth2";
/// The Secret that signs the cookies of sessions, in the namespace of the policy.
pub const SESSION_KEY: &str = "envoy-oidc-hmac";
/// What signs the cookies of sessions: a Secret in the policy's namespace, and its key, named as Envoy Gateway names its own.
const HMAC: (&str, &str) = (SESSION_KEY, "hmac-secret");
const CLIENT_SECRET: &str = "client-secret";
const CLIENT_ID: &str = "client-id";
/// As the API says.
const REDIRECT: &str = "%REQ(x-forwarded-proto)%://%REQ(:authority)%/oauth2/callback";
const LOGOUT: &str = "/logout";
/// What Envoy may put into the address to which a provider sends users back.
const OPERATORS: [&str; 2] = ["%REQ(x-forwarded-proto)%", "%REQ(:authority)%"];
/// A provider that has not given a token by then gives none.
const TIMEOUT: Duration = Duration::from_secs(10);
/// `OAuth2.config`, `OAuth2Config.credentials`, `OAuth2Credentials.client_id`
const IN_CONFIG: [u32; 3] = [1, 3, 1];

impl Capability for Oidc {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "oidc",
        kind: Kind::Security,
        fields: &["oidc"],
        except: &[],
        since: "0.2.0",
        docs: "\
Who has no session is sent to the provider (OpenID Connect, code flow with PKCE) and comes back to redirectURL with a code, for which Envoy \
gets tokens and sets cookies; logoutPath (/logout) ends the session. Nothing is asked of the provider while compiling: where \
authorizationEndpoint or tokenEndpoint is not written, the provider's description is a declared input (`moorgate inputs update`). Secrets \
are named only, and served by the relay (SDS): clientSecret (key client-secret), clientIDRef (key client-id), and what signs the cookies, \
the Secret envoy-oidc-hmac with key hmac-secret in the policy's namespace (`kubectl create secret generic envoy-oidc-hmac \
--from-literal=hmac-secret=$(openssl rand -base64 32)`); while one of the first and the last is missing, random bytes stand for it, and \
nobody can log in. The token endpoint is asked at its own address, or at provider.backendRefs, reached as backendSettings say. \
forwardIDToken needs Envoy 1.39.",
        effect: Effect::Filter {
            name: NAME,
            place: place::OIDC,
            why: "whoever has to log in is sent away before his tokens are read",
        },
    };

    const READS: &'static [&'static str] = &["jwt"];

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.oidc else { return };
        let at = FieldPath::parse("spec.oidc");
        let Some(endpoints) = endpoints(&rules.provider, &at.key("provider"), cx) else { return };
        let Some(provider) = provider(&rules.provider, &endpoints, &at.key("provider"), cx) else { return };
        let Some(mut config) = behaviour(rules, spec.jwt.as_ref(), &at, cx) else { return };
        config.authorization_endpoint = endpoints.authorization;
        config.end_session_endpoint = endpoints.end_session.unwrap_or_default();
        config.retry_policy = provider.retry;
        config.token_endpoint = Some(HttpUri {
            uri: endpoints.token,
            timeout: Some(milliseconds(provider.timeout.unwrap_or(TIMEOUT))),
            http_upstream_type: Some(HttpUpstreamType::Cluster(provider.cluster)),
        });
        let secret = cx.secret(&at.key("clientSecret"), &rules.client_secret, &[CLIENT_SECRET]);
        let hmac =
            SecretRef { group: String::new(), kind: "Secret".into(), name: HMAC.0.into(), namespace: None };
        let hmac = cx.secret(&at, &hmac, &[HMAC.1]);
        let (Some(secret), Some(hmac)) = (secret, hmac) else { return };
        let secrets = (cx.sds(&secret, CLIENT_SECRET), cx.sds(&hmac, HMAC.1));
        let suffix = cx.own_name("oidc");
        let mut credentials = session::credentials(secrets, &suffix, rules.cookie_names.as_ref());
        credentials.cookie_domain = rules.cookie_domain.clone().unwrap_or_default();
        match (&rules.client_id, &rules.client_id_ref) {
            (Some(id), None) if !id.is_empty() => {
                credentials.client_id.clone_from(id);
                config.credentials = Some(credentials);
                let base = OAuth2 { config: Some(config) };
                let name = cx.filter_name(NAME, late::bytes(&base).as_slice());
                cx.whole_filter((&name, place::OIDC), extension(&base));
            }
            (None, Some(reference)) => {
                let Some(named) = cx.secret(&at.key("clientIDRef"), reference, &[CLIENT_ID]) else { return };
                let id = LatePart::Entry {
                    object: 0,
                    key: CLIENT_ID.to_owned(),
                    form: LateForm::Word,
                    or_random: false,
                };
                let [outer, inner, own] = IN_CONFIG;
                let inside = [LatePart::Field(own, vec![id])].into_iter().chain(late::bytes(&credentials));
                let inside = LatePart::Field(inner, inside.collect());
                let whole: Vec<LatePart> = late::bytes(&config).into_iter().chain([inside]).collect();
                let parts = vec![LatePart::Field(outer, whole)];
                let name = cx.filter_name(NAME, &parts);
                cx.secret_filter((&name, place::OIDC), OAuth2::type_url(), &[named], parts);
            }
            _ => cx.invalid(at.key("clientID"), "there is either clientID or clientIDRef"),
        }
    }
}

/// Where the provider is asked: as it is written or declared. Nothing is fetched here.
fn endpoints(spec: &Identity, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Endpoints> {
    let found = match (&spec.authorization_endpoint, &spec.token_endpoint) {
        (Some(authorization), Some(token)) => Endpoints {
            authorization: authorization.clone(),
            token: token.clone(),
            end_session: spec.end_session_endpoint.clone(),
        },
        _ => discovered(spec, at, cx)?,
    };
    for (key, url) in [
        ("authorizationEndpoint", Some(&found.authorization)),
        ("tokenEndpoint", Some(&found.token)),
        ("endSessionEndpoint", found.end_session.as_ref()),
    ] {
        // Whatever is in it goes into a header.
        let good = |url: &String| address(url).is_some() && url.bytes().all(|byte| byte.is_ascii_graphic());
        if url.is_some_and(|url| !good(url)) {
            cx.invalid(at.key(key), "it is no address of a server");
            return None;
        }
    }
    Some(found)
}

/// What the provider said of itself when that was declared (OpenID Connect Discovery 1.0, section 4.2); what the policy writes
/// comes first.
fn discovered(spec: &Identity, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Endpoints> {
    let at = at.key("issuer");
    let url = format!("{}/.well-known/openid-configuration", spec.issuer.trim_end_matches('/'));
    let declared = cx.input(&at, InputKind::Discovery, &url)?;
    let said = cx.json(declared.text());
    let text = |name: &str| said.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let written = |own: &Option<String>, name: &str| own.clone().or_else(|| text(name));
    if text("issuer").as_deref() != Some(spec.issuer.as_str()) {
        // Section 4.3: another one speaks there.
        cx.invalid(at, "its description is that of another issuer");
        return None;
    }
    let authorization = written(&spec.authorization_endpoint, "authorization_endpoint");
    let token = written(&spec.token_endpoint, "token_endpoint");
    let (Some(authorization), Some(token)) = (authorization, token) else {
        cx.invalid(at, "its description does not say where it is asked");
        return None;
    };
    let end_session = written(&spec.end_session_endpoint, "end_session_endpoint");
    Some(Endpoints { authorization, token, end_session })
}

fn provider(
    spec: &Identity,
    endpoints: &Endpoints,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<Provider> {
    let (tls, host, port) = address(&endpoints.token)?;
    let asked = Asked {
        one: spec.backend_ref.as_ref(),
        several: &spec.backend_refs,
        outside: Some((host, port, tls)),
        named_by: "tokenEndpoint",
        http2: false,
    };
    cx.provider(at, asked, "oidc")
}

/// Everything that needs no provider and no secret.
fn behaviour(
    rules: &Rules,
    tokens: Option<&Tokens>,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<OAuth2Config> {
    let redirect = rules.redirect_url.as_deref().unwrap_or(REDIRECT);
    let Some(back) = path_of(redirect) else {
        let message =
            "it needs a scheme (http, https or %REQ(x-forwarded-proto)%), a host and a path besides /";
        cx.invalid(at.key("redirectURL"), message);
        return None;
    };
    let logout = rules.logout_path.as_deref().unwrap_or(LOGOUT);
    if !logout.starts_with('/') || logout == back {
        cx.invalid(at.key("logoutPath"), "a path begins with a slash, and is not that of redirectURL");
        return None;
    }
    let forwarded = rules.forward_id_token.as_ref().map(|forwarding| forwarding.header.as_str());
    if forwarded.is_some_and(|name| !cx.header_name(at.key("forwardIDToken").key("header"), name)) {
        return None;
    }
    let access = rules.forward_access_token == Some(true);
    let owned = forwarded.is_some_and(|name| name.eq_ignore_ascii_case("authorization"));
    if access && owned {
        cx.invalid(at.key("forwardAccessToken"), "two tokens cannot stand in one header");
        return None;
    }
    let deny = rules.deny_redirect.as_ref().map(|deny| deny.headers.as_slice()).unwrap_or_default();
    let deny = matchers(deny, &at.key("denyRedirect").key("headers"), cx)?;
    let pass = if rules.pass_through_auth_header == Some(true) { passed(tokens) } else { Vec::new() };
    if rules.pass_through_auth_header == Some(true) && pass.is_empty() {
        cx.invalid(at.key("passThroughAuthHeader"), "no jwt provider of this policy reads a header");
        return None;
    }
    if !pass.is_empty() && tokens.is_some_and(|tokens| tokens.fail_open == Some(true)) {
        let message = "with jwt.failOpen a token that is none would pass, without a session";
        cx.invalid(at.key("passThroughAuthHeader"), message);
        return None;
    }
    if forwarded.is_some_and(|name| pass.iter().any(|one| one.name.eq_ignore_ascii_case(name))) {
        let field = at.key("forwardIDToken").key("header");
        cx.invalid(
            field,
            "a client could show a token of its own in this header: passThroughAuthHeader reads it",
        );
        return None;
    }
    let mut ttl = |field: &str, text: Option<&str>| -> Option<PbDuration> {
        time(cx, &at.key(field), text).map(milliseconds)
    };
    let default_expires_in = ttl("defaultTokenTTL", rules.default_token_ttl.as_deref());
    let refresh = ttl("defaultRefreshTokenTTL", rules.default_refresh_token_ttl.as_deref());
    let csrf = ttl("csrfTokenTTL", rules.csrf_token_ttl.as_deref());
    let openid = (!rules.scopes.iter().any(|scope| scope == "openid")).then(|| "openid".to_owned());
    Some(OAuth2Config {
        redirect_uri: redirect.to_owned(),
        redirect_path_matcher: Some(exact(back)),
        signout_path: Some(exact(logout)),
        forward_bearer_token: access,
        forward_id_token: forwarded.map(|header| OAuth2TokenForwarding { header: header.to_owned() }),
        // A header of the client's own stays, unless a token takes its place.
        preserve_authorization_header: !access && !owned,
        pass_through_matcher: pass,
        auth_scopes: rules.scopes.iter().cloned().chain(openid).collect(),
        resources: rules.resources.clone(),
        auth_type: AuthType::BasicAuth.into(),
        use_refresh_token: Some(BoolValue { value: rules.refresh_token.unwrap_or(true) }),
        default_expires_in,
        deny_redirect_matcher: deny,
        default_refresh_token_expires_in: refresh,
        cookie_configs: rules.cookie_config.as_ref().and_then(session::cookies),
        stat_prefix: cx.own_name("oidc"),
        csrf_token_expires_in: csrf,
        disable_token_encryption: rules.disable_token_encryption == Some(true),
        ..Default::default()
    })
}

/// The path of an address with which Envoy can fill in scheme and host.
fn path_of(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    if !["http", "https", OPERATORS[0]].contains(&scheme) {
        return None;
    }
    // A path that stands in the host would be an operator's.
    let (host, path) = rest.split_at(rest.find('/')?);
    let plain = OPERATORS.iter().fold(url.to_owned(), |text, operator| text.replace(operator, ""));
    let good = !plain.contains('%') && url.bytes().all(|byte| byte.is_ascii_graphic());
    (good && !host.is_empty() && path != "/" && !path.contains(['?', '#'])).then_some(path)
}

fn exact(path: &str) -> PathMatcher {
    let text =
        StringMatcher { match_pattern: Some(MatchPattern::Exact(path.to_owned())), ..Default::default() };
    PathMatcher { rule: Some(path_matcher::Rule::Path(text)) }
}

fn header(name: &str, pattern: Option<MatchPattern>) -> HeaderMatcher {
    let specifier = match pattern {
        Some(pattern) => HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(pattern),
            ..Default::default()
        }),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    HeaderMatcher {
        name: name.to_ascii_lowercase(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

fn matchers(headers: &[Header], at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<HeaderMatcher>> {
    let mut out = Vec::new();
    for (index, found) in headers.iter().enumerate() {
        let at = at.index(index);
        if !cx.header_name(at.key("name"), &found.name) {
            return None;
        }
        let value = found.value.clone();
        let pattern = match found.kind.as_deref() {
            None | Some("Exact") => MatchPattern::Exact(value),
            Some("Prefix") => MatchPattern::Prefix(value),
            Some("Suffix") => MatchPattern::Suffix(value),
            Some("RegularExpression") => {
                cx.expression(at.key("value"), &value)?;
                MatchPattern::SafeRegex(RegexMatcher { regex: value, engine_type: None })
            }
            Some(other) => {
                cx.invalid(at.key("type"), &format!("a header cannot be matched by {other}"));
                return None;
            }
        };
        out.push(header(&found.name, Some(pattern)));
    }
    Some(out)
}

/// Headers in which tokens are that `jwt` of the same policy checks: who shows one needs no session.
fn passed(tokens: Option<&Tokens>) -> Vec<HeaderMatcher> {
    let providers = tokens.map(|tokens| tokens.providers.as_slice()).unwrap_or_default();
    let mut out = Vec::new();
    for provider in providers {
        match &provider.extract_from {
            None => out.push(header("authorization", Some(MatchPattern::Prefix("Bearer ".into())))),
            Some(places) => out.extend(places.headers.iter().map(|found| {
                let prefix = found.value_prefix.clone().filter(|prefix| !prefix.is_empty());
                header(&found.name, prefix.map(MatchPattern::Prefix))
            })),
        }
    }
    out.dedup();
    out
}

#[cfg(test)]
mod tests;
