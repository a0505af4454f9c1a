//! History from the store alone: who changed what and when, which line made a route, and what gc leaves of it.

use anyhow::Result;
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::program::{Outcome, moorgate, run};
use moorgate_tests::repository::Repository;

struct Shop {
    folder: tempfile::TempDir,
    repository: Repository,
}

impl Shop {
    fn open() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let repository = Repository::create(&folder.path().join("gateways"))?;
        let shop = Self { folder, repository };
        let key = shop.path("ci.key");
        shop.call(&["keygen", &key])?.ended_with(&[0])?;
        Ok(shop)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn call(&self, words: &[&str]) -> Result<Outcome> {
        let mut command = moorgate()?;
        command.args(words).env("MOORGATE_STORE", format!("file://{}", self.path("store")));
        command.env("MOORGATE_TRUST", self.path("ci.pub"));
        run(&mut command)
    }

    fn act(&self, words: &[&str], author: &str) -> Result<Outcome> {
        let key = format!("file:{}", self.path("ci.key"));
        self.call(&[words, &["--key", &key, "--author", author, "--run", "https://ci.example/7"]].concat())
    }

    /// Commits routes to these Services, the second of them `lines` further down, and publishes them.
    fn publish(&self, services: [&str; 2], lines: usize, author: &str) -> Result<String> {
        let gateway = manifest::gateway("edge", "public", &[Listener::http("http", 80)]);
        let all = ["one", "two", "three"].map(|name| manifest::service("shop", name));
        let route = |name: &str, service: &str| {
            let host = format!("{name}.example");
            manifest::http_route("shop", name, "edge/public", &[&host], &manifest::rule("/", service))
        };
        let base = [vec![manifest::gateway_class(), gateway], all.to_vec()].concat();
        self.repository.write("base.yaml", &manifest::documents(&base))?;
        let [cart, pay] = services;
        let routes = format!("{}---\n{}{}", route("cart", cart), "#\n".repeat(lines), route("pay", pay));
        self.repository.write("routes.yaml", &routes)?;
        let commit = self.repository.commit("a change")?;
        let source = self.repository.path().display().to_string();
        self.act(&["publish", &source, "--rev", "HEAD"], author)?.ended_with(&[0])?;
        Ok(commit)
    }
}

#[test]
fn the_store_alone_says_who_changed_a_route_and_which_line_made_it() -> Result<()> {
    let shop = Shop::open()?;
    shop.publish(["one", "two"], 0, "ada")?;
    let second = shop.publish(["three", "two"], 3, "bob")?;
    shop.publish(["three", "one"], 3, "carol")?;
    shop.act(&["rollback", "edge/public", "1", "--reason", "carts are empty"], "on-call")?
        .ended_with(&[0])?;
    // Nobody has the sources any more.
    std::fs::rename(shop.repository.path(), shop.path("gone"))?;

    let log = shop.call(&["log", "edge/public", "--object", "HTTPRoute/shop/cart", "-o", "json"])?;
    let log = log.ended_with(&[0])?.json()?;
    let rows: Vec<_> = log["changes"].as_array().into_iter().flatten().collect();
    let row = |index: usize, name: &str| rows[index][name].as_str().unwrap_or_default();
    assert_eq!(rows.len(), 3, "{log}");
    assert_eq!([row(0, "action"), row(0, "author"), row(0, "reason")], ["pin", "on-call", "carts are empty"]);
    assert_eq!([row(1, "what"), row(1, "author"), row(1, "run")], ["changed", "bob", "https://ci.example/7"]);
    assert_eq!(rows[1]["source"]["revision"], second.as_str());
    assert_eq!([row(2, "what"), row(2, "place")], ["added", "routes.yaml:1"]);
    let text = shop.call(&["log", "edge/public", "--object", "httproute/shop/pay"])?.ended_with(&[0])?.stdout;
    assert_eq!(text.lines().count(), 4, "a heading, rollback, carol's change, and the first release: {text}");
    let later = ["log", "edge/public", "--object", "HTTPRoute/shop/cart", "--since", "2999-01-01"];
    assert_eq!(shop.call(&later)?.ended_with(&[0])?.stdout, "");
    shop.call(&["log", "edge/public", "--object", "cart"])?.ended_with(&[2])?;

    // The rollback is in force: the first release answers, with its own lines.
    let url = "http://cart.example/";
    let now = shop.call(&["explain", "channel:edge/public@stable", "GET", url])?.ended_with(&[0])?.stdout;
    assert!(now.contains("HTTPRoute shop/cart rule 0") && now.contains("shop/one"), "{now}");
    assert!(now.contains("(routes.yaml:") && now.contains("(base.yaml:"), "{now}");
    let status = shop.call(&["status", "edge/public", "-o", "json"])?.ended_with(&[0])?.json()?;
    let waiting =
        status["channels"][0]["state"]["target"]["snapshot"].as_str().unwrap_or_default().to_owned();
    let named = format!("snapshot:{waiting}");
    let pay = ["explain", &named, "GET", "http://pay.example/", "--fleet", "edge/public", "-o", "json"];
    let then = shop.call(&pay)?.ended_with(&[0])?.json()?;
    let place = then["answers"][0]["route"]["place"].as_str().unwrap_or_default().to_owned();
    let line: usize = place.strip_prefix("routes.yaml:").unwrap_or_default().parse()?;
    let text = std::fs::read_to_string(shop.path("gone/routes.yaml"))?;
    let rule = text.lines().nth(line - 1).unwrap_or_default();
    assert!(rule.trim_start().starts_with("- "), "{place}: {rule}");
    assert!(text.lines().take(line).any(|line| line.contains("pay")), "{place}");
    shop.call(&["explain", &named, "GET", "http://pay.example/"])?.ended_with(&[2])?;
    Ok(())
}

#[test]
fn gc_only_looks_unless_told_and_leaves_history_behind() -> Result<()> {
    let shop = Shop::open()?;
    for (number, service) in ["one", "two", "three", "one"].into_iter().enumerate() {
        shop.publish([service, "two"], number, "ada")?;
    }
    let looked = shop.call(&["gc", "-o", "json"])?.ended_with(&[0])?.json()?;
    assert_eq!((&looked["applied"], &looked["fleets"][0]["fleet"]), (&false.into(), &"edge/public".into()));
    assert!(looked["fleets"][0]["outcome"]["needed"]["objects"].as_u64() > Some(0), "{looked}");
    assert!(!std::path::Path::new(&shop.path("store/fleets/gateway/edge/public/gc")).exists());
    // Without any time to wait for: the last release and the one before it stay.
    let now = ["gc", "--apply", "--keep-for", "0s", "--keep-last", "1", "--grace", "0s", "--delay", "0s"];
    let condemned = shop.call(&now)?.ended_with(&[0])?.stdout;
    assert!(condemned.contains("DELETED"), "{condemned}");
    shop.call(&["gc", "--apply", "--dry-run"])?.ended_with(&[2])?;
    let log = shop.call(&["log", "edge/public", "--object", "HTTPRoute/shop/cart", "-o", "json"])?;
    assert_eq!(log.ended_with(&[0])?.json()?["changes"].as_array().map(Vec::len), Some(4));
    shop.call(&["verify", "edge/public"])?.ended_with(&[0])?;
    // A log of which gc cannot tell what it needs.
    let slot = "store/fleets/gateway/edge/public/log/stable/00000000000000000005";
    std::fs::write(shop.path(slot), "?")?;
    let refused = shop.call(&["gc", "--apply"])?.ended_with(&[5])?;
    assert!(refused.stderr.contains("nothing was removed"), "{}", refused.stderr);
    Ok(())
}
