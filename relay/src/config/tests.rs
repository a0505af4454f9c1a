use super::*;
use clap::Parser as _;

fn options(flags: &[&str]) -> Options {
    let base = ["moorgate-relay", "--store", "memory:///", "--trust", "/t"];
    Options { host: Some("host-1".into()), ..Options::try_parse_from(base.iter().chain(flags)).unwrap() }
}

fn refusal(flags: &[&str]) -> String {
    options(flags).check().unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_a_sidecar() {
    let config = options(&["--fleet", "shop/edge"]).check().unwrap();
    assert_eq!(config.listen, [Listen::Unix("/run/moorgate/{fleet}.sock".into(), Peers::default())]);
    assert_eq!(config.channel.as_str(), "stable");
    assert_eq!(config.poll_interval, Duration::from_secs(5));
    assert_eq!(config.max_request, 32 << 20);
}

#[test]
fn what_would_be_unsafe_or_unclear_is_refused_in_words() {
    let fleet = ["--fleet", "a/b"];
    let with = |flags: &[&str]| refusal(&[&fleet[..], flags].concat());
    assert_eq!(refusal(&[]), "--fleet is required");
    assert!(with(&["--listen", "tcp:0.0.0.0:18000"]).contains("mutual TLS"));
    assert!(with(&["--listen", "unix:/x?uid=envoy"]).contains("?uid=NUMBER"));
    assert!(with(&["--listen", "unix:/x?user=1"]).contains("?uid=NUMBER"));
    assert!(with(&["--listen", "tcp:localhost:1"]).contains("IP address"));
    assert!(with(&["--listen", "/x"]).contains("unix:/path"));
    assert!(with(&["--fleet", "c/d", "--listen", "unix:/x"]).contains("{fleet}"));
    assert!(with(&["--fleet", "c/d", "--listen", "tcp:127.0.0.1:1"]).contains("--member"));
    assert!(with(&["--tls-cert", "x"]).contains("go together"));
    assert!(with(&["--poll-interval", "10ms"]).contains("one second"));
    assert!(with(&["--poll-interval", "5"]).contains("5s"));
    assert!(with(&["--kubeconfig", "x"]).contains("--kubernetes"));
    assert!(with(&["--member", "x=other/fleet"]).contains("not served"));
    assert!(with(&["--ttl", "faults"]).contains("RTDS/faults=30s"));
    assert!(with(&["--ttl", "XDS/faults=30s"]).contains("a type is"));
    assert!(with(&["--ttl", "RTDS/faults=1s"]).contains("three seconds"));
    assert!(with(&["--fleet", "../x"]).contains("no fleet"));
    assert!(with(&["--channel", "A"]).contains("no channel"));
    assert!(options(&[&fleet[..], &["--listen", "tcp:127.0.0.1:0"]].concat()).check().is_ok());
}

#[test]
fn times_to_live_are_of_single_resources() {
    let config = options(&["--fleet", "a/b", "--ttl", "RTDS/a/b=30s,ECDS/fault=1m"]).check().unwrap();
    let of = |type_url: &str, name: &str| config.settings.ttls[type_url][name];
    assert_eq!(of(types::RUNTIME, "a/b"), Duration::from_secs(30));
    assert_eq!(of(types::EXTENSION, "fault"), Duration::from_mins(1));
    assert!(options(&["--fleet", "a/b"]).check().unwrap().settings.ttls.is_empty());
}

#[test]
fn a_socket_names_who_may_connect() {
    let config = options(&["--fleet", "a/b", "--listen", "unix:/x?uid=1&uid=2&gid=3"]).check().unwrap();
    let peers = Peers { users: [1, 2].into(), groups: [3].into() };
    assert_eq!(config.listen, [Listen::Unix("/x".into(), peers)]);
}

/// On TCP nobody is let in who was not named, and no proof goes over the wire for everybody to read.
#[test]
fn clients_on_tcp_are_named_and_prove_who_they_are() {
    let tls = ["--fleet", "a/b", "--listen", "tcp:127.0.0.1:1", "--tls-cert", "c", "--tls-key", "k"];
    let with = |flags: &[&str]| options(&[&tls[..], flags].concat()).check();
    let refused = |flags: &[&str]| with(flags).unwrap_err().to_string();
    let (account, tokens) =
        ("system:serviceaccount:a:envoy=a/b", ["--token-keys", "file:/j", "--token-issuer", "https://i"]);
    // The certificate of any client is admitted only if that is said.
    assert!(refused(&["--client-ca", "ca"]).contains("'*=FLEET'"));
    assert_eq!(with(&["--client-ca", "ca", "--member", "*=a/b"]).unwrap().members.len(), 1);
    let named = with(&["--client-ca", "ca", "--member", "Envoy.Example=a/b,spiffe://X/Y=a/b"]).unwrap();
    assert_eq!(named.members.keys().collect::<Vec<_>>(), ["envoy.example", "spiffe://X/Y"]);
    assert!(refused(&[]).contains("--client-ca"));
    let of_file = with(&["--client-ca", "ca", "--member-file", "/m"]).unwrap();
    assert_eq!((of_file.members.len(), of_file.member_file.unwrap().path), (0, "/m".into()));
    let alone = options(&["--fleet", "a/b", "--member-file", "/m"]).check().unwrap_err().to_string();
    assert!(alone.contains("goes with"), "{alone}");
    assert!(refused(&["--client-ca", "ca", "--member", account]).contains("--token-keys"));
    let config = with(&[&tokens[..], &["--member", account]].concat()).unwrap();
    let options_of = config.tokens.unwrap();
    assert_eq!(
        (options_of.keys, options_of.audience.as_str()),
        (TokenKeys::File("/j".into()), "moorgate-relay")
    );
    assert!(config.tls.is_some_and(|files| files.tokens && files.client_ca.is_none()));
    assert!(refused(&[&tokens[..], &["--member", "*=a/b"]].concat()).contains("--client-ca"));
    assert!(
        refused(&[&tokens[..], &["--member", "system:serviceaccount:a=a/b"]].concat())
            .contains("NAMESPACE:NAME")
    );
    assert!(refused(&tokens[..2]).contains("go together"));
    assert!(refused(&["--token-audience", "x"]).contains("go together"));
    assert!(refused(&["--token-keys", "j", "--token-issuer", "i"]).contains("file:PATH"));
    let plain = options(&[&tls[..4], &tokens[..], &["--member", account]].concat()).check();
    assert!(plain.unwrap_err().to_string().contains("needs TLS"));
}

#[test]
fn a_pin_file_is_of_one_fleet() {
    let one = options(&["--fleet", "a/b", "--pin-file", "/p"]).check().unwrap();
    assert_eq!(one.pin_file, Some("/p".into()));
    assert!(refusal(&["--fleet", "a/b,c/d", "--pin-file", "/p"]).contains("{fleet}"));
    assert!(options(&["--fleet", "a/b,c/d", "--pin-file", "/p/{fleet}"]).check().is_ok());
}

#[test]
fn a_file_gives_what_flags_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.json");
    let text = r#"{"fleet": ["a/b"], "poll-interval": "7s", "channel": "canary"}"#;
    std::fs::write(&path, text).unwrap();
    let flags = ["--channel", "stable", "--config", path.to_str().unwrap()];
    let config = options(&flags).with_file().unwrap().check().unwrap();
    assert_eq!(config.poll_interval, Duration::from_secs(7));
    assert_eq!(config.channel.as_str(), "stable");
    assert_eq!(config.fleets, [FleetName::gateway("a", "b")]);
    std::fs::write(&path, r#"{"flet": []}"#).unwrap();
    let error = options(&flags).with_file().unwrap_err().to_string();
    assert!(error.contains("flet"), "{error}");
}

#[cfg(feature = "yaml")]
#[test]
fn a_file_may_be_yaml() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.yaml");
    std::fs::write(&path, "fleet: [a/b]\nready-acked: true\n").unwrap();
    let flags = ["--config", path.to_str().unwrap()];
    assert!(options(&flags).with_file().unwrap().check().unwrap().ready_acked);
}

