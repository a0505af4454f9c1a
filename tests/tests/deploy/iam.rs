//! `deploy/iam`: what the real programs ask of a bucket is allowed to each, what they must never do is not, and nothing is
//! allowed that nobody asks for.

use super::text;
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::http::{Request, Target, send};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::process::Running;
use moorgate_tests::program::{Outcome, binary, moorgate, run};
use moorgate_tests::storage::moto::{self, Moto};
use moorgate_tests::storage::proxy::{Behaviour, Exchange, Proxy};
use moorgate_tests::{ports, wait};
use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const BUCKET: &str = "example-moorgate";
const ROLES: [&str; 3] = ["publish", "relay", "gc"];

/// What a request does to an object, or to names that begin with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Read,
    List,
    /// Writes what was not there.
    Create,
    /// Writes what was there.
    Replace,
    Delete,
}

type Op = (Act, String);

/// Programs on one machine, and the bucket behind a proxy that writes down what is asked.
struct Bench {
    proxy: Proxy,
    moto: Moto,
    folder: tempfile::TempDir,
    there: BTreeSet<String>,
}

impl Bench {
    fn new() -> Result<Self> {
        let moto = Moto::start()?;
        moto.bucket(BUCKET)?;
        let proxy = Proxy::start(moto.port())?;
        let folder = tempfile::Builder::new().prefix("moorgate-").tempdir()?;
        let bench = Self { proxy, moto, folder, there: BTreeSet::new() };
        for key in ["root", "ci", "report"] {
            bench
                .moorgate(bench.moto.port(), &["keygen", &bench.path(&format!("{key}.key"))])?
                .ended_with(&[0])?;
        }
        let trust = bench.path("trust.json");
        let (root, key) = (bench.path("root.pub"), format!("file:{}", bench.path("root.key")));
        let setup: [&[&str]; 5] = [
            &["trust", "init", &trust, "--root", &root, "--threshold", "1"],
            &["trust", "add", &trust, &bench.path("ci.pub"), "--role", "publish", "--name", "ci"],
            &["trust", "add", &trust, &bench.path("report.pub"), "--role", "report", "--name", "report"],
            &["trust", "sign", &trust, "--key", &key],
            &["trust", "publish", &trust],
        ];
        // Keepers of root keys have rights of their own.
        for words in setup {
            bench.moorgate(bench.moto.port(), words)?.ended_with(&[0])?;
        }
        Ok(bench)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn moorgate(&self, port: u16, words: &[&str]) -> Result<Outcome> {
        let mut command = moorgate()?;
        command
            .args(words)
            .envs(moto::variables(port))
            .env("MOORGATE_STORE", format!("s3://{BUCKET}/production"));
        if self.folder.path().join("trust.json").exists() {
            command.env("MOORGATE_TRUST", self.path("trust.json"));
        }
        run(&mut command)
    }

    fn publish(&self, turn: usize) -> Result<()> {
        let mut all = vec![manifest::gateway_class(), manifest::service("shop", "web")];
        for name in ["edge", "other"] {
            all.push(manifest::gateway("shop", name, &[Listener::http("http", 8080)]));
            let rules = manifest::rule(&format!("/{turn}"), "web");
            all.push(manifest::http_route(
                "shop",
                name,
                &format!("shop/{name}"),
                &["shop.example.com"],
                &rules,
            ));
        }
        std::fs::write(self.path("source.yaml"), manifest::documents(&all))?;
        let key = format!("file:{}", self.path("ci.key"));
        self.moorgate(self.proxy.port(), &["publish", &self.path("source.yaml"), "--key", &key])?
            .ended_with(&[0])?;
        Ok(())
    }

    fn relay(&self) -> Result<(Running, u16)> {
        let health = ports::free()?;
        let mut command = Command::new(binary("moorgate-relay")?);
        command.envs(moto::variables(self.proxy.port())).args([
            "--fleet",
            "shop/edge",
            "--poll-interval",
            "1s",
        ]);
        command.args(["--store", &format!("s3://{BUCKET}/production"), "--trust", &self.path("trust.json")]);
        command.args([
            "--cache",
            &self.path("cache"),
            "--listen",
            &format!("unix:{}", self.path("relay.sock")),
        ]);
        command.args(["--health", &format!("127.0.0.1:{health}"), "--name", "relay-1"]);
        command.args(["--report-key", &format!("file:{}", self.path("report.key"))]);
        Ok((Running::start("relay", &mut command, self.folder.path())?, health))
    }

    /// What was asked since the last call.
    fn take(&mut self) -> Result<BTreeSet<Op>> {
        let exchanges = self.proxy.take();
        let mut ops = BTreeSet::new();
        for exchange in &exchanges {
            // The keys stand in the body: what is not there any more was deleted.
            if exchange.method == "POST" && exchange.path.ends_with("?delete") {
                let left = self.names()?;
                let gone: Vec<String> = self.there.difference(&left).cloned().collect();
                self.there.retain(|key| left.contains(key));
                ops.extend(gone.into_iter().map(|key| (Act::Delete, key)));
                continue;
            }
            ops.extend(ops_of(exchange, &mut self.there).with_context(|| format!("{exchange:?}"))?);
        }
        Ok(ops)
    }

    /// All names in the bucket.
    fn names(&self) -> Result<BTreeSet<String>> {
        let request = Request::get("moto", &format!("/{BUCKET}?list-type=2"));
        let answer = send(&Target::plain(self.moto.port()), &request)?;
        let text = String::from_utf8(answer.body.to_vec())?;
        ensure!(text.contains("<IsTruncated>false</IsTruncated>"), "{text}");
        let keys = Regex::new("<Key>([^<]*)</Key>")?;
        Ok(keys.captures_iter(&text).map(|key| key[1].to_owned()).collect())
    }
}

fn decoded(text: &str) -> String {
    percent(text).unwrap_or_else(|| text.to_owned())
}

fn percent(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

fn ops_of(exchange: &Exchange, there: &mut BTreeSet<String>) -> Result<Option<Op>> {
    let (path, query) = exchange.path.split_once('?').unwrap_or((&exchange.path, ""));
    let key = path.trim_start_matches('/').strip_prefix(BUCKET).context("another bucket")?;
    let key = decoded(key.trim_start_matches('/'));
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).map(decoded);
    Ok(Some(match (exchange.method.as_str(), key.is_empty()) {
        ("GET", true) => (Act::List, prefix.context("a list of all")?),
        ("GET" | "HEAD", false) => (Act::Read, key),
        ("PUT", false) if exchange.status == 200 && !there.insert(key.clone()) => (Act::Replace, key),
        // Refused with 412, or new.
        ("PUT", false) => (Act::Create, key),
        ("DELETE", false) => {
            there.remove(&key);
            (Act::Delete, key)
        }
        (method, _) => anyhow::bail!("what is {method} of {key:?}?"),
    }))
}

/// What each of the three asked for.
fn asked() -> Result<BTreeMap<&'static str, BTreeSet<Op>>> {
    let mut bench = Bench::new()?;
    let mut asked = BTreeMap::new();
    for turn in 0..5 {
        bench.publish(turn)?;
    }
    let waited = ["wait", "shop/edge", "--timeout", "1s"];
    bench.moorgate(bench.proxy.port(), &waited)?.ended_with(&[7])?;
    asked.insert("publish", bench.take()?);
    // S3 says "denied" of what is missing to those who may not list.
    bench.proxy.behave(Behaviour::HideMissing);
    let (mut relay, health) = bench.relay()?;
    let mut ops = BTreeSet::new();
    let mut published = false;
    wait::until("the relay to serve and to report twice", || {
        relay.check()?;
        let ready = send(&Target::plain(health), &Request::get("relay", "/readyz"))?;
        ensure!(ready.status == 200, "{}", String::from_utf8_lossy(&ready.body));
        ops.extend(bench.take()?);
        if !published {
            // As CI would, past the proxy: this is no request of the relay.
            let key = format!("file:{}", bench.path("ci.key"));
            let act = ["rollback", "shop/edge", "--reason", "a test", "--key", &key];
            bench.moorgate(bench.moto.port(), &act)?.ended_with(&[0])?;
            published = true;
        }
        ensure!(ops.iter().any(|(act, _)| *act == Act::Replace), "{ops:?}");
        Ok(())
    })?;
    relay.kill();
    bench.take()?;
    asked.insert("relay", ops);
    bench.proxy.behave(Behaviour::Pass);
    let mut ops = BTreeSet::new();
    let gc = ["gc", "--apply", "--keep-for", "0s", "--keep-last", "1", "--grace", "0s", "--delay", "0s"];
    wait::until("gc to delete", || {
        bench.moorgate(bench.proxy.port(), &gc)?.ended_with(&[0])?;
        ops.extend(bench.take()?);
        ensure!(ops.iter().any(|(act, key)| *act == Act::Delete && key.contains("/manifests/")), "{ops:?}");
        Ok(())
    })?;
    asked.insert("gc", ops);
    Ok(asked)
}

