//! Files that are either the old or the new ones, whole, whatever happens in between.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What to do with a file of that name that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Replace it.
    Replace,
    /// Leave it and fail with [`io::ErrorKind::AlreadyExists`].
    Keep,
}

/// A file could not be written; whatever stood there before stands there still.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}; nothing was changed")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What the system answered.
    #[source]
    pub source: io::Error,
}

/// Writes `contents` to `path` (mode 0600) by way of a temporary file beside it, which is flushed
/// to the disk before it takes the name.
///
/// # Errors
/// The folder is not there or not writable, the disk is full, or the file exists and is to be kept.
pub fn write_atomically(
    path: &Path,
    contents: &[u8],
    existing: Existing,
) -> Result<(), WriteError> {
    write(path, contents, existing).map_err(|source| WriteError { path: path.to_owned(), source })
}

fn write(path: &Path, contents: &[u8], existing: Existing) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let temporary = folder.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    let put = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        drop(file);
        rename(&temporary, path, existing)
    };
    if let Err(error) = put() {
        // The error that matters is the first one; a leftover is overwritten by the next attempt.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn rename(from: &Path, to: &Path, existing: Existing) -> io::Result<()> {
    if existing == Existing::Replace {
        return std::fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without the flag: the daemon is the only writer of its folders.
        Err(Errno::INVAL | Errno::NOSYS) if !to.try_exists()? => std::fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        other => Ok(other?),
    }
}