#[test]
fn the_help_has_examples() {
    use clap::CommandFactory;
    Options::command().debug_assert();
    assert!(Options::command().render_long_help().to_string().contains("--unix-socket"));
}

#[test]
fn a_relay_knows_who_it_is() {
    let named = |flags: &[&str]| options(&[&["--fleet", "a/b"][..], flags].concat()).check();
    let identity = named(&["--name", "edge-7", "--label", "zone=eu-1,rack=4"]).unwrap().identity;
    assert_eq!(identity.name().as_str(), "edge-7");
    assert_eq!(identity.labels()["zone"], "eu-1");
    assert_eq!(identity.labels()["rack"], "4");
    let config = named(&[]).unwrap();
    assert_eq!((config.identity.name().as_str(), config.unfit_name), ("host-1", None));
    for flags in
        [["--name", "a b"], ["--name", "a-"], ["--label", "zone"], ["--envoy-admin", "localhost:9901"]]
    {
        assert!(named(&flags).is_err(), "{flags:?}");
    }
    assert_eq!(named(&["--report-key", "file:/k"]).unwrap().report_key, Some("/k".into()));
    let pasted = named(&["--report-key", "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK"]).unwrap_err().to_string();
    assert!(pasted.contains("file:PATH") && !pasted.contains("MC4C"), "{pasted}");
    let host = |host: Option<&str>| {
        let options = Options { host: host.map(str::to_owned), ..options(&["--fleet", "a/b"]) };
        options.check().map(|config| (config.identity.name().to_string(), config.unfit_name))
    };
    assert_eq!(
        host(Some("-h\u{f6}st_\u{1b}1.")).unwrap(),
        ("h-st_-1".into(), Some("-h\u{f6}st_\u{1b}1.".into()))
    );
    assert!(host(Some("---")).is_err());
    assert!(host(None).is_err());
    let two = refusal(&["--fleet", "a/b,c/d", "--envoy-admin", "http://127.0.0.1:1"]);
    assert!(two.contains("{fleet}"), "{two}");
}