/// Whether a text fits a pattern with `*`.
fn like(pattern: &str, text: &str) -> bool {
    let pattern = regex::escape(pattern).replace("\\*", ".*");
    Regex::new(&format!("^{pattern}$")).unwrap().is_match(text)
}

fn words(value: &Value) -> Vec<&str> {
    value.as_str().map_or_else(
        || value.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
        |word| vec![word],
    )
}

/// Whether an act on an object is allowed.
type Allows = Box<dyn Fn(Act, &str) -> bool>;

/// One thing that a policy grants.
struct Grant {
    name: String,
    allows: Allows,
}

/// Policies of IAM. Both ways to write need the same right.
fn aws(role: &str) -> Result<Vec<Grant>> {
    let policy: Value = serde_json::from_str(&text(&format!("deploy/iam/aws/{role}.json"))?)?;
    assert_eq!(policy["Version"], "2012-10-17");
    let statements = policy["Statement"].as_array().context("statements")?.clone();
    let grant = |statement: Value| {
        assert_eq!(statement["Effect"], "Allow");
        Grant {
            name: statement["Sid"].to_string(),
            allows: Box::new(move |act, key| {
                let (action, resource) = match act {
                    Act::Read => ("s3:GetObject", format!("arn:aws:s3:::{BUCKET}/{key}")),
                    Act::Create | Act::Replace => ("s3:PutObject", format!("arn:aws:s3:::{BUCKET}/{key}")),
                    Act::Delete => ("s3:DeleteObject", format!("arn:aws:s3:::{BUCKET}/{key}")),
                    Act::List => ("s3:ListBucket", format!("arn:aws:s3:::{BUCKET}")),
                };
                let under = statement["Condition"]["StringLike"]["s3:prefix"].as_str();
                words(&statement["Action"]).contains(&action)
                    && words(&statement["Resource"]).iter().any(|pattern| like(pattern, &resource))
                    && under.is_none_or(|pattern| like(pattern, key))
            }),
        }
    };
    Ok(statements.into_iter().map(grant).collect())
}

