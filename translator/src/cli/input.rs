//! What every command that compiles has in common: sources and how to read them.

use super::ownership::OwnershipSource;
use super::{Exit, Failure};
use crate::compile::{self, Compilation, compile};
use crate::report::{Excerpts, summary, text};
use crate::source::cluster::{self, Access};
use crate::source::{self, Limits, SourceError, SourceSpec, Sources, Token};
use crate::validate::Channel;
use clap::Args;
use moorgate_model::Diagnostics;
use moorgate_snapshot::FleetName;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Where to read, and what the text means.
#[derive(Debug, Clone, Args)]
pub(super) struct Input {
    /// Directories, files, `-` for stdin, or with --rev git repositories (paths or URLs)
    #[arg(value_name = "SOURCE", required_unless_present = "cluster", conflicts_with = "cluster")]
    pub sources: Vec<String>,
    #[command(flatten)]
    /// How to read them.
    pub reading: Reading,
}

/// How to read sources.
#[derive(Debug, Clone, Args)]
pub(super) struct Reading {
    /// Read git repositories at this commit, tag or branch, without a checkout
    #[arg(long, value_name = "REV", conflicts_with = "cluster")]
    pub rev: Option<String>,
    /// The folder within the git repository
    #[arg(long, value_name = "DIR", conflicts_with = "cluster")]
    pub path: Option<String>,
    /// The token for a remote repository
    #[arg(long, value_name = "TOKEN", env = "MOORGATE_GIT_TOKEN", hide_env_values = true)]
    pub git_token: Option<String>,
    /// The namespace of objects that name none
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Check against these CRDs of the Gateway API: standard for files, and experimental for a cluster, whose API server
    /// knows its own
    #[arg(long, value_enum)]
    pub crds: Option<Crds>,
    /// Compile GatewayClasses of this controller
    #[arg(long, value_name = "NAME", default_value = crate::attach::CONTROLLER_NAME)]
    pub controller_name: String,
    /// One fleet serves all Gateways of this GatewayClass, class/NAME; repeats
    #[arg(long = "merge-class", value_name = "NAME")]
    pub merged: Vec<String>,
    /// Apply EnvoyPatchPolicies, which change what Envoy gets behind the back of everything else
    #[arg(long)]
    pub envoy_patch_policy: bool,
    /// The source does not hold all objects of this kind: a missing one is no error
    #[arg(long, value_name = "KIND")]
    pub open: Vec<String>,
    /// The source holds all objects of this kind: a missing one is an error
    #[arg(long, value_name = "KIND")]
    pub closed: Vec<String>,
    /// Proxies may connect to this address, range, name or path of a socket though it lies in their own machine or network;
    /// repeats
    #[arg(long, value_name = "PLACE", value_parser = place)]
    pub allow_address: Vec<String>,
    /// Hold objects against the ownership file of a protected revision: git:REV, git:REV:PATH or file:PATH
    #[arg(long, value_name = "FILE", env = "MOORGATE_OWNERSHIP", conflicts_with = "cluster")]
    pub ownership: Option<OwnershipSource>,
    /// Treat warnings as errors
    #[arg(long)]
    pub deny_warnings: bool,
    #[command(flatten)]
    /// A live cluster instead.
    pub live: ClusterArgs,
}

/// An address, a range, a name or a path.
pub(super) fn place(text: &str) -> Result<String, String> {
    let wrong =
        || format!("{text:?} is no address, range, name (`*.name` for those below it) or path of a socket");
    crate::attach::is_place(text).then(|| text.to_owned()).ok_or_else(wrong)
}

/// A live cluster as a source.
#[derive(Debug, Clone, Args)]
pub(super) struct ClusterArgs {
    /// Read a live cluster instead of files: that of the kubeconfig, or the one that this pod runs in
    #[arg(long)]
    pub cluster: bool,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME", requires = "cluster")]
    pub context: Option<String>,
    /// The kubeconfig, if not that of the environment
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub kubeconfig: Option<PathBuf>,
}

impl ClusterArgs {
    /// A client of the cluster, and its URL.
    pub(super) async fn connect(&self) -> Result<(kube::Client, String), Failure> {
        let access = Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() };
        cluster::connect(&access).await.map_err(|error| Failure::new(Exit::Environment, error))
    }
}

/// Channels of the Gateway API's CRDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Crds {
    /// The standard channel.
    Standard,
    /// The experimental channel.
    Experimental,
}

impl Crds {
    /// As it is written on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Experimental => "experimental",
        }
    }
}