#[test]
fn an_api_server_is_asked_only_by_relays_that_can() {
    let checked = options(&["--fleet", "a/b", "--kubernetes", "--kubeconfig", "/k"]).check();
    if cfg!(feature = "kubernetes") {
        assert_eq!(checked.unwrap().kubernetes, Some(Kubernetes::Kubeconfig("/k".into())));
    } else {
        assert!(checked.unwrap_err().to_string().contains("without the feature"));
    }
}

/// Who opens fleets has proven who it is, and reads with its own rights where it is asked to.
#[test]
fn fleets_are_opened_only_for_who_proves_to_be_of_one() {
    let tls = ["--listen", "tcp:127.0.0.1:1", "--tls-cert", "c", "--tls-key", "k", "--token-keys", "file:/j"];
    let who = ["--token-issuer", "https://i", "--member-file", "/m", "--on-demand"];
    let with = |flags: &[&str]| options(&[&tls[..], &who, flags].concat()).check();
    let refused = |flags: &[&str]| with(flags).unwrap_err().to_string();
    let config = with(&[]).unwrap();
    assert_eq!((config.fleets.len(), config.member_file.unwrap().path), (0, "/m".into()));
    let wanted = OnDemand { forget_after: Duration::from_mins(10), passes: false };
    assert_eq!(config.on_demand, Some(wanted));
    let soon = with(&["--forget-after", "30s"]).unwrap().on_demand.unwrap();
    assert_eq!(soon.forget_after, Duration::from_secs(30));
    // Any fleet may have members.
    let member = ["--member", "system:serviceaccount:a:envoy=a/b"];
    assert_eq!(with(&member).unwrap().members.len(), 1);
    assert!(refused(&["--fleet", "a/b"]).contains("takes the place"));
    assert!(refused(&["--listen", "unix:/run/{fleet}.sock"]).contains("no socket"));
    assert!(refused(&["--kubernetes-as-client"]).contains("--kubernetes"));
    assert!(refused(&["--pin-file", "/p"]).contains("{fleet}"));
    assert!(refusal(&["--on-demand"]).contains("no socket"));
    for lonely in [&["--forget-after", "1m"][..], &["--kubernetes-as-client"]] {
        assert!(refusal(&[&["--fleet", "a/b"], lonely].concat()).contains("--on-demand"), "{lonely:?}");
    }
    if cfg!(feature = "kubernetes") {
        let passes = ["--kubernetes", "--kubernetes-as-client"];
        assert!(with(&passes).unwrap().on_demand.unwrap().passes);
        let certificates = [&passes[..], &["--client-ca", "ca"]].concat();
        assert!(refused(&certificates).contains("without --client-ca"));
    }
}
