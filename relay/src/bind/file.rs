//! Files beside the relay, read with bounds and in a stable order.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The most that one file may hold: a Kubernetes object has at most about 1.5 MB, a dump of many objects more.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The most files that are read in one folder tree.
pub const MAX_FILES: usize = 100_000;

/// Reads a file, up to `limit` bytes; a longer one is an error.
///
/// # Errors
/// The file cannot be read, or is too long.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

/// All regular files below a folder, sorted. Names that start with a dot are passed over: mounted Secrets and
/// ConfigMaps keep their generations in `..data`, to which the plain names are links, and those are followed.
///
/// # Errors
/// The folder cannot be listed; what vanishes while it is listed is passed over.
pub fn walk(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    let mut folders = vec![(root.to_path_buf(), 0_u8)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") || out.len() >= MAX_FILES {
                continue;
            }
            let path = entry.path();
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() && depth < 8 => folders.push((path, depth + 1)),
                Ok(found) if found.is_file() => out.push(path),
                _ => {}
            }
        }
    }
    out.sort();
    Ok(out)
}
