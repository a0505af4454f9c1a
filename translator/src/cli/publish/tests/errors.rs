//! Whose mistake: publishing from real repositories with one team's errors, in each mode.

use super::{Bench, Whole};
use crate::cli::Exit;
use crate::xds;
use clap::Parser;
use moorgate_snapshot::{FleetName, Reader, Store, Trust};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const INFRA: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: moorgate}\n\
    spec: {controllerName: moorgate.dev/gateway-controller}\n---\n\
    apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: infra}\nspec:\n  \
    gatewayClassName: moorgate\n  listeners:\n  - {name: http, port: 80, protocol: HTTP, allowedRoutes: \
    {namespaces: {from: All}}}\n---\n\
    apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: inner, namespace: infra}\nspec:\n  \
    gatewayClassName: moorgate\n  listeners:\n  - {name: http, port: 80, protocol: HTTP, allowedRoutes: \
    {namespaces: {from: All}}}\n";

/// A team's route with this path on this Gateway.
fn team(namespace: &str, gateway: &str, path: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{name: {gateway}, namespace: infra}}]\n  hostnames: [{namespace}.example.com]\n  rules:\n  \
         - matches: [{{path: {{value: {path}}}}}]\n    backendRefs: [{{name: web, port: 80}}]\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {namespace}}}\n\
         spec: {{ports: [{{name: http, port: 80}}]}}\n"
    )
}

struct Repository {
    bench: Bench,
    path: PathBuf,
    git: git2::Repository,
}

impl Repository {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let path = bench.dir.path().join("gateways");
        let git = git2::Repository::init(&path).unwrap();
        let repository = Self { bench, path, git };
        repository.write("infra.yaml", INFRA);
        repository.write("blog.yaml", &team("blog", "inner", "/blog"));
        repository
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path.join(name), text).unwrap();
    }

    fn commit(&self) -> String {
        let mut index = self.git.index().unwrap();
        index.add_all(["*"], git2::IndexAddOption::FORCE, None).unwrap();
        index.update_all(["*"], None).unwrap();
        let tree = self.git.find_tree(index.write_tree().unwrap()).unwrap();
        let author = git2::Signature::new("a", "a@example.com", &git2::Time::new(1, 0)).unwrap();
        let parent = self.git.head().ok().and_then(|head| head.peel_to_commit().ok());
        let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
        self.git.commit(Some("HEAD"), &author, &author, "m", &tree, &parents).unwrap().to_string()
    }

    async fn publish_from(&self, path: &Path, revision: &str, more: &[&str]) -> Exit {
        let key = format!("file:{}", self.bench.dir.path().join("ci.key").display());
        let trust = self.bench.dir.path().join("ci.pub").display().to_string();
        let (source, url) = (path.display().to_string(), self.bench.url());
        let mut words =
            vec!["publish", &source, "--rev", revision, "--store", &url, "--trust", &trust, "--key", &key];
        words.extend_from_slice(more);
        let args = Whole::try_parse_from(words).unwrap();
        crate::cli::publish::run(args.publish).await.unwrap_or_else(|failure| failure.exit)
    }

    /// Commits what was written, and publishes it.
    async fn publish(&self, more: &[&str]) -> (String, Exit) {
        let commit = self.commit();
        let exit = self.publish_from(&self.path, &commit, more).await;
        (commit, exit)
    }

    async fn last_good(&self) -> (String, Exit) {
        self.publish(&["--on-error", "last-good"]).await
    }

    fn reader(&self, gateway: &str) -> Reader {
        let trust = std::fs::read(self.bench.dir.path().join("ci.pub")).unwrap();
        let store = Store::open(&self.bench.url()).unwrap().fleet(&FleetName::gateway("infra", gateway));
        Reader::new(store, Arc::new(Trust::parse(&trust).unwrap()), "stable".parse().unwrap())
    }

    /// What a fleet serves, as text, and the record of what was kept.
    async fn served(&self, gateway: &str) -> (String, Value) {
        let reader = self.reader(gateway);
        let Some(entry) = reader.newest(None).await.unwrap().entry else {
            return (String::new(), Value::Null);
        };
        let release = entry.entry.state.serving().unwrap().clone();
        let snapshot = reader.fetch(&release, &|_| None).await.unwrap();
        let attestation = reader.attestation(&release).await.unwrap().unwrap();
        let kept = match (attestation.inline.get("kept"), attestation.documents.get("kept")) {
            (Some(inline), _) => inline.clone(),
            (None, Some(document)) => {
                serde_json::from_slice(&reader.document(document).await.unwrap()).unwrap()
            }
            (None, None) => Value::Null,
        };
        (xds::envoy_json(snapshot.records()).unwrap().to_string(), kept)
    }

    async fn serves(&self, gateway: &str, path: &str) -> bool {
        self.served(gateway).await.0.contains(&format!("\"{path}\""))
    }
}

