//! A fleet that uses everything the representation can say.

use moorgate_model::ObjectRef;
use moorgate_model::ir::{
    Action, AddressFamily, AppProtocol, Cluster, ClusterPolicies, Cors, DownstreamTls, EndpointSource,
    FilterChain, Fleet, Forward, HeaderMutation, HostRewrite, Listener, Mirror, PathMatch, PathRewrite,
    Redirect, Respond, Retry, Route, RouteOrigin, RouteTable, Serves, StaticEndpoint, Timeouts, Transport,
    UpstreamTls, ValueMatch, VirtualHost, WeightedBackend,
};
use std::time::Duration;

pub(super) fn cluster(name: &str) -> Cluster {
    Cluster {
        protocol: AppProtocol::Http1,
        tls: None,
        eds_name: name.into(),
        sources: vec![EndpointSource {
            namespace: "shop".into(),
            service: "cart".into(),
            port_name: "http".into(),
            port: 80,
            family: AddressFamily::Any,
            weight: 1,
            hostname: None,
            addresses: vec![StaticEndpoint { address: "::1".parse().unwrap(), port: 8080 }],
            direct: None,
        }],
        retry_budget: None,
        policies: ClusterPolicies::default(),
    }
}

pub(super) fn tls() -> UpstreamTls {
    UpstreamTls {
        hostname: "cart.internal".into(),
        ca_bundles: vec!["ConfigMap/shop/ca".into()],
        system_roots: false,
        dns_names: Vec::new(),
        uris: Vec::new(),
        refuse: false,
        ..UpstreamTls::refused()
    }
}

pub(super) fn backend(cluster: Option<&str>, weight: u32) -> WeightedBackend {
    WeightedBackend::plain(cluster.map(Into::into), weight)
}

pub(super) fn route(name: &str, path: PathMatch, action: Action) -> Route {
    Route {
        origin: RouteOrigin {
            object: ObjectRef::new("gateway.networking.k8s.io", "HTTPRoute", "shop", name),
            rule: 3,
            rule_name: None,
            matched: 1,
        },
        path,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        cookies: Vec::new(),
        grpc: None,
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        mirrors: Vec::new(),
        cors: None,
        auth: None,
        policies: None,
        action,
    }
}

pub(super) fn forward() -> Forward {
    Forward { backends: vec![backend(Some("shop/cart/80"), 1)], ..Forward::default() }
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn redirect(path: Option<PathRewrite>) -> Redirect {
    Redirect { scheme: Some("https".into()), host: None, port: Some(8443), path, status: 308 }
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.into(), value.into())
}

fn full() -> Route {
    let mutation = HeaderMutation {
        set: vec![header("x-set", "50%"), header("host", "set.example.com")],
        add: vec![header("x-add", "b")],
        remove: vec!["x-gone".into()],
    };
    let mut weighted = backend(Some("shop/cart/443+tls"), 9);
    weighted.request_headers = mutation.clone();
    weighted.response_headers = mutation.clone();
    let mut out = route(
        "full",
        prefix("/a.b/"),
        Action::Forward(Forward {
            backends: vec![weighted, backend(None, 1)],
            path_rewrite: Some(PathRewrite::Prefix("/".into())),
            host_rewrite: Some(HostRewrite("other.example.com".into())),
            timeouts: Timeouts {
                request: Some(Duration::from_mins(10)),
                backend_request: Some(Duration::from_millis(200)),
            },
            retry: Some(Retry {
                attempts: 100,
                codes: vec![500, 503],
                backoff: Some(Duration::from_millis(100)),
            }),
            session: None,
        }),
    );
    out.origin.rule_name = Some("named".into());
    out.method = Some("GET".into());
    out.headers = vec![
        ("x-exact".into(), ValueMatch::Exact("1".into())),
        ("x-regex".into(), ValueMatch::Regex("a|b".into())),
    ];
    out.query = vec![("q".into(), ValueMatch::Regex("[0-9]+".into()))];
    out.request_headers = mutation.clone();
    out.response_headers = mutation;
    out.mirrors = vec![Mirror { cluster: "shop/cart/80".into(), fraction: (1, 3) }];
    out.cors = Some(Cors {
        allow_origins: vec!["https://*.example.com".into(), "https://a.example".into()],
        allow_methods: vec!["*".into()],
        allow_headers: vec!["x-a".into(), "x-b".into()],
        expose_headers: vec!["*".into()],
        allow_credentials: true,
        max_age: 60,
    });
    out
}

