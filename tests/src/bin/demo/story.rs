//! The story itself.

use crate::configuration::{self, HOST, ROUTE_FILE};
use crate::teller::Teller;
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::load::Load;
use moorgate_tests::repository::Repository;
use moorgate_tests::stack::{CHANNEL, Stack};
use moorgate_tests::{ports, program};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Requests of the steady load that must be answered around each change.
const AROUND: u64 = 200;

/// Everything that stands on the stage.
struct Stage {
    teller: Teller,
    stack: Stack,
    repository: Repository,
    backends: Vec<Backend>,
    http: u16,
    https: u16,
    plain: Target,
    secure: Target,
}

/// Tells it from start to end.
pub(crate) fn tell(keep: bool) -> Result<()> {
    println!("Moorgate: from a git commit to an answered request.");
    let mut stage = set_stage()?;
    let first = stage.publish_first()?;
    stage.answer()?;
    stage.keys_stay_at_the_edge()?;
    let load = stage.start_load();
    stage.change()?;
    stage.watch_change(&load)?;
    stage.pin(&load, &first)?;
    stage.end_load(load)?;
    stage.lose_the_store()?;
    stage.teller.summary();
    if keep { stage.keep_running(&first) } else { stage.clean_up() }
}

fn set_stage() -> Result<Stage> {
    let mut teller = Teller::new();
    teller.step("A git repository of ordinary YAML, and what lies beside the relay");
    let (http, https) = (ports::free()?, ports::free()?);
    let stack = Stack::new("edge/public")?;
    let folder = stack.folder().display().to_string();
    let repository = Repository::create(&stack.folder().join("gateways"))?;
    configuration::write(&repository, http, https)?;
    let commit = repository.commit("Serve the shop and the blog")?;
    teller.say(&format!("Everything lies in {folder}, called $DEMO from here on."));
    teller.abbreviate(&folder, "$DEMO");
    teller.say(&format!("$DEMO/gateways, commit {}:", commit.get(..12).unwrap_or(&commit)));
    for file in repository.git(&["ls-files"])?.stdout.lines() {
        teller.say(&format!("  {file}"));
    }
    let mut backends = Vec::new();
    for (namespace, name) in [("shop", "cart"), ("shop", "checkout"), ("blog", "articles")] {
        let backend = Backend::start(name)?;
        stack.set_endpoints(namespace, name, &[backend.address()])?;
        backends.push(backend);
    }
    let certificate = Certificate::for_names(&[HOST])?;
    stack.set_secret("edge", "public-certificate", &certificate)?;
    teller.say("Beside the relay, never in git: the endpoints of three Services and the certificate's key.");
    let secure = Target::tls(https, HOST, &certificate.der)?;
    Ok(Stage { teller, stack, repository, backends, http, https, plain: Target::plain(http), secure })
}

impl Stage {
    fn source(&self) -> &Path {
        self.repository.path()
    }

    /// Check, publish, start the relay and Envoy; the snapshot's id.
    fn publish_first(&mut self) -> Result<String> {
        self.teller.step("Check the commit, compile it, publish it to a local store");
        let mut check = self.stack.command("check")?;
        self.teller.run(check.arg(self.source()).args(["--rev", "main"]), &[0])?;
        let first = self.publish()?;
        self.teller.step("Start a relay and a real Envoy on a Unix socket");
        self.stack.start_relay()?;
        self.stack.start_envoy(&[self.http, self.https])?;
        let version = program::run(Command::new(&self.stack.program).arg("--version"))?.stdout;
        self.teller.say(version.trim());
        let socket = self.stack.socket().display().to_string();
        self.teller.say(&format!("Envoy takes its configuration from {socket}."));
        self.teller
            .shown("a commit became a signed snapshot that Envoy runs; nothing in between needs a cluster");
        Ok(first)
    }

    fn publish(&self) -> Result<String> {
        let mut publish = self.stack.signed("publish")?;
        self.teller.run(publish.arg(self.source()).args(["--rev", "main"]), &[0])?;
        let mut compile = self.stack.command("compile")?;
        let printed = program::run(compile.arg(self.source()).args(["--rev", "main", "-o", "json"]))?;
        let value = printed.ended_with(&[0])?.json()?;
        let id = value["fleets"][0]["snapshot"].as_str().context("compile names a snapshot")?;
        Ok(id.to_owned())
    }

    fn answer(&mut self) -> Result<()> {
        self.teller.step("Real requests");
        for (scheme, target) in [("http", &self.plain), ("https", &self.secure)] {
            for (path, backend) in [("/cart/items", "cart"), ("/blog/1", "articles")] {
                let request = Request::get(HOST, path);
                let answer = send_until(target, &request, "an answer", |answer| answer.who() == backend)?;
                self.teller.say(&format!("{scheme}://{HOST}{path}: {} from {}", answer.status, answer.who()));
            }
        }
        let nobody = send(&self.plain, &Request::get(HOST, "/elsewhere"))?;
        ensure!(nobody.status == 404, "a path that nobody routes answers {}", nobody.status);
        self.teller.say(&format!("http://{HOST}/elsewhere: 404, since nobody routes it"));
        let mut explain = self.stack.command("explain")?;
        let url = format!("http://{HOST}:{}/cart/items", self.http);
        self.teller.run(explain.arg(self.source()).args(["GET", &url, "--rev", "main"]), &[0])?;
        self.teller.shown("two teams in two namespaces are answered on HTTP and on HTTPS");
        Ok(())
    }

