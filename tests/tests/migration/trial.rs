//! From Envoy Gateway: a trial beside it, on the same YAML, and back.

use crate::document::{background, commands, section};
use crate::front::Front;
use crate::incumbent::{self, programmed};
use crate::site::{Site, case, plain, secure};
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Answer, Request, Target};
use moorgate_tests::program::switched_on;
use moorgate_tests::repository::Repository;
use moorgate_tests::wait;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const GATEWAY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/edge";

/// What is different in each answer, of whomever.
const VOLATILE: [&str; 4] = ["date", "x-envoy-upstream-service-time", "x-request-id", "content-length"];

/// What both are asked: what it is about, whether over TLS, the request, and the status.
fn asked() -> Vec<(&'static str, bool, Request, u16)> {
    let shop = |path| Request::get("shop.example.com", path);
    let at = |host: &str| Request::get(&format!("{host}.example.com"), "/");
    let password = |words: &str| format!("Basic {}", STANDARD.encode(words));
    let preflight = |origin| {
        let request = at("partners").method("OPTIONS").header("origin", origin);
        request.header("access-control-request-method", "POST")
    };
    let all = [
        ("the last rule", shop("/cart?page=2"), 200),
        ("a method", shop("/cart").method("DELETE"), 200),
        ("a redirect", shop("/old"), 301),
        ("a prefix that is replaced", shop("/api/items?x=1"), 200),
        ("a path beside it", shop("/apix"), 200),
        ("a path that is rewritten by an expression", shop("/users/42/"), 200),
        ("an answer without a backend", shop("/closed"), 503),
        ("a header that decides", shop("/").header("x-canary", "yes").header("x-secret", "mine"), 200),
        ("an escaped slash", shop("/a%2Fb"), 400),
        ("a host that nobody has", at("nobody"), 404),
        ("no password", at("admin"), 401),
        ("a wrong password", at("admin").header("authorization", &password("ada:wrong")), 401),
        ("the password", at("admin").header("authorization", &password("ada:secret")), 200),
        ("no key", at("partners"), 401),
        ("a wrong key", at("partners").header("x-api-key", "none"), 401),
        ("the key", at("partners").header("x-api-key", "partner-key"), 200),
        ("a browser that may", preflight("https://app.example.com"), 200),
        ("the first of two", at("limited"), 200),
        ("the second of two", at("limited"), 200),
        ("one too many", at("limited"), 429),
        ("a fault that is wanted", at("broken"), 418),
    ];
    let all = all.into_iter().map(|(what, request, status)| (what, false, request, status));
    all.chain([("TLS", true, shop("/cart"), 200)]).collect()
}

/// An answer without what is different each time: of a backend's own answer also what it received.
fn seen(answer: &Answer) -> Value {
    let stays = |name: &str| !VOLATILE.contains(&name.to_ascii_lowercase().as_str());
    let headers: Map<String, Value> = answer
        .headers
        .iter()
        .filter(|(name, _)| stays(name))
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    let body = match serde_json::from_slice::<Value>(&answer.body) {
        Ok(mut echo) => {
            if let Some(received) = echo["headers"].as_object_mut() {
                received.retain(|name, _| stays(name));
            }
            echo
        }
        Err(_) => String::from_utf8_lossy(&answer.body).into_owned().into(),
    };
    json!({"status": answer.status, "headers": headers, "body": body})
}

/// Where two values differ: paths, with who has something there.
fn differences(at: &str, one: &Value, two: &Value, found: &mut BTreeSet<String>) {
    match (one, two) {
        (Value::Object(left), Value::Object(right)) => {
            for key in left.keys().chain(right.keys()).collect::<BTreeSet<_>>() {
                let of = |side: &Map<String, Value>| side.get(key).cloned().unwrap_or_default();
                differences(&format!("{at}.{key}"), &of(left), &of(right), found);
            }
        }
        _ if one == two => {}
        _ => {
            let whose = match (one.is_null(), two.is_null()) {
                (true, _) => "Moorgate alone",
                (_, true) => "Envoy Gateway alone",
                _ => "another",
            };
            found.insert(format!("{at}: {whose}"));
        }
    }
}