/// A typo of one team: its fleet is kept back, or the team's route stays as it was; the others go out in any mode.
#[tokio::test]
async fn one_teams_typo_is_one_teams_problem() {
    let repository = Repository::new().await;
    repository.write("shop.yaml", &team("shop", "edge", "/shop-1"));
    repository.write("news.yaml", &team("news", "edge", "/news-1"));
    let (first, exit) = repository.publish(&[]).await;
    assert_eq!(exit, Exit::Fine);

    let typo = |path: &str| team("shop", "edge", path).replace("parentRefs", "parentRef");
    repository.write("shop.yaml", &typo("/shop-2"));
    repository.write("news.yaml", &team("news", "edge", "/news-2"));
    repository.write("blog.yaml", &team("blog", "inner", "/blog-2"));
    // The route does not say any more which Gateway it is of, so by default all wait.
    let (_, exit) = repository.publish(&[]).await;
    assert_eq!(exit, Exit::No);
    assert!(!repository.serves("inner", "/blog-2").await);
    // A schema error elsewhere in the route costs the fleets that it names.
    repository.write(
        "shop.yaml",
        &team("shop", "edge", "/shop-2").replace("port: 80}]\n---", "port: eighty}]\n---"),
    );
    let (_, exit) = repository.publish(&[]).await;
    assert_eq!(exit, Exit::No);
    assert!(repository.serves("inner", "/blog-2").await && repository.serves("edge", "/news-1").await);

    let (second, exit) = repository.last_good().await;
    assert_eq!(exit, Exit::Fine);
    assert!(repository.serves("edge", "/shop-1").await && repository.serves("edge", "/news-2").await);
    let (_, kept) = repository.served("edge").await;
    let object = &kept["objects"][0];
    assert_eq!(
        (&object["object"]["kind"], &object["object"]["namespace"]),
        (&"HTTPRoute".into(), &"shop".into())
    );
    assert_eq!(object["commits"][0], first.as_str());
    assert_ne!(first, second);

    // Still broken, in another way: what is kept comes from where it was good, not from the release before.
    repository.write("shop.yaml", &typo("/shop-3"));
    repository.write("news.yaml", &team("news", "edge", "/news-3"));
    let (_, exit) = repository.last_good().await;
    assert_eq!(exit, Exit::Fine);
    assert!(repository.serves("edge", "/shop-1").await && repository.serves("edge", "/news-3").await);
    let (_, kept) = repository.served("edge").await;
    assert_eq!(kept["objects"][0]["commits"][0], first.as_str());

    // A file that nobody can read: its namespace stays as it was.
    repository.write("shop.yaml", "spec: [");
    repository.write("news.yaml", &team("news", "edge", "/news-4"));
    let (_, exit) = repository.last_good().await;
    assert_eq!(exit, Exit::Fine);
    assert!(repository.serves("edge", "/shop-1").await && repository.serves("edge", "/news-4").await);

    // A broken reference: 500 by default, as before with last-good.
    repository
        .write("shop.yaml", &team("shop", "edge", "/shop-5").replace("name: web, port", "name: gone, port"));
    let (_, exit) = repository.last_good().await;
    assert_eq!(exit, Exit::Fine);
    assert!(repository.serves("edge", "/shop-1").await && !repository.serves("edge", "/shop-5").await);
    repository.write("news.yaml", &team("news", "edge", "/news-5"));
    assert_eq!(repository.publish(&["--strict"]).await.1, Exit::No);
    assert!(!repository.serves("edge", "/news-5").await);
    assert_eq!(repository.publish(&[]).await.1, Exit::Fine);
    assert!(repository.serves("edge", "/shop-5").await && repository.serves("edge", "/news-5").await);

    // Mended, nothing is kept; deleted, it is gone, for that is no error.
    repository.write("shop.yaml", &team("shop", "edge", "/shop-6"));
    assert_eq!(repository.last_good().await.1, Exit::Fine);
    let (text, kept) = repository.served("edge").await;
    assert!(text.contains("/shop-6") && kept == Value::Null);
    std::fs::remove_file(repository.path.join("shop.yaml")).unwrap();
    repository.write("news.yaml", &team("news", "edge", "/news-6").replace("parentRefs", "parentRef"));
    assert_eq!(repository.last_good().await.1, Exit::Fine);
    assert!(!repository.serves("edge", "/shop-6").await && repository.serves("edge", "/news-5").await);
}