/// `extract` of Google's conditions: what stands at `{…}` of a template, wherever its beginning is found.
#[allow(clippy::needless_pass_by_value, reason = "the interpreter hands over what is its own")]
fn extract(
    cel::extractors::This(this): cel::extractors::This<std::sync::Arc<String>>,
    template: std::sync::Arc<String>,
) -> String {
    let (before, rest) = template.split_once('{').unwrap_or((&template, ""));
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    let Some((_, found)) = this.split_once(before) else { return String::new() };
    if after.is_empty() {
        found.to_owned()
    } else {
        found.split_once(after).map_or_else(String::new, |(value, _)| value.to_owned())
    }
}

fn holds(expression: &str, name: &str, kind: &str) -> bool {
    let program = cel::Program::compile(expression).unwrap();
    let mut context = cel::Context::default();
    context.add_function("extract", extract).unwrap();
    context.add_variable("resource", serde_json::json!({ "name": name, "type": kind })).unwrap();
    match program.execute(&context) {
        Ok(cel::Value::Bool(answer)) => answer,
        other => panic!("{expression}: {other:?}"),
    }
}

/// Roles and conditional bindings of Google Cloud. Who writes again what is there needs two permissions.
fn gcp(role: &str) -> Result<Vec<Grant>> {
    let policy: Value = serde_json::from_str(&text(&format!("deploy/iam/gcp/{role}.json"))?)?;
    let mut grants = Vec::new();
    for binding in policy["bindings"].as_array().context("bindings")? {
        let name =
            binding["role"].as_str().context("a role")?.rsplit('/').next().unwrap_or_default().to_owned();
        let roles = policy["roles"].as_array().context("roles")?;
        let role = roles.iter().find(|role| role["roleId"] == name.as_str()).context(name.clone())?;
        let permissions: Vec<String> =
            words(&role["includedPermissions"]).into_iter().map(str::to_owned).collect();
        let expression = binding["condition"]["expression"].as_str().context("a condition")?.to_owned();
        let allows = move |act, key: &str| {
            let needed: &[&str] = match act {
                Act::Read => &["storage.objects.get"],
                Act::List => &["storage.objects.list"],
                Act::Create => &["storage.objects.create"],
                Act::Replace => &["storage.objects.create", "storage.objects.delete"],
                Act::Delete => &["storage.objects.delete"],
            };
            let bucket = format!("projects/_/buckets/{BUCKET}");
            let (name, kind) = match act {
                Act::List => (bucket, "storage.googleapis.com/Bucket"),
                _ => (format!("{bucket}/objects/{key}"), "storage.googleapis.com/Object"),
            };
            needed.iter().all(|one| permissions.iter().any(|own| own == one))
                && holds(&expression, &name, kind)
        };
        grants.push(Grant { name, allows: Box::new(allows) });
    }
    Ok(grants)
}