impl Reading {
    /// The options of the pure compile.
    pub(super) fn options(&self) -> compile::Options {
        let mut options = compile::Options::default();
        options.validate.channel = match self.crds() {
            Crds::Standard => Channel::Standard,
            Crds::Experimental => Channel::Experimental,
        };
        options.validate.namespace.clone_from(&self.namespace);
        options.attach.controller_name.clone_from(&self.controller_name);
        options.attach.merged.extend(self.merged.iter().cloned());
        options.attach.patches = self.envoy_patch_policy;
        options.attach.allowed.extend(self.allow_address.iter().map(|place| place.to_ascii_lowercase()));
        let open: BTreeSet<String> = self.open.iter().cloned().collect();
        if self.live.cluster {
            // What a live cluster lacks is missing.
            options.attach.open.clear();
        }
        options.attach.now = Some(time::OffsetDateTime::now_utc().unix_timestamp());
        options.attach.open.extend(open);
        options.attach.open.retain(|kind| !self.closed.contains(kind));
        options
    }

    /// The CRDs to check against.
    pub(super) fn crds(&self) -> Crds {
        self.crds.unwrap_or(if self.live.cluster { Crds::Experimental } else { Crds::Standard })
    }

    /// Reads sources and compiles them.
    ///
    /// # Errors
    /// The source could not be read.
    pub(super) async fn compile(&self, sources: &[String]) -> Result<Compiled, Failure> {
        if self.live.cluster {
            return self.compile_cluster().await;
        }
        let token = self.git_token.as_deref().map(Token::new);
        let parse = |text: &String| {
            SourceSpec::parse(text, self.rev.as_deref(), self.path.as_deref())
                .map(|spec| spec.with_token(token.clone()))
        };
        let specs: Vec<SourceSpec> = sources.iter().map(parse).collect::<Result<_, _>>().map_err(failure)?;
        let named = sources;
        let sources = source::read(&specs, &Limits::default()).await.map_err(failure)?;
        let mut options = self.options();
        if let Some(ownership) = &self.ownership {
            options.ownership = Some(ownership.read(named, token, sources.roots.clone()).await?);
        }
        let mut compilation = compile(&sources.files, &options);
        compilation.add(sources.diagnostics.clone());
        if self.deny_warnings {
            compilation.deny_warnings();
        }
        Ok(Compiled { sources, compilation, options })
    }

    async fn compile_cluster(&self) -> Result<Compiled, Failure> {
        let (client, url) = self.live.connect().await?;
        let read = cluster::read(&client, &url, &self.controller_name).await;
        let sources = read.map_err(|error| Failure::new(Exit::Environment, error))?;
        let options = self.options();
        let mut compilation = compile(&sources.files, &options);
        if self.deny_warnings {
            compilation.deny_warnings();
        }
        Ok(Compiled { sources, compilation, options })
    }
}

fn failure(error: SourceError) -> Failure {
    let exit = if matches!(error, SourceError::Usage(_)) { Exit::Usage } else { Exit::Environment };
    Failure::new(exit, error)
}

/// A compile with the texts it came from.
#[derive(Debug)]
pub(super) struct Compiled {
    /// The texts.
    pub sources: Sources,
    /// What came of them.
    pub compilation: Compilation,
    /// How they were compiled.
    pub options: compile::Options,
}

impl Compiled {
    /// All diagnostics with their lines, and a count; empty without any.
    pub(super) fn diagnostics_text(&self) -> String {
        let diagnostics = &self.compilation.diagnostics;
        if diagnostics.is_empty() {
            return String::new();
        }
        let excerpts = Excerpts::new(&self.sources.files, self.compilation.redacted.clone());
        format!("{}{}\n", text(diagnostics, &excerpts), summary(diagnostics))
    }

    /// All diagnostics with files as the repository names them: code scanning and annotations know no other names.
    pub(super) fn of_repository(&self) -> Diagnostics {
        let place = |file: &Arc<str>| self.sources.path_in_repository(file).map(Arc::from);
        let mut all = Diagnostics::default();
        all.extend(self.compilation.diagnostics.iter().cloned().map(|mut found| {
            found.file = found.file.map(|file| place(&file).unwrap_or(file));
            for related in &mut found.related {
                related.file = place(&related.file).unwrap_or_else(|| related.file.clone());
            }
            found
        }));
        all
    }

    /// Prints all diagnostics to stderr.
    pub(super) fn print_diagnostics(&self) {
        let _ = anstream::stderr().lock().write_all(self.diagnostics_text().as_bytes());
    }

    /// 1 if anything is an error, else 0.
    pub(super) fn exit(&self) -> Exit {
        if self.compilation.diagnostics.has_errors() { Exit::No } else { Exit::Fine }
    }
}

/// Which fleets to look at.
#[derive(Debug, Clone, Args)]
pub(super) struct Fleets {
    /// Only this fleet: namespace/gateway or class/NAME (repeatable)
    #[arg(long = "fleet", value_name = "FLEET")]
    pub fleets: Vec<FleetName>,
}

impl Fleets {
    /// True if a fleet was asked for, or none was named.
    pub(super) fn wants(&self, fleet: &FleetName) -> bool {
        self.fleets.is_empty() || self.fleets.contains(fleet)
    }

    /// The first fleet that was named but is not there.
    pub(super) fn missing<'f>(&'f self, compilation: &Compilation) -> Option<&'f FleetName> {
        self.fleets.iter().find(|fleet| !compilation.fleets.contains_key(fleet))
    }
}
