//! Folders and files of this machine. Links are never followed, and nothing but regular files is opened.

use super::gather::Gather;
use super::names::{is_configuration, is_hidden};
use super::{Revision, SourceError, git};
use moorgate_model::diagnostic::syntax::{
    CHANGED_WHILE_READ, NAME_UNUSABLE, SPECIAL_FILE, SUBMODULE, SYMLINK,
};
use std::fs::{self, DirEntry, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Reads a folder or file, and finds out which commit it belongs to. What the user named may be a link; what lies in
/// it may not.
pub(super) fn read(path: &Path, label: &str, gather: &mut Gather) -> Result<Option<Revision>, SourceError> {
    let found = fs::metadata(path).map_err(|source| failed(path, source))?;
    let first = gather.count();
    if found.is_dir() {
        walk(path, gather)?;
        return Ok(git::revision_of(path, None, label, gather, first));
    }
    let name = file_name(path);
    let relative = gather.alone(&name);
    if found.is_file() {
        let real = fs::canonicalize(path).map_err(|source| failed(path, source))?;
        if gather.admit_alone(relative, found.len()) {
            read_into(&real, relative, gather)?;
        }
        let folder = real.parent().unwrap_or(Path::new("/")).to_path_buf();
        return Ok(git::revision_of(&folder, Some(&file_name(&real)), label, gather, first));
    }
    if is_pipe(found.file_type()) {
        // A pipe that was named, as by `<(helm template …)`, is read like stdin.
        let most = gather.limits().file_bytes.saturating_add(1);
        let mut bytes = Vec::new();
        let pipe = fs::File::open(path).and_then(|pipe| pipe.take(most).read_to_end(&mut bytes));
        pipe.map_err(|source| failed(path, source))?;
        gather.take(relative, bytes);
        return Ok(None);
    }
    Err(SourceError::NotAFile(path.to_path_buf()))
}

fn failed(path: &Path, source: io::Error) -> SourceError {
    SourceError::Io { path: path.to_path_buf(), source }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "-".to_string(), |name| name.to_string_lossy().into_owned())
}

/// A folder that is still to be read: its path, its name within the source, and how deep it is.
struct Folder {
    path: PathBuf,
    relative: String,
    depth: usize,
}

fn walk(root: &Path, gather: &mut Gather) -> Result<(), SourceError> {
    let mut folders = vec![Folder { path: root.to_path_buf(), relative: String::new(), depth: 0 }];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder.path).map_err(|source| failed(&folder.path, source))?;
        let mut sorted = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| failed(&folder.path, source))?;
            if !gather.entry() {
                return Ok(());
            }
            sorted.push(entry);
        }
        // The order of a file system is its own; ours must not depend on it.
        sorted.sort_by_key(DirEntry::file_name);
        for entry in sorted {
            folders.extend(visit(&entry, &folder, gather)?);
        }
    }
    Ok(())
}

/// Reads a file; gives a folder back to be read later.
fn visit(entry: &DirEntry, folder: &Folder, gather: &mut Gather) -> Result<Option<Folder>, SourceError> {
    let path = entry.path();
    let name = entry.file_name();
    let kind = entry.file_type().map_err(|source| failed(&path, source))?;
    let shown = name.to_string_lossy();
    if is_hidden(&shown) {
        return Ok(None);
    }
    let relative =
        if folder.relative.is_empty() { shown.to_string() } else { format!("{}/{shown}", folder.relative) };
    let ours = is_configuration(&shown);
    if kind.is_symlink() {
        // A link to a file with another extension would not be read anyway.
        if ours || fs::metadata(&path).is_ok_and(|target| target.is_dir()) {
            gather.say(&SYMLINK, &relative, "a symbolic link: not followed");
        }
        return Ok(None);
    }
    if name.to_str().is_none() && (ours || kind.is_dir()) {
        gather.say(&NAME_UNUSABLE, &relative, "the name is not UTF-8");
        return Ok(None);
    }
    if kind.is_dir() && fs::symlink_metadata(path.join(".git")).is_ok() {
        gather.say(&SUBMODULE, &relative, "the folder is a git repository of its own: not entered");
        return Ok(None);
    }
    if kind.is_dir() {
        let depth = folder.depth + 1;
        return Ok(gather.may_enter(&relative, depth).then_some(Folder { path, relative, depth }));
    }
    if !kind.is_file() {
        gather.say(&SPECIAL_FILE, &relative, format!("{} is no regular file: not opened", special(kind)));
        return Ok(None);
    }
    if ours {
        let found = entry.metadata().map_err(|source| failed(&path, source))?;
        if gather.admit(&relative, found.len()) {
            read_into(&path, &relative, gather)?;
        }
    }
    Ok(None)
}

fn read_into(path: &Path, relative: &str, gather: &mut Gather) -> Result<(), SourceError> {
    match read_stable(path, gather.limits().file_bytes, || ()) {
        Ok(Some(bytes)) => gather.add(relative, bytes),
        Ok(None) => gather.say(&CHANGED_WHILE_READ, relative, "the file changed while it was being read"),
        Err(source) => return Err(failed(path, source)),
    }
    Ok(())
}

/// The bytes of a regular file; nothing if it is not the same file, with the same content, afterwards. `between` runs
/// when all is read, for tests.
pub(super) fn read_stable(path: &Path, most: u64, between: impl FnOnce()) -> io::Result<Option<Vec<u8>>> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Whatever took the file's place since it was listed: a link is not followed, a pipe does not block.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_link(path) => return Ok(None),
        Err(error) => return Err(error),
    };
    let before = file.metadata()?;
    if !before.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    (&file).take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    between();
    let same = u64::try_from(bytes.len()).is_ok_and(|read| read == before.len())
        && unchanged(&before, &file.metadata()?)
        && fs::symlink_metadata(path).is_ok_and(|now| unchanged(&before, &now));
    Ok(same.then_some(bytes))
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

#[cfg(unix)]
fn unchanged(before: &Metadata, after: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let key =
        |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    key(before) == key(after)
}

#[cfg(not(unix))]
fn unchanged(before: &Metadata, after: &Metadata) -> bool {
    before.len() == after.len() && before.modified().ok() == after.modified().ok()
}

#[cfg(unix)]
fn is_pipe(kind: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    kind.is_fifo()
}

#[cfg(not(unix))]
fn is_pipe(_: FileType) -> bool {
    false
}

#[cfg(unix)]
fn special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn special(_: FileType) -> &'static str {
    "this"
}