/// Roles of Azure with the condition of their assignment.
fn azure(role: &str) -> Result<Vec<Grant>> {
    let policy: Value = serde_json::from_str(&text(&format!("deploy/iam/azure/{role}.json"))?)?;
    let blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs";
    let pattern = Regex::new(r"@(Resource|Request)\[[^\]]*:(path|prefix)\] StringLike '([^']*)'")?;
    let mut grants = Vec::new();
    for one in policy.as_array().context("roles")? {
        assert_eq!(one["conditionVersion"], "2.0");
        ensure!(one["role"]["Actions"].as_array().is_some_and(Vec::is_empty), "{one}");
        let actions: Vec<String> =
            words(&one["role"]["DataActions"]).into_iter().map(str::to_owned).collect();
        let condition = one["condition"].as_str().context("a condition")?.to_owned();
        let patterns: Vec<String> =
            pattern.captures_iter(&condition).map(|found| found[3].to_owned()).collect();
        ensure!(!patterns.is_empty(), "{condition}");
        let lists = condition.contains("AND SubOperationMatches{'Blob.List'}");
        let allows = move |act, key: &str| {
            let end = match act {
                Act::Read | Act::List => "/read",
                Act::Create => "/add/action",
                Act::Replace => "/write",
                Act::Delete => "/delete",
            };
            let own = |end: &str| actions.iter().any(|action| *action == format!("{blobs}{end}"));
            let may = own(end) || (act == Act::Create && own("/write"));
            may && lists == (act == Act::List) && patterns.iter().any(|pattern| like(pattern, key))
        };
        grants.push(Grant { name: one["role"]["Name"].to_string(), allows: Box::new(allows) });
    }
    Ok(grants)
}