struct Trial {
    site: Site,
    repository: Repository,
    commit: String,
    sides: [IpAddr; 2],
    secure: [Target; 2],
}

/// All objects of Envoy Gateway's users, each with its kind and name.
fn users(site: &Site) -> Result<Vec<(String, Value)>> {
    let lists = [
        "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
        "/apis/gateway.networking.k8s.io/v1/gateways",
        "/apis/gateway.networking.k8s.io/v1/httproutes",
        "/apis/gateway.envoyproxy.io/v1alpha1/securitypolicies",
        "/apis/gateway.envoyproxy.io/v1alpha1/backendtrafficpolicies",
        "/apis/gateway.envoyproxy.io/v1alpha1/clienttrafficpolicies",
        "/apis/gateway.envoyproxy.io/v1alpha1/httproutefilters",
    ];
    let mut all = Vec::new();
    for list in lists {
        let kind = list.rsplit('/').next().unwrap_or_default();
        let items = site.cluster.request("GET", list, None)?["items"].clone();
        let items = items.as_array().context("items")?;
        ensure!(!items.is_empty(), "{list} is empty");
        let named =
            |item: &Value| format!("{kind} {}", item["metadata"]["name"].as_str().unwrap_or_default());
        all.extend(items.iter().map(|item| (named(item), item.clone())));
    }
    Ok(all)
}

/// The same with their status, byte for byte.
fn objects(site: &Site) -> Result<Vec<String>> {
    Ok(users(site)?.into_iter().map(|(_, item)| item.to_string()).collect())
}

/// Every condition of them, by its place.
fn said(site: &Site) -> Result<BTreeMap<String, Value>> {
    fn walk(value: &Value, at: &str, out: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) if fields.contains_key("lastTransitionTime") => {
                let kind = value["type"].as_str().unwrap_or_default();
                out.insert(format!("{at} {kind}"), value.clone());
            }
            Value::Object(fields) => {
                fields.iter().for_each(|(name, field)| walk(field, &format!("{at}.{name}"), out));
            }
            Value::Array(items) => {
                let place = |index: usize, item: &Value| match item["name"].as_str() {
                    Some(name) => name.to_owned(),
                    None if item["type"].is_string() => String::new(),
                    None => index.to_string(),
                };
                let items = items.iter().enumerate();
                items.for_each(|(index, item)| walk(item, &format!("{at}[{}]", place(index, item)), out));
            }
            _ => {}
        }
    }
    let mut out = BTreeMap::new();
    users(site)?.iter().for_each(|(name, item)| walk(&item["status"], name, &mut out));
    Ok(out)
}

/// The names of all objects of the cluster.
fn inventory(site: &mut Site) -> Result<BTreeSet<String>> {
    let script = "kinds=$(kubectl api-resources --verbs=list -o name | grep -v -e '^events' -e '^componentstatuses' | paste -sd,)
kubectl get $kinds --all-namespaces --no-headers -o custom-columns=K:.kind,S:.metadata.namespace,N:.metadata.name";
    let listed = site.types(script)?.stdout;
    let all: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    ensure!(all.len() > 50, "only {all:?}");
    Ok(all)
}

impl Trial {
    /// What a team has before: a cluster with Envoy Gateway, a repository, and all of it served.
    fn before() -> Result<(Site, Repository, String, Certificate)> {
        let mut site = Site::new("moorgate-trial")?;
        incumbent::install(&site)?;
        site.backends("shop", &["cart", "stock"])?;
        site.cluster.apply(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: admins, namespace: shop}\nstringData: {.htpasswd: \"ada:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\"}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {name: partners, namespace: shop}\nstringData: {acme: partner-key}\n",
        )?;
        let own = site.certificate("shop", "edge-tls", &["shop.example.com"])?;
        let repository = Repository::create(&site.path("gateways"))?;
        repository.write("gateways.yaml", &std::fs::read_to_string(case("envoy-gateway/gateways.yaml"))?)?;
        let commit = repository.commit("What runs")?;
        site.types("kubectl apply -f gateways/")?;
        Ok((site, repository, commit, own))
    }