#[derive(Debug, Parser)]
struct WholePlan {
    #[command(flatten)]
    plan: crate::cli::plan::PlanArgs,
}

#[derive(Debug, Parser)]
struct WholeVerify {
    #[command(flatten)]
    verify: crate::cli::verify::VerifyArgs,
}

impl Repository {
    fn args(&self, command: &str, more: &[&str]) -> Vec<String> {
        let trust = self.bench.dir.path().join("ci.pub").display().to_string();
        let url = self.bench.url();
        let whole = [&[command][..], more, &["--store", &url, "--trust", &trust]].concat();
        whole.into_iter().map(str::to_owned).collect()
    }

    async fn plan(&self, more: &[&str]) -> Exit {
        let args = WholePlan::try_parse_from(self.args("plan", more)).unwrap();
        crate::cli::plan::run(args.plan).await.unwrap_or_else(|failure| failure.exit)
    }

    async fn verify(&self, more: &[&str]) -> Exit {
        let args = WholeVerify::try_parse_from(self.args("verify", more)).unwrap();
        crate::cli::verify::run(args.verify).await.unwrap_or_else(|failure| failure.exit)
    }
}

/// A plan in the mode last-good is what publishing in it gives, and what was kept is rebuilt from where it was taken.
#[tokio::test]
async fn what_is_kept_is_planned_and_rebuilt() {
    let repository = Repository::new().await;
    repository.write("shop.yaml", &team("shop", "edge", "/shop-1"));
    repository.write("news.yaml", &team("news", "edge", "/news-1"));
    let (first, exit) = repository.publish(&[]).await;
    assert_eq!(exit, Exit::Fine);
    let bad = team("shop", "edge", "/shop-2").replace("port: 80}]\n---", "port: eighty}]\n---");
    repository.write("shop.yaml", &bad);
    repository.write("news.yaml", &team("news", "edge", "/news-2"));
    let second = repository.commit();
    let source = repository.path.display().to_string();
    let file = repository.bench.dir.path().join("edge.plan").display().to_string();
    let plan = [source.as_str(), "--rev", &second, "--out", &file];
    assert_eq!(repository.plan(&plan).await, Exit::No);
    assert_eq!(repository.plan(&[&plan[..], &["--on-error", "last-good"]].concat()).await, Exit::Fine);
    let key = format!("file:{}", repository.bench.dir.path().join("ci.key").display());
    let publish = repository.args("publish", &[&file, "--key", &key]);
    let published = crate::cli::publish::run(Whole::try_parse_from(publish).unwrap().publish).await;
    assert_eq!(published.unwrap_or_else(|failure| failure.exit), Exit::Fine);
    assert!(repository.serves("edge", "/shop-1").await && repository.serves("edge", "/news-2").await);
    let (_, kept) = repository.served("edge").await;
    assert_eq!(kept["objects"][0]["commits"][0], first.as_str());

    let rebuild = async |target: &str, revision: &str| {
        repository.verify(&[target, "--rebuild", "--rev", revision, &source]).await
    };
    assert_eq!(rebuild("infra/edge", &second).await, Exit::Fine);
    let reader = repository.reader("edge");
    let served = reader.newest(None).await.unwrap().entry.unwrap().entry.state.target.unwrap().snapshot;
    assert_eq!(rebuild(&format!("snapshot:{served}"), &second).await, Exit::Fine);
    // The fleet that did not change is still of the commit before; and another commit is another commit.
    assert_eq!(rebuild("infra/inner", &first).await, Exit::Fine);
    assert_eq!(rebuild("infra/edge", &first).await, Exit::Integrity);
    // Without the history it cannot be told, which is no damage.
    let (folder, rest) = first.split_at(2);
    std::fs::remove_file(repository.path.join(".git/objects").join(folder).join(rest)).unwrap();
    assert_eq!(rebuild("infra/edge", &second).await, Exit::Environment);
}

