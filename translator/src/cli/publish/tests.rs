//! The release commands over a store on the local disk, as a script would call them.

mod errors;

use super::*;
use crate::cli::{floor, hold, keygen, log, pin, promote, retire, rollback, status, step, unpin, verify};
use crate::source::Revision;
use clap::Parser;
use moorgate_snapshot::{Digest, Reader, Record, Resource, Store, Trust, layout};
use std::sync::Arc;

#[derive(Debug, Parser)]
enum Command {
    Publish(Release),
    Promote(promote::PromoteArgs),
    Pin(pin::PinArgs),
    Unpin(unpin::UnpinArgs),
    Rollback(rollback::RollbackArgs),
    Step(step::StepArgs),
    Hold(hold::HoldArgs),
    Floor(floor::FloorArgs),
    Retire(retire::RetireArgs),
    Log(log::LogArgs),
    Verify(verify::VerifyArgs),
    Status(status::StatusArgs),
    Keygen(keygen::KeygenArgs),
}

struct Bench {
    dir: tempfile::TempDir,
}

fn shop() -> FleetName {
    FleetName::gateway("shop", "edge")
}

fn snapshot(n: u8) -> Snapshot {
    let cluster = Resource {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        name: "web".into(),
        part: "".into(),
        bytes: vec![n].into(),
        refs: Vec::new(),
    };
    Snapshot::build(vec![Record::Resource(cluster)]).unwrap()
}

fn offered(n: u8, routes: u64) -> Offered {
    let fleet = OfferedFleet {
        snapshot: snapshot(n),
        routes,
        documents: BTreeMap::new(),
        records: Records::default(),
        blocked: false,
        erring: false,
        planned: None,
        kept: Vec::new(),
        failure: None,
    };
    Offered {
        fleets: BTreeMap::from([(shop(), fleet)]),
        refused: Vec::new(),
        unreadable: false,
        complete: true,
        source: None,
        provenance: Provenance::default(),
        repositories: Vec::new(),
    }
}

impl Bench {
    async fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let key = bench.dir.path().join("ci.key").display().to_string();
        assert_eq!(bench.run(&["keygen", &key], None).await, Exit::Fine);
        bench
    }

    fn url(&self) -> String {
        format!("file://{}/store", self.dir.path().display())
    }

    /// Runs a command line; `publish` gets what is offered.
    async fn run(&self, line: &[&str], offered: Option<Offered>) -> Exit {
        let key = format!("file:{}", self.dir.path().join("ci.key").display());
        let trust = self.dir.path().join("ci.pub").display().to_string();
        let url = self.url();
        let mut words = vec!["moorgate"];
        words.extend_from_slice(line);
        if line[0] != "keygen" {
            words.extend_from_slice(&["--store", &url, "--trust", &trust]);
        }
        if !["keygen", "log", "verify", "status"].contains(&line[0]) {
            words.extend_from_slice(&["--key", &key]);
        }
        let result = match Command::try_parse_from(words).unwrap() {
            Command::Publish(args) => release(args, offered.unwrap()).await,
            Command::Promote(args) => promote::run(args).await,
            Command::Pin(args) => pin::run(args).await,
            Command::Unpin(args) => unpin::run(args).await,
            Command::Rollback(args) => rollback::run(args).await,
            Command::Step(args) => step::run(args).await,
            Command::Hold(args) => hold::run(args).await,
            Command::Floor(args) => floor::run(args).await,
            Command::Retire(args) => retire::run(args).await,
            Command::Log(args) => log::run(args).await,
            Command::Verify(args) => verify::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Keygen(args) => keygen::run(&args),
        };
        result.unwrap_or_else(|failure| failure.exit)
    }

    async fn publish(&self, n: u8) -> Exit {
        self.run(&["publish"], Some(offered(n, 10))).await
    }

    async fn serving(&self, channel: &str) -> Option<Digest> {
        let trust = std::fs::read(self.dir.path().join("ci.pub")).unwrap();
        let store = Store::open(&self.url()).unwrap().fleet(&shop());
        let reader = Reader::new(store, Arc::new(Trust::parse(&trust).unwrap()), channel.parse().unwrap());
        let entry = reader.newest(None).await.unwrap().entry?;
        entry.entry.state.serving().map(|release| release.snapshot)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("store").join(shop().prefix()).join(name)
    }
}