    /// Both sides are asked the same, and answer alike but for what is named here.
    fn compare(&self) -> Result<()> {
        let mut found = BTreeSet::new();
        for (what, secure, request, status) in asked() {
            let mut answers = Vec::new();
            for (index, name) in ["Envoy Gateway", "Moorgate"].into_iter().enumerate() {
                let target = if secure { self.secure[index].clone() } else { plain(self.sides[index], 80) };
                let answer = self.site.send(&target, &request).with_context(|| format!("{what}: {name}"))?;
                let body = String::from_utf8_lossy(&answer.body);
                ensure!(answer.status == status, "{what}: {name} says {} {body}", answer.status);
                answers.push(seen(&answer));
            }
            differences(what, &answers[0], &answers[1], &mut found);
        }
        named(&found)
    }
}

/// All that differs is kept in a file, by `MOORGATE_BLESS=1`, and each header or field of it is named on the page.
fn named(found: &BTreeSet<String>) -> Result<()> {
    let file = case("envoy-gateway/differences.txt");
    if switched_on("MOORGATE_BLESS") {
        let lines: Vec<&str> = found.iter().map(String::as_str).collect();
        std::fs::write(&file, lines.join("\n") + "\n")?;
    }
    let kept = std::fs::read_to_string(&file)?;
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    let kept: Vec<&str> = kept.lines().filter(|line| !line.is_empty()).collect();
    ensure!(kept == found, "{found:#?}");
    let page = section("## From Envoy Gateway")?.to_ascii_lowercase();
    for line in found {
        let path = line.split(": ").next().context("a path")?;
        let field = path.rsplit('.').next().context("a field")?.to_ascii_lowercase();
        ensure!(page.contains(&format!("`{field}`")), "the page does not name {field}: {line}");
    }
    Ok(())
}