    fn keys_stay_at_the_edge(&mut self) -> Result<()> {
        self.teller.step("Where private keys are");
        let key = std::fs::read(self.stack.folder().join("secrets/edge/public-certificate/tls.key"))?;
        // A stretch of the key itself, without the PEM armour that any file may mention.
        let body: Vec<u8> = key.split(|byte| *byte == b'\n').nth(1).context("a PEM body")?.to_vec();
        for folder in ["gateways", "store", "cache"] {
            let found = holds(&self.stack.folder().join(folder), &body)?;
            ensure!(!found, "the certificate's key is in {folder}");
        }
        self.teller.shown("the certificate's key is in neither git, nor the store, nor the relay's cache");
        Ok(())
    }

    fn start_load(&mut self) -> Load {
        self.teller.step("A steady load on HTTPS, which goes on through all that follows");
        let request = Request::get(HOST, "/cart/items");
        Load::start(&self.secure, &request, 2, Duration::from_millis(2))
    }

    fn change(&mut self) -> Result<()> {
        self.teller.step("Change a route in a new commit: /cart goes to checkout");
        configuration::write_route(&self.repository, "checkout")?;
        let commit = self.repository.commit("Let checkout answer for the cart")?;
        self.teller.say(&format!("{ROUTE_FILE}, commit {}", commit.get(..12).unwrap_or(&commit)));
        self.teller.say("What that changes for Envoy, before anything is published:");
        let mut diff = self.stack.command("diff")?;
        diff.args(["git:main~1", "git:main", "--repo"]).arg(self.source());
        self.teller.run(&mut diff, &[1])?;
        Ok(())
    }

    fn watch_change(&mut self, load: &Load) -> Result<()> {
        self.teller.step("Publish it");
        load.wait_for("cart", AROUND)?;
        self.publish()?;
        load.wait_for("checkout", AROUND)?;
        load.report().nothing_lost()?;
        self.teller.shown("the answer changed under load, and no request was lost");
        Ok(())
    }

    fn pin(&mut self, load: &Load, first: &str) -> Result<()> {
        self.teller.step("Go back: pin the first snapshot");
        let mut pin = self.stack.signed("pin")?;
        pin.args(["edge/public", first, "--reason", "checkout is not ready", "--author", "Ada Operator"]);
        self.teller.run(&mut pin, &[0])?;
        load.wait_for("cart", AROUND)?;
        load.report().nothing_lost()?;
        let mut log = self.stack.command("log")?;
        self.teller.run(log.args(["edge/public", "--channel", CHANNEL]), &[0])?;
        self.teller.shown("a pin brought the old answer back without a recompile, and no request was lost");
        Ok(())
    }

    fn end_load(&mut self, load: Load) -> Result<()> {
        let report = load.stop();
        report.nothing_lost()?;
        self.teller.shown(&format!("{} requests in all, {} lost", report.sent, report.lost.len()));
        Ok(())
    }

    fn lose_the_store(&mut self) -> Result<()> {
        self.teller.step("Take the store away, kill relay and Envoy, start them again");
        std::fs::rename(self.stack.store(), self.hidden_store())?;
        self.stack.kill_all();
        self.stack.start_relay()?;
        self.stack.start_envoy(&[self.http, self.https])?;
        for target in [&self.plain, &self.secure] {
            let request = Request::get(HOST, "/cart/items");
            send_until(target, &request, "an answer without a store", |answer| answer.who() == "cart")?;
        }
        self.teller
            .shown("without a store, relay and Envoy start from the relay's disk and answer as before");
        Ok(())
    }

    fn hidden_store(&self) -> std::path::PathBuf {
        self.stack.folder().join("store-taken-away")
    }

    fn clean_up(self) -> Result<()> {
        let folder = self.stack.folder().to_owned();
        drop(self);
        ensure!(!folder.exists(), "{} is left behind", folder.display());
        println!("\nEverything is stopped and removed. `make demo KEEP=1` leaves it running.");
        Ok(())
    }

    /// Waits for Ctrl-C with everything running.
    fn keep_running(self, first: &str) -> Result<()> {
        std::fs::rename(self.hidden_store(), self.stack.store())?;
        let demo = self.stack.folder().display();
        let bin = program::binary("moorgate")?;
        println!("\nIt goes on running; the store is back. In another terminal:\n");
        println!("  export PATH={}:$PATH DEMO={demo}", bin.parent().unwrap_or(Path::new(".")).display());
        println!("  export MOORGATE_STORE={} MOORGATE_TRUST=$DEMO/keys/publish.pub", self.stack.store_url());
        println!("  export MOORGATE_KEY=file:$DEMO/keys/publish.key\n");
        println!("  curl -i http://{HOST}:{0}/cart --resolve {HOST}:{0}:127.0.0.1", self.http);
        println!("  curl -ik https://{HOST}:{0}/blog --resolve {HOST}:{0}:127.0.0.1", self.https);
        println!("  moorgate log edge/public --channel {CHANNEL}");
        println!("  moorgate status edge/public");
        println!("  moorgate verify edge/public");
        println!("  moorgate explain $DEMO/gateways GET http://{HOST}:{}/cart --rev main", self.http);
        println!("  $EDITOR $DEMO/gateways/{ROUTE_FILE}; git -C $DEMO/gateways commit -am 'Try something'");
        println!("  moorgate diff git:main~1 git:main --repo $DEMO/gateways");
        println!("  moorgate unpin edge/public --to {first} --channel {CHANNEL}");
        println!("  moorgate publish $DEMO/gateways --rev main --channel {CHANNEL}");
        println!("\nCtrl-C stops it and removes $DEMO. {} backends are waiting.", self.backends.len());
        loop {
            std::thread::park();
        }
    }
}

/// True if any file below a folder holds these bytes.
fn holds(folder: &Path, bytes: &[u8]) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let found = if entry.file_type()?.is_dir() {
            holds(&entry.path(), bytes)?
        } else {
            std::fs::read(entry.path())?.windows(bytes.len()).any(|window| window == bytes)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