type Cloud = fn(&str) -> Result<Vec<Grant>>;
const CLOUDS: [(&str, Cloud); 3] = [("aws", aws), ("gcp", gcp), ("azure", azure)];

#[test]
fn each_identity_may_do_what_its_program_asks_for_and_nothing_else() -> Result<()> {
    let asked = asked()?;
    for (cloud, policy) in CLOUDS {
        for role in ROLES {
            let grants = policy(role)?;
            let mut used = BTreeSet::new();
            for (act, key) in &asked[role] {
                let by =
                    grants.iter().filter(|grant| (grant.allows)(*act, key)).map(|grant| grant.name.clone());
                let by: Vec<String> = by.collect();
                // A probe clears up after itself if it may.
                let probe = *act == Act::Delete && key.contains("/_probe/");
                ensure!(!by.is_empty() || probe, "{cloud} {role}: {act:?} {key} is not allowed");
                used.extend(by);
            }
            for grant in grants {
                ensure!(
                    used.contains(&grant.name),
                    "{cloud} {role}: nothing asks for {}: {:?}",
                    grant.name,
                    asked[role]
                );
            }
        }
    }
    Ok(())
}

/// What would let one identity do another's work, or one fleet see another's.
#[test]
fn no_identity_may_do_what_it_must_not() -> Result<()> {
    let own = "production/fleets/gateway/shop/edge";
    let page = format!("{own}/pages/sha256/ab/abcd");
    let entry = format!("{own}/log/stable/00000000000000000001");
    let head = format!("{own}/head/stable");
    let report = format!("{own}/status/relay-1.json");
    let att = format!("{own}/att/abcd/abcd");
    let trust = "production/trust/00000000000000000001".to_owned();
    let elsewhere = "staging/fleets/gateway/shop/edge/head/stable".to_owned();
    let other = "production/fleets/gateway/shop/edge-2/head/stable".to_owned();
    let class = "production/fleets/class/shop/edge/head/stable".to_owned();
    let (writes, all) =
        ([Act::Create, Act::Replace, Act::Delete], [Act::Read, Act::Create, Act::Replace, Act::Delete]);
    for (cloud, policy) in CLOUDS {
        let may = |role: &str, act: Act, key: &str| -> Result<bool> {
            Ok(policy(role)?.iter().any(|grant| (grant.allows)(act, key)))
        };
        let mut never: Vec<(&str, Act, &String)> = Vec::new();
        for key in [&page, &entry, &head, &att, &trust] {
            never.extend(writes.map(|act| ("relay", act, key)));
        }
        for key in [&other, &class, &elsewhere] {
            never.extend(all.map(|act| ("relay", act, key)));
        }
        never.extend([&page, &entry, &att, &trust].map(|key| ("publish", Act::Delete, key)));
        never.extend(writes.map(|act| ("publish", act, &trust)));
        never.extend(all.map(|act| ("publish", act, &elsewhere)));
        for key in [&page, &entry, &head, &report, &att, &trust] {
            never.extend([Act::Create, Act::Replace].map(|act| ("gc", act, key)));
        }
        never.extend([&entry, &head, &report, &att, &trust].map(|key| ("gc", Act::Delete, key)));
        never.extend(all.map(|act| ("gc", act, &elsewhere)));
        for (role, act, key) in never {
            ensure!(!may(role, act, key)?, "{cloud} {role}: {act:?} {key} is allowed");
        }
        ensure!(!may("relay", Act::List, own)?, "{cloud}: relays need no lists");
        // Where a cloud tells both ways to write apart, releases are written once.
        if cloud != "aws" {
            ensure!(
                !may("publish", Act::Replace, &entry)? && !may("publish", Act::Replace, &page)?,
                "{cloud}"
            );
        }
    }
    Ok(())
}
