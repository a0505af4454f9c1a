//! What becomes a container: a process that is in its pod's network already makes itself a root folder, and becomes the
//! program.
//!
//! The root is a memory file system with the machine's libraries (read-only), the programs of the image and the volumes
//! of the pod, and nothing else.

use super::names::relative;
use anyhow::{Context as _, Result, bail};
use rustix::fs::{FileType, fchown, fstat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount,
};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A path that is seen at another place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// Where it is.
    pub source: PathBuf,
    /// Where the container sees it.
    pub target: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
}

/// A container to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// An empty folder.
    pub root: PathBuf,
    /// Programs and volumes.
    pub binds: Vec<Bind>,
    /// Its own files, by their place, such as `/etc/hosts`.
    pub files: BTreeMap<String, String>,
    /// Whether its root is read-only.
    pub read_only: bool,
    /// Whether it is in a network of its own, in which anybody may open any port.
    pub own_network: bool,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Where it starts.
    pub folder: String,
    /// Who it runs as.
    pub user: u32,
    /// Its first group.
    pub group: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
}

/// What all programs share with the machine.
const LIBRARIES: [&str; 7] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/etc/ssl",
    "/usr/share/ca-certificates",
];

fn make_folder(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .with_context(|| path.display().to_string())
}

/// Makes sure that something like the source is at the target, so that it can be covered.
fn make_target(source: &Path, target: &Path) -> Result<()> {
    if source.is_dir() {
        return make_folder(target);
    }
    make_folder(target.parent().context("a file lies in a folder")?)?;
    if !target.exists() {
        std::fs::write(target, "").with_context(|| target.display().to_string())?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    make_target(source, target)?;
    let named = || format!("{} on {}", source.display(), target.display());
    mount_bind_recursive(source, target).with_context(named)?;
    if read_only {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(target, flags, "").with_context(named)?;
    }
    Ok(())
}

fn lay_root(spec: &Spec) -> Result<()> {
    let root = &spec.root;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("keeping mounts private")?;
    mount("tmpfs", root, "tmpfs", MountFlags::empty(), c"mode=755").context("a root folder")?;
    for library in LIBRARIES.map(Path::new) {
        let target = root.join(relative(&library.to_string_lossy()));
        if library.is_symlink() {
            make_folder(target.parent().context("a parent")?)?;
            symlink(std::fs::read_link(library)?, target)?;
        } else if library.is_dir() {
            bind(library, &target, true)?;
        }
    }
    for (source, read_only) in [("/proc", false), ("/sys", true), ("/dev", false)] {
        bind(Path::new(source), &root.join(relative(source)), read_only)?;
    }
    // Programs meet there by name, and those of other pods are not meant.
    let shared = root.join("dev/shm");
    make_folder(&shared)?;
    mount("tmpfs", &shared, "tmpfs", MountFlags::empty(), c"mode=1777").context("/dev/shm")?;
    for (folder, mode) in
        [("tmp", 0o1777), ("run", 0o755), ("var/tmp", 0o1777), ("etc", 0o755), ("root", 0o700)]
    {
        let folder = root.join(folder);
        make_folder(&folder)?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode))?;
    }
    symlink("../run", root.join("var/run"))?;
    for (path, text) in &spec.files {
        let path = root.join(relative(path));
        make_folder(path.parent().context("a parent")?)?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    // Outer folders before what lies in them.
    let mut binds: Vec<&Bind> = spec.binds.iter().collect();
    binds.sort_by_key(|bind| Path::new(&bind.target).components().count());
    for Bind { source, target, read_only } in binds {
        bind(source, &root.join(relative(target)), *read_only)?;
    }
    if spec.read_only {
        mount_remount(root, MountFlags::BIND | MountFlags::RDONLY, "").context("a read-only root")?;
    }
    Ok(())
}

/// Gives the container's user its own output, as runtimes do: some programs open `/dev/stdout` by themselves.
fn own_output(user: Uid) -> Result<()> {
    let (out, err) = (std::io::stdout(), std::io::stderr());
    for stream in [out.as_fd(), err.as_fd()] {
        if FileType::from_raw_mode(fstat(stream)?.st_mode) == FileType::Fifo {
            fchown(stream, Some(user), None).context("its output")?;
        }
    }
    Ok(())
}

/// Becomes the container's program; returns only if that fails.
pub fn become_it(spec: &Path) -> Result<()> {
    let spec: Spec = serde_json::from_slice(&std::fs::read(spec)?)?;
    if spec.own_network {
        // As containerd 2 has it.
        std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").context("opening low ports")?;
    }
    lay_root(&spec)?;
    std::os::unix::fs::chroot(&spec.root).context("changing the root")?;
    std::env::set_current_dir(&spec.folder).with_context(|| spec.folder.clone())?;
    own_output(Uid::from_raw(spec.user))?;
    let groups: Vec<Gid> = spec.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    set_thread_groups(&groups).context("setting groups")?;
    set_thread_gid(Gid::from_raw(spec.group)).context("setting the group")?;
    set_thread_uid(Uid::from_raw(spec.user)).context("setting the user")?;
    let (program, arguments) = spec.command.split_first().context("a container without a command")?;
    let error = Command::new(program).args(arguments).env_clear().envs(&spec.environment).exec();
    bail!("starting {program}: {error}")
}