fn routes() -> Vec<Route> {
    let rewritten = |rewrite| {
        Action::Forward(Forward {
            path_rewrite: Some(rewrite),
            timeouts: Timeouts { request: None, backend_request: Some(Duration::from_secs(1)) },
            ..forward()
        })
    };
    let mut host_set = route("host-set", prefix("/host"), Action::Forward(forward()));
    host_set.request_headers.set = vec![header("host", "set.example.com")];
    vec![
        full(),
        host_set,
        route("exact", PathMatch::Exact("/x".into()), rewritten(PathRewrite::Full("/y\\1".into()))),
        route("regex", PathMatch::Regex("/[a-z]+(/.*)?".into()), Action::Forward(forward())),
        route("odd", prefix("/a?b"), Action::Forward(forward())),
        route("swap", prefix("/foo"), rewritten(PathRewrite::Prefix("/xyz/".into()))),
        route("r1", prefix("/r1"), Action::Redirect(redirect(Some(PathRewrite::Prefix("/".into()))))),
        route("r2", prefix("/r2"), Action::Redirect(redirect(Some(PathRewrite::Prefix("/z".into()))))),
        route("r3", prefix("/r3"), Action::Redirect(redirect(Some(PathRewrite::Full("/z".into()))))),
        route("r4", prefix("/r4"), Action::Redirect(redirect(None))),
        route(
            "none",
            prefix("/none"),
            Action::Forward(Forward { backends: vec![backend(None, 1)], ..forward() }),
        ),
        route("respond", prefix(""), Action::Respond(Respond { status: 500 })),
    ]
}

fn host(domain: &str, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: domain.into(), domain: domain.into(), listener: None, asked: None, routes }
}

fn chain(name: &str, server_names: &[&str], secrets: &[&str], hosts: Vec<VirtualHost>) -> FilterChain {
    FilterChain {
        name: name.into(),
        server_names: server_names.iter().map(|name| (*name).to_owned()).collect(),
        tls: (!secrets.is_empty()).then(|| DownstreamTls {
            secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
            clients: None,
        }),
        origins: Vec::new(),
        policies: None,
        serves: Serves::Http(std::sync::Arc::new(RouteTable { name: name.into(), hosts })),
        tracing: None,
    }
}

pub(super) fn fleet() -> Fleet {
    let mut fleet = Fleet::default();
    fleet.clusters.insert("shop/cart/80".into(), cluster("shop/cart/80"));
    let protected = Cluster { tls: Some(tls()), protocol: AppProtocol::Http2, ..cluster("shop/cart/443") };
    fleet.clusters.insert("shop/cart/443+tls".into(), protected);
    let system = UpstreamTls {
        ca_bundles: Vec::new(),
        system_roots: true,
        dns_names: vec!["a.internal".into()],
        uris: vec!["spiffe://a/b".into()],
        ..tls()
    };
    let system = Cluster { tls: Some(system), ..cluster("shop/cart/443") };
    fleet.clusters.insert("shop/cart/443+system".into(), system);
    let refused = Cluster { tls: Some(UpstreamTls { refuse: true, ..tls() }), ..cluster("shop/gone/443") };
    fleet.clusters.insert("shop/gone/443+refuse".into(), refused);
    let plain = chain(
        "http-80",
        &[],
        &[],
        vec![host("*", routes()), host("*.example.com", Vec::new()), host("a.example.com", routes())],
    );
    fleet
        .listeners
        .insert("http-80".into(), Listener { port: 80, transport: Transport::Tcp, chains: vec![plain] });
    let mut refused = chain("c", &["gone.example.com"], &[], Vec::new());
    refused.serves = Serves::Refuse;
    let chains = vec![
        chain(
            "a",
            &["a.example.com", "*.example.org"],
            &["shop/cert", "shop/ecdsa"],
            vec![host("*", routes())],
        ),
        chain("b", &[], &["shop/cert"], vec![host("b.example.com", routes())]),
        refused,
    ];
    fleet.listeners.insert("https-443".into(), Listener { port: 443, transport: Transport::Tcp, chains });
    fleet
}