#[tokio::test]
async fn a_release_goes_out_back_and_forth() {
    let bench = Bench::new().await;
    for n in 1..=3 {
        assert_eq!(bench.publish(n).await, Exit::Fine);
    }
    assert_eq!(bench.serving("stable").await, Some(snapshot(3).id()));
    assert_eq!(
        bench.run(&["rollback", "shop/edge", "--reason", "drill", "--dry-run"], None).await,
        Exit::Fine
    );
    assert_eq!(bench.serving("stable").await, Some(snapshot(3).id()));
    assert_eq!(bench.run(&["rollback", "shop/edge"], None).await, Exit::Fine);
    assert_eq!(bench.serving("stable").await, Some(snapshot(2).id()));
    let one = snapshot(1).id().short();
    assert_eq!(
        bench.run(&["pin", "shop/edge", &one, "--reason", "r", "--pin-for", "2h"], None).await,
        Exit::Fine
    );
    assert_eq!(bench.serving("stable").await, Some(snapshot(1).id()));
    let three = snapshot(3).id().to_string();
    assert_eq!(bench.run(&["unpin", "shop/edge", "--to", &three, "-o", "json"], None).await, Exit::Fine);
    assert_eq!(bench.serving("stable").await, Some(snapshot(3).id()));
    assert_eq!(
        bench.run(&["promote", "shop/edge", "--from", "stable", "--to", "prod"], None).await,
        Exit::Fine
    );
    assert_eq!(bench.serving("prod").await, Some(snapshot(3).id()));
    for output in ["text", "json"] {
        assert_eq!(bench.run(&["log", "shop/edge", "-o", output], None).await, Exit::Fine);
        assert_eq!(bench.run(&["status", "-o", output], None).await, Exit::Fine);
        assert_eq!(bench.run(&["verify", "shop/edge", "-o", output], None).await, Exit::Fine);
        let id = format!("snapshot:{three}");
        assert_eq!(bench.run(&["verify", &id, "-o", output], None).await, Exit::Fine);
    }
}

#[tokio::test]
async fn exit_codes_say_who_said_no() {
    let bench = Bench::new().await;
    assert_eq!(bench.publish(1).await, Exit::Fine);
    assert_eq!(bench.run(&["publish"], Some(offered(2, 0))).await, Exit::Refused);
    assert_eq!(bench.run(&["publish", "--allow-shrink"], Some(offered(2, 0))).await, Exit::Fine);
    assert_eq!(bench.run(&["publish", "--parent", "1"], Some(offered(3, 9))).await, Exit::Refused);
    let mut blocked = offered(3, 9);
    blocked.fleets.values_mut().for_each(|fleet| fleet.blocked = true);
    assert_eq!(bench.run(&["publish"], Some(blocked)).await, Exit::No);
    let mut erring = offered(3, 9);
    erring.fleets.values_mut().for_each(|fleet| fleet.erring = true);
    assert_eq!(bench.run(&["publish", "--strict"], Some(erring)).await, Exit::No);
    assert_eq!(bench.run(&["pin", "shop/edge", "0123456789ab", "--reason", "r"], None).await, Exit::Refused);
    assert_eq!(bench.run(&["unpin", "shop/edge", "--to", "0123456789ab"], None).await, Exit::Refused);
    assert_eq!(bench.run(&["rollback", "shop/other"], None).await, Exit::Refused);
    assert_eq!(bench.run(&["verify", "snapshot:abc"], None).await, Exit::Usage);
    assert_eq!(bench.serving("stable").await, Some(snapshot(2).id()));
}