#[test]
fn a_trial_runs_beside_envoy_gateway_takes_its_traffic_and_goes() -> Result<()> {
    let [check, publish, render, compare, remove, stop, back] = commands("## From Envoy Gateway")?;
    let (mut site, repository, commit, own) = Trial::before()?;
    let gateway = programmed(&site.cluster, GATEWAY)?;
    let old: IpAddr = gateway["status"]["addresses"][0]["value"].as_str().context("an address")?.parse()?;
    let shop = Request::get("shop.example.com", "/cart");
    site.until(&secure(old, "shop.example.com", &own)?, &shop, 200)
        .with_context(|| incumbent::logs(&site.cluster))?;
    let (before, there) = (objects(&site)?, inventory(&mut site)?);

    let explained = site.types(&check)?.stdout;
    ensure!(explained.contains("httproute/shop/shop") || explained.contains("shop/shop"), "{explained}");
    site.types(&publish)?;
    site.types(&render)?;
    let new = site.address("shop", "edge-eg")?;
    ensure!(new != old, "both have {new}");
    site.until(&plain(new, 80), &shop, 200)?;
    site.until(&secure(new, "shop.example.com", &own)?, &shop, 200)?;
    assert_eq!(site.types(&compare)?.stdout, "200\n200\n");
    let targets = [secure(old, "shop.example.com", &own)?, secure(new, "shop.example.com", &own)?];
    let trial = Trial { site, repository, commit, sides: [old, new], secure: targets };
    trial.compare()?;
    assert_eq!(objects(&trial.site)?, before, "an object was written to");

    // Moved in steps and back, and taken away, while requests flow.
    let Trial { mut site, repository, commit, .. } = trial;
    let front = Front::start(&site.cluster, site.folder.path(), [("envoy-gateway", old), ("moorgate", new)])?;
    let load = front.load(&shop);
    for percent in [10, 50, 100, 50, 0] {
        front.weigh(percent, &load)?;
    }
    assert_eq!(objects(&site)?, before, "an object was written to");
    site.types(&remove)?;
    wait::until("the end of the trial", || {
        let left: Vec<_> = inventory(&mut site)?.difference(&there).cloned().collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    load.wait(200)?;
    let report = load.stop();
    report.nothing_lost()?;
    ensure!(report.from("moorgate") > 200 && report.from("envoy-gateway") > 400, "{:?}", report.answers);
    println!("{} requests: {:?}, none lost", report.sent, report.answers);
    assert_eq!(inventory(&mut site)?, there);
    assert_eq!(objects(&site)?, before, "an object was written to");
    assert_eq!(repository.git(&["status", "--porcelain"])?.stdout, "");
    assert_eq!(repository.git(&["rev-parse", "HEAD"])?.stdout.trim(), commit);
    to_stay(&mut site, &repository, old, [&stop, &back])
}

/// Envoy Gateway ends, and what it said of objects is replaced, as it is when they change; and it comes back.
fn to_stay(site: &mut Site, repository: &Repository, old: IpAddr, [stop, back]: [&str; 2]) -> Result<()> {
    let before = said(site)?;
    ensure!(before.len() > 20, "{before:#?}");
    site.types("kubectl create secret generic moorgate-trial --namespace shop --from-env-file=store.env")?;
    site.types(stop)?;
    let mut watch = site.starts("watch", &background("## From Envoy Gateway")?)?;
    let new = site.address("shop", "edge-eg")?.to_string();
    wait::until("Moorgate's word on all objects", || {
        watch.check()?;
        let now = said(site)?;
        let theirs: Vec<_> = before.iter().filter(|(at, word)| now.get(*at) == Some(word)).collect();
        ensure!(theirs.is_empty(), "{theirs:#?}");
        // All of it is good, and nothing in conflict.
        let good = |word: &Value| if word["type"] == "Conflicted" { "False" } else { "True" };
        let bad: Vec<_> = now.iter().filter(|(_, word)| word["status"] != good(word)).collect();
        ensure!(bad.is_empty(), "{bad:#?}");
        let gateway = site.cluster.request("GET", GATEWAY, None)?;
        ensure!(gateway["status"]["addresses"] == json!([{"type": "IPAddress", "value": new}]), "{gateway}");
        Ok(())
    })?;
    let shop = Request::get("shop.example.com", "/cart");
    for address in [old, new.parse()?] {
        site.until(&plain(address, 80), &shop, 200)?;
    }
    // Git goes on as ever, and Envoys' acknowledgement of it is what is said of it.
    let text = std::fs::read_to_string(case("envoy-gateway/gateways.yaml"))?;
    let more = "  - {name: http, port: 80, protocol: HTTP}\n";
    ensure!(text.contains(more), "another listener needs its place");
    let text = text.replace(more, &format!("{more}  - {{name: extra, port: 8080, protocol: HTTP}}\n"));
    repository.write("gateways.yaml", &text)?;
    repository.commit("Another listener")?;
    site.types("moorgate publish gateways/ --controller-name $CONTROLLER --key file:trial.key\nkubectl apply -f gateways/")?;
    let at = "gateways edge.listeners[extra].conditions[] Programmed";
    wait::until("the other listener", || {
        watch.check()?;
        let now = said(site)?;
        let word = now.get(at).with_context(|| format!("{at}: {now:#?}"))?;
        ensure!(word["status"] == "True" && word["observedGeneration"] == 2, "{word}");
        Ok(())
    })?;

    drop(watch);
    site.types(back)?;
    wait::until("Envoy Gateway's word again", || {
        let now = said(site)?;
        let word = |word: &Value| (word["status"].clone(), word["reason"].clone(), word["message"].clone());
        let other = |at: &String, theirs: &Value| now.get(at).is_none_or(|now| word(now) != word(theirs));
        let others: Vec<_> = before.iter().filter(|(at, theirs)| other(at, theirs)).collect();
        ensure!(others.is_empty(), "{others:#?}");
        let stays: Vec<_> =
            now.keys().filter(|at| !before.contains_key(*at) && !at.contains("[extra]")).collect();
        ensure!(stays.is_empty(), "{stays:?}");
        let gateway = site.cluster.request("GET", GATEWAY, None)?;
        ensure!(gateway["status"]["addresses"][0]["value"] == old.to_string(), "{gateway}");
        Ok(())
    })
}
