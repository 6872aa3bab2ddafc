//! Where things are: definitions, state, sockets. The one place that spells these paths.

use crate::name::short;
use rustix::fs::{FileType, Mode, lstat};
use std::env;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Neither the XDG variable nor HOME says where.
    #[error(
        "cannot tell where to keep {what}: neither {variable} nor HOME is an absolute path; set one of them"
    )]
    Unknown {
        /// What should be kept.
        what: &'static str,
        /// The variable of the XDG base directory specification.
        variable: &'static str,
    },
    /// The folder cannot be made.
    #[error("cannot make the folder {path}: {source}")]
    Make {
        /// The folder.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The folder belongs to someone else or is open to others, so sockets in it cannot be trusted.
    #[error(
        "{path} is not a private folder of this user: {found}. Remove it, or set XDG_RUNTIME_DIR to a folder of yours"
    )]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
}

/// The folders of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    config: PathBuf,
    state: PathBuf,
    data: PathBuf,
    runtime: PathBuf,
}

impl Places {
    /// All below one folder, as at a desk of its own. Makes nothing.
    #[must_use]
    pub fn below(folder: &Path) -> Self {
        Self {
            config: folder.join("config"),
            state: folder.join("state"),
            data: folder.join("data"),
            runtime: folder.join("runtime"),
        }
    }

    /// By the XDG base directory specification; the runtime folder falls back to
    /// `/tmp/macrohard-UID`. Makes the folders, private to the user.
    ///
    /// # Errors
    /// No place can be told, made, or trusted.
    pub fn from_environment() -> Result<Self, PlaceError> {
        let places = Self {
            config: base("XDG_CONFIG_HOME", ".config", "definitions")?.join("macrohard"),
            state: base("XDG_STATE_HOME", ".local/state", "state")?.join("macrohard"),
            data: base("XDG_DATA_HOME", ".local/share", "launchers")?,
            runtime: match absolute(env::var_os("XDG_RUNTIME_DIR")) {
                Some(runtime) => runtime.join("macrohard"),
                None => format!("/tmp/macrohard-{}", rustix::process::getuid().as_raw()).into(),
            },
        };
        for folder in [&places.definitions(), &places.state] {
            make(folder)?;
        }
        private(&places.runtime)?;
        private(&places.vm_runtimes())?;
        Ok(places)
    }

    /// Folder of the definition files.
    #[must_use]
    pub fn definitions(&self) -> PathBuf {
        self.config.join("vms")
    }

    /// What outlives the process of VM `name`.
    #[must_use]
    pub fn state_of(&self, name: &str) -> PathBuf {
        self.state.join("vms").join(name)
    }

    /// Sockets and process id of VM `name`. Its path is short, whatever the name.
    #[must_use]
    pub fn runtime_of(&self, name: &str) -> PathBuf {
        self.vm_runtimes().join(short(name))
    }

    /// What the processes of folders shared with VM `name` are found by; out of the VM process's reach.
    #[must_use]
    pub fn shares_of(&self, name: &str) -> PathBuf {
        self.runtime.join("shares").join(short(name))
    }

    /// Whether `path`, which is resolved, lies in a folder of the product's own.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.own().any(|own| path.starts_with(own))
    }

    /// Whether a folder of the product's own lies in `path`, which is resolved.
    #[must_use]
    pub fn lie_in(&self, path: &Path) -> bool {
        self.own().any(|own| own.starts_with(path))
    }

    fn own(&self) -> impl Iterator<Item = PathBuf> {
        let own = [&self.config, &self.state, &self.runtime];
        own.into_iter().filter_map(|own| own.canonicalize().ok())
    }

    /// Folder of all folders that [`Self::runtime_of`] names.
    #[must_use]
    pub fn vm_runtimes(&self) -> PathBuf {
        self.runtime.join("vms")
    }

    /// Folder for a VM that belongs to process `pid` alone (`run`).
    #[must_use]
    pub fn runtime_of_run(&self, pid: u32) -> PathBuf {
        self.runtime.join(format!("run-{pid}"))
    }

    /// Where the desktop looks for this user's launchers (desktop entries).
    #[must_use]
    pub fn launchers(&self) -> PathBuf {
        self.data.join("applications")
    }

    /// This user's part of the icon theme that every other one falls back to.
    #[must_use]
    pub fn icons(&self) -> PathBuf {
        self.data.join("icons/hicolor")
    }

    /// The daemon's socket.
    #[must_use]
    pub fn daemon_socket(&self) -> PathBuf {
        self.runtime.join("daemon.sock")
    }

    /// Locked as long as a daemon runs; holds its process id.
    #[must_use]
    pub fn daemon_lock(&self) -> PathBuf {
        self.runtime.join("daemon.pid")
    }

    /// What was pasted between the desktop and VMs, without content.
    #[must_use]
    pub fn clipboard_log(&self) -> PathBuf {
        self.state.join("clipboard.log")
    }

    /// The daemon's log.
    #[must_use]
    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("daemon.log")
    }

    /// Makes the folders of VM `name`.
    ///
    /// # Errors
    /// A folder cannot be made.
    pub fn make_for(&self, name: &str) -> Result<(), PlaceError> {
        make(&self.state_of(name))?;
        private(&self.runtime_of(name))
    }
}

fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    // The specification: a relative path is to be ignored.
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

fn base(
    variable: &'static str,
    below_home: &str,
    what: &'static str,
) -> Result<PathBuf, PlaceError> {
    absolute(env::var_os(variable))
        .or_else(|| absolute(env::var_os("HOME")).map(|home| home.join(below_home)))
        .ok_or(PlaceError::Unknown { what, variable })
}

fn make(path: &Path) -> Result<(), PlaceError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| PlaceError::Make { path: path.to_owned(), source })
}

/// Makes `path` with mode 0700 unless it is there, and checks that it is this user's alone. The
/// folder above must exist: nobody else may be able to make it first.
fn private(path: &Path) -> Result<(), PlaceError> {
    let failed = |source: io::Error| PlaceError::Make { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let facts = lstat(path).map_err(|error| failed(error.into()))?;
    let me = rustix::process::getuid().as_raw();
    let found = if FileType::from_raw_mode(facts.st_mode) != FileType::Directory {
        "it is not a folder".to_owned()
    } else if facts.st_uid != me {
        format!("it belongs to user id {}, not {me}", facts.st_uid)
    } else {
        let mode = Mode::from_raw_mode(facts.st_mode);
        if mode.intersects(Mode::RWXG | Mode::RWXO) {
            format!("its mode is {:o}, not 700", mode.bits())
        } else {
            return Ok(());
        }
    };
    Err(PlaceError::NotPrivate { path: path.to_owned(), found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_runtime_folder_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("macrohard");
        private(&path).unwrap();
        private(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o750)).unwrap();
        assert!(matches!(private(&path), Err(PlaceError::NotPrivate { .. })));
    }

    #[test]
    fn a_link_planted_as_runtime_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("macrohard");
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        assert!(matches!(private(&path), Err(PlaceError::NotPrivate { .. })));
    }
}