#[tokio::test]
async fn holds_floors_waves_and_ends_are_entries() {
    let bench = Bench::new().await;
    for n in 1..=2 {
        assert_eq!(bench.publish(n).await, Exit::Fine);
    }
    let serving = async || bench.serving("stable").await;
    let run = async |line: &[&str]| bench.run(line, None).await;
    assert_eq!(run(&["hold", "shop/edge", "--reason", "sale"]).await, Exit::Fine);
    assert_eq!(bench.publish(3).await, Exit::Fine);
    assert_eq!(run(&["step", "shop/edge"]).await, Exit::Refused);
    assert_eq!(serving().await, Some(snapshot(2).id()));
    assert_eq!(run(&["hold", "shop/edge", "--lift"]).await, Exit::Fine);
    assert_eq!(run(&["step", "shop/edge"]).await, Exit::Fine);
    assert_eq!(serving().await, Some(snapshot(3).id()));
    // Entries 1 to 6: two publishes, hold, publish, lift, step. What was published last entered with entry 4.
    assert_eq!(run(&["floor", "shop/edge", "4", "--reason", "grant revoked"]).await, Exit::Fine);
    assert_eq!(run(&["rollback", "shop/edge"]).await, Exit::Refused);
    let wave = ["publish", "--step", "relay=a,bake=10m", "--step", "percent=50"];
    assert_eq!(bench.run(&wave, Some(offered(4, 10))).await, Exit::Fine);
    assert_eq!(serving().await, Some(snapshot(3).id()));
    assert_eq!(run(&["step", "shop/edge"]).await, Exit::Refused);
    for output in ["text", "json"] {
        assert_eq!(run(&["status", "-o", output]).await, Exit::Fine);
    }
    for _ in 0..2 {
        assert_eq!(run(&["step", "shop/edge", "--force"]).await, Exit::Fine);
    }
    assert_eq!(serving().await, Some(snapshot(4).id()));
    assert_eq!(bench.run(&["publish", "--wave", "default"], Some(offered(5, 10))).await, Exit::Fine);
    assert_eq!(run(&["step", "shop/edge", "--halt", "--reason", "5xx", "-o", "json"]).await, Exit::Fine);
    assert_eq!(serving().await, Some(snapshot(4).id()));
    assert_eq!(bench.publish(5).await, Exit::Refused);
    assert_eq!(run(&["retire", "shop/edge"]).await, Exit::Refused);
    let four = snapshot(4).id().to_string();
    assert_eq!(run(&["unpin", "shop/edge", "--to", &four]).await, Exit::Fine);
    // Gone from the source: served on, until somebody says otherwise.
    let none = || Offered { fleets: BTreeMap::new(), ..offered(1, 10) };
    assert_eq!(bench.run(&["publish"], Some(none())).await, Exit::Fine);
    assert_eq!(serving().await, Some(snapshot(4).id()));
    assert_eq!(bench.run(&["publish", "--retire-vanished"], Some(none())).await, Exit::Fine);
    assert_eq!(serving().await, None);
    assert_eq!(bench.publish(4).await, Exit::Fine);
    assert_eq!(run(&["retire", "shop/edge"]).await, Exit::Fine);
    assert_eq!(serving().await, None);
}

#[tokio::test]
async fn verify_finds_damage() {
    let bench = Bench::new().await;
    assert_eq!(bench.publish(1).await, Exit::Fine);
    assert_eq!(bench.publish(2).await, Exit::Fine);
    let verify = async || bench.run(&["verify", "shop/edge"], None).await;
    assert_eq!(verify().await, Exit::Fine);
    let manifest = bench.file(&layout::manifest(&snapshot(2).id()));
    let good = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &good[1..]).unwrap();
    assert_eq!(verify().await, Exit::Integrity);
    std::fs::write(&manifest, &good).unwrap();
    assert_eq!(verify().await, Exit::Fine);
    // A stale head is worth a word, a forged one is broken; and so is an entry in the middle of the chain.
    let head = bench.file("head/stable");
    let good = std::fs::read(&head).unwrap();
    std::fs::remove_file(&head).unwrap();
    assert_eq!(verify().await, Exit::Fine);
    std::fs::write(&head, "{}").unwrap();
    assert_eq!(verify().await, Exit::Integrity);
    std::fs::write(&head, good).unwrap();
    std::fs::write(bench.file(&layout::entry(&Channel::stable(), 1)), "{}").unwrap();
    assert_eq!(verify().await, Exit::Integrity);
    std::fs::write(bench.file(&layout::entry(&Channel::stable(), 3)), "{}").unwrap();
    assert_eq!(verify().await, Exit::Integrity);
    assert_eq!(bench.run(&["log", "shop/edge"], None).await, Exit::Fine);
}

