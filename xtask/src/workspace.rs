//! The folders the task runner works in, and the lock that keeps two runs apart.
//!
//! Everything made lies under `target/lab`, `target/test` and `target/package`; nothing outside the
//! clone is written except by the system's own package tool.

use crate::failure::{Context, Result};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The root of the clone.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the xtask crate lies one folder below the workspace root")
        .to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Makes and names a folder below `target`.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    let path = target().join(name);
    std::fs::create_dir_all(&path).context(|| format!("make the folder {}", path.display()))?;
    Ok(path)
}

/// Held while a run changes the shared artifacts; the file names the holder for people.
pub(crate) struct Lock(#[allow(dead_code)] File);

/// Waits for other runs in this clone, says so once, and takes the lock `name`.
pub(crate) fn lock(name: &str) -> Result<Lock> {
    let path = folder("lab")?.join(format!("{name}.lock"));
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .context(|| format!("open {}", path.display()))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        eprintln!("waiting for another run (process {}) to finish its step", holder.trim());
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .context(|| format!("lock {}", path.display()))?;
    }
    file.set_len(0).context(|| format!("write {}", path.display()))?;
    writeln!(file, "{}", std::process::id()).context(|| format!("write {}", path.display()))?;
    Ok(Lock(file))
}
