//! The volumes of a pod, as folders of the node.

use super::payload::{Payload, Source, Tokens};
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, Volume};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

/// The volumes of one pod.
pub(super) struct Volumes {
    folder: PathBuf,
    /// The group that all files are to belong to.
    group: Option<u32>,
    /// Where each is.
    places: BTreeMap<String, PathBuf>,
    shown: BTreeMap<String, Payload>,
    mounted: BTreeSet<PathBuf>,
    tokens: Tokens,
    turns: u64,
}

fn allow(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| path.display().to_string())
}

impl Volumes {
    /// None yet.
    pub(super) fn new(folder: PathBuf, pod: &Pod) -> Self {
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let group = context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok());
        let (places, shown, mounted) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { folder, group, places, shown, mounted, tokens: Tokens::default(), turns: 0 }
    }

    /// Where each volume is.
    pub(super) fn places(&self) -> BTreeMap<String, PathBuf> {
        self.places.clone()
    }

    /// Lays what is not there yet, and brings up to date what shows objects.
    pub(super) async fn lay(&mut self, source: &Source<'_>) -> Result<()> {
        let volumes = source.pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
        for volume in &volumes {
            let payload = source.payload(volume, &mut self.tokens).await;
            match payload.with_context(|| format!("volume {:?}", volume.name))? {
                Some(payload) => self.show(&volume.name, payload)?,
                None if self.places.contains_key(&volume.name) => {}
                None => {
                    let place = self.make(volume).with_context(|| format!("volume {:?}", volume.name))?;
                    self.places.insert(volume.name.clone(), place);
                }
            }
        }
        Ok(())
    }

    fn make(&mut self, volume: &Volume) -> Result<PathBuf> {
        if let Some(source) = &volume.host_path {
            return host_path(source);
        }
        let empty = volume.empty_dir.as_ref().context("a volume of a kind that is not supported")?;
        let folder = self.folder.join(&volume.name);
        std::fs::create_dir_all(&folder)?;
        if empty.medium.as_deref() == Some("Memory") {
            let size =
                empty.size_limit.as_ref().map_or_else(|| "64m".to_owned(), |size| size.0.replace("Mi", "m"));
            let options =
                CString::new(format!("mode=1777,size={}", size.replace("Gi", "g").replace("Ki", "k")))?;
            mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), options.as_c_str())?;
            self.mounted.insert(folder.clone());
        }
        if let Some(group) = self.group {
            chown(&folder, None, Some(group))?;
        }
        // Whoever creates in it creates for the group.
        allow(&folder, if self.group.is_some() { 0o2777 } else { 0o777 })?;
        Ok(folder)
    }

    /// Shows these files, all at once: readers see the old ones or the new ones, by one link that is exchanged.
    ///
    /// `volume/{name → ..data/name}`, `..data → ..<turn>`, `..<turn>/name`.
    fn show(&mut self, name: &str, payload: Payload) -> Result<()> {
        let folder = self.folder.join(name);
        if self.shown.get(name) == Some(&payload) {
            return Ok(());
        }
        std::fs::create_dir_all(&folder)?;
        allow(&folder, 0o755)?;
        self.turns += 1;
        let turn = format!("..turn_{}", self.turns);
        for (path, piece) in &payload {
            let clean =
                Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
            ensure!(clean && !path.starts_with(".."), "{path:?} is no path in a volume");
            let file = folder.join(&turn).join(path);
            std::fs::create_dir_all(file.parent().context("a parent")?)?;
            std::fs::write(&file, &piece.bytes)?;
            match self.group {
                Some(group) => {
                    chown(&file, None, Some(group))?;
                    allow(&file, piece.mode | 0o440)?;
                }
                None => allow(&file, piece.mode)?,
            }
        }
        std::fs::create_dir_all(folder.join(&turn))?;
        allow(&folder.join(&turn), 0o755)?;
        let before = std::fs::read_link(folder.join("..data")).ok();
        symlink(&turn, folder.join("..data_new"))?;
        std::fs::rename(folder.join("..data_new"), folder.join("..data"))?;
        let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
        let wanted: BTreeSet<String> = payload.keys().map(first).collect();
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("..") && !wanted.contains(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        for name in wanted {
            let link = folder.join(&name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(&name), link)?;
            }
        }
        if let Some(before) = before {
            let _ = std::fs::remove_dir_all(folder.join(before));
        }
        self.places.insert(name.to_owned(), folder);
        self.shown.insert(name.to_owned(), payload);
        Ok(())
    }

    /// Removes all of them but those of the host.
    pub(super) fn remove(&mut self) {
        for folder in &self.mounted {
            let _ = unmount(folder, UnmountFlags::DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf> {
    let path = PathBuf::from(&source.path);
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" if !path.exists() => {
            std::fs::create_dir_all(&path)?;
            allow(&path, 0o755)?;
        }
        "FileOrCreate" if !path.exists() => std::fs::write(&path, "")?,
        "Directory" if !path.is_dir() => bail!("{} is no folder", path.display()),
        "File" if !path.is_file() => bail!("{} is no file", path.display()),
        _ => ensure!(path.exists(), "{} does not exist", path.display()),
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::super::payload::Piece;
    use super::*;

    #[test]
    fn files_are_exchanged_at_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut volumes = Volumes::new(folder.path().to_owned(), &Pod::default());
        let files = |names: &[(&str, &str)]| -> Payload {
            let piece = |text: &str| Piece { bytes: text.as_bytes().to_vec(), mode: 0o400 };
            names.iter().map(|(name, text)| ((*name).to_owned(), piece(text))).collect()
        };
        let read = |path: &str| std::fs::read_to_string(folder.path().join("v").join(path)).ok();
        volumes.show("v", files(&[("a", "1"), ("deep/b", "1")]))?;
        assert_eq!((read("a"), read("deep/b")), (Some("1".to_owned()), Some("1".to_owned())));
        let before = std::fs::canonicalize(folder.path().join("v/a"))?;
        volumes.show("v", files(&[("a", "2"), ("c", "2")]))?;
        assert_eq!(
            (read("a"), read("c"), read("deep/b")),
            (Some("2".to_owned()), Some("2".to_owned()), None)
        );
        assert!(!before.exists() && !folder.path().join("v/deep").is_symlink());
        assert!(volumes.show("v", files(&[("../out", "3")])).is_err());
        volumes.remove();
        assert!(!folder.path().exists());
        Ok(())
    }
}