#[test]
fn a_commit_is_the_source_unless_files_differ_from_it() {
    let revision = |dirty| Revision {
        source: "gateways".into(),
        repository: Some("https://git.example/shop".into()),
        folder: "".into(),
        commit: "c0ffee".into(),
        tree: "beef".into(),
        author: "a".into(),
        time: 100,
        dirty,
        shallow: false,
    };
    let of = |revisions: &[Revision]| Sources { revisions: revisions.to_vec(), ..Sources::default() };
    let clean = release_source(&of(&[revision(false)])).unwrap();
    assert_eq!((clean.repository.as_str(), clean.revision.as_str()), ("https://git.example/shop", "c0ffee"));
    assert!(clean.committed.is_some());
    let dirty = release_source(&of(&[revision(false), revision(true)])).unwrap();
    assert_eq!((dirty.revision.as_str(), dirty.committed), ("", None));
    assert_eq!(release_source(&of(&[])), None);
}

/// Commits of one second: only the repository itself can say which is the later one.
#[tokio::test]
async fn a_repository_is_published_commit_by_commit() {
    let bench = Bench::new().await;
    let path = bench.dir.path().join("gateways");
    let repository = git2::Repository::init(&path).unwrap();
    let commit = |port: u16| {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: moorgate}}\nspec: \
             {{controllerName: moorgate.dev/gateway-controller}}\n---\napiVersion: gateway.networking.k8s.io/v1\n\
             kind: Gateway\nmetadata: {{name: edge, namespace: shop}}\nspec:\n  gatewayClassName: moorgate\n  \
             listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n"
        );
        std::fs::write(path.join("gateway.yaml"), text).unwrap();
        let mut index = repository.index().unwrap();
        index.add_path(std::path::Path::new("gateway.yaml")).unwrap();
        let tree = repository.find_tree(index.write_tree().unwrap()).unwrap();
        let author = git2::Signature::new("a", "a@example.com", &git2::Time::new(1, 0)).unwrap();
        let parent = repository.head().ok().and_then(|head| head.peel_to_commit().ok());
        let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
        repository.commit(Some("HEAD"), &author, &author, "m", &tree, &parents).unwrap().to_string()
    };
    let publish = async |revision: &str| {
        let key = format!("file:{}", bench.dir.path().join("ci.key").display());
        let trust = bench.dir.path().join("ci.pub").display().to_string();
        let (source, url) = (path.display().to_string(), bench.url());
        let words =
            ["publish", &source, "--rev", revision, "--store", &url, "--trust", &trust, "--key", &key];
        let args = Whole::try_parse_from(words).unwrap();
        super::run(args.publish).await.unwrap_or_else(|failure| failure.exit)
    };
    let one = commit(80);
    assert_eq!(publish(&one).await, Exit::Fine);
    let first = bench.serving("stable").await;
    let two = commit(8080);
    assert_eq!(publish(&two).await, Exit::Fine);
    let second = bench.serving("stable").await;
    assert_ne!(first, second);
    assert_eq!(publish(&one).await, Exit::Refused);
    assert_eq!(bench.serving("stable").await, second);
}

#[derive(Debug, Parser)]
struct Whole {
    #[command(flatten)]
    publish: PublishArgs,
}

#[test]
fn ancestry_is_looked_up_in_the_repository() {
    let dir = tempfile::tempdir().unwrap();
    let repository = git2::Repository::init(dir.path()).unwrap();
    let author = git2::Signature::new("a", "a@example.com", &git2::Time::new(1, 0)).unwrap();
    let tree = repository.treebuilder(None).unwrap().write().unwrap();
    let tree = repository.find_tree(tree).unwrap();
    let commit = |message: &str, parents: &[&git2::Commit<'_>]| {
        let id = repository.commit(None, &author, &author, message, &tree, parents).unwrap();
        repository.find_commit(id).unwrap()
    };
    let one = commit("one", &[]);
    let two = commit("two", &[&one]);
    let other = commit("other", &[]);
    let ask = |old: &git2::Commit<'_>, new: &git2::Commit<'_>| {
        descends_in(dir.path(), &old.id().to_string(), &new.id().to_string())
    };
    assert_eq!(ask(&one, &two), Some(true));
    assert_eq!(ask(&two, &one), Some(false));
    assert_eq!(ask(&one, &other), Some(false));
    assert_eq!(descends_in(dir.path(), &"0".repeat(40), &one.id().to_string()), None);
    assert_eq!(descends_in(std::path::Path::new("/"), "x", "y"), None);
}