/// With errors in one fleet `--strict` publishes the others.
#[tokio::test]
async fn strict_keeps_back_the_fleets_that_errors_concern() {
    let repository = Repository::new().await;
    repository
        .write("shop.yaml", &team("shop", "edge", "/shop").replace("name: web, port", "name: gone, port"));
    let (_, exit) = repository.publish(&["--strict"]).await;
    assert_eq!(exit, Exit::No);
    assert_eq!(repository.served("edge").await.0, "");
    assert!(repository.serves("inner", "/blog").await);
}

/// Without the history nothing can be kept, and then nothing is dropped in silence.
#[tokio::test]
async fn without_the_parents_source_a_fleet_with_errors_is_refused() {
    let repository = Repository::new().await;
    repository.write("shop.yaml", &team("shop", "edge", "/shop-1"));
    assert_eq!(repository.publish(&[]).await.1, Exit::Fine);
    let elsewhere = repository.bench.dir.path().join("elsewhere");
    let other =
        Repository { git: git2::Repository::init(&elsewhere).unwrap(), path: elsewhere, ..repository };
    other.write("infra.yaml", INFRA);
    other.write("blog.yaml", &team("blog", "inner", "/blog-2"));
    other.write("shop.yaml", &team("shop", "edge", "/shop-2").replace("name: web, port", "name: gone, port"));
    let (_, exit) = other.publish(&["--on-error", "last-good", "--allow-unrelated"]).await;
    assert_eq!(exit, Exit::Refused);
    assert!(other.serves("edge", "/shop-1").await, "the fleet waits");
    assert!(other.serves("inner", "/blog-2").await, "the error does not concern this one");
    // Nor from files that are in no commit.
    let first = Repository::new().await;
    first.commit();
    first.write("shop.yaml", &team("shop", "edge", "/shop-1"));
    let dirty = first.path.display().to_string();
    let key = format!("file:{}", first.bench.dir.path().join("ci.key").display());
    let trust = first.bench.dir.path().join("ci.pub").display().to_string();
    let url = first.bench.url();
    let words = ["publish", &dirty, "--allow-dirty", "--store", &url, "--trust", &trust, "--key", &key];
    let published = crate::cli::publish::run(Whole::try_parse_from(words).unwrap().publish).await;
    assert_eq!(published.unwrap_or_else(|failure| failure.exit), Exit::Fine);
    first.write("shop.yaml", &team("shop", "edge", "/shop-2").replace("name: web, port", "name: gone, port"));
    let (_, exit) = first.publish(&["--on-error", "last-good", "--allow-unrelated"]).await;
    assert_eq!(exit, Exit::Refused);
    assert!(first.serves("edge", "/shop-1").await);
}

/// A table over a limit fails by itself; the exit code and the log say so.
#[tokio::test]
async fn a_fleet_over_a_limit_fails_alone() {
    let repository = Repository::new().await;
    let value = "v".repeat(4000);
    let mut text = String::new();
    for n in 0..26 {
        let matches: Vec<String> =
            (0..64).map(|m| format!("{{headers: [{{name: x-{m}, value: {n}-{value}}}]}}")).collect();
        text += &team("shop", "edge", "/shop")
            .replace(
                "name: web, namespace: shop}\nspec:\n  parentRefs",
                &format!("name: web-{n}, namespace: shop}}\nspec:\n  parentRefs"),
            )
            .replace("matches: [{path: {value: /shop}}]", &format!("matches: [{}]", matches.join(", ")))
            .replace(
                "name: web, namespace: shop}\nspec: {ports",
                &format!("name: s-{n}, namespace: shop}}\nspec: {{ports"),
            );
        text += "---\n";
    }
    repository.write("shop.yaml", &text);
    let (_, exit) = repository.publish(&[]).await;
    assert_eq!(exit, Exit::No);
    assert_eq!(repository.served("edge").await.0, "");
    assert!(repository.serves("inner", "/blog").await);
}
