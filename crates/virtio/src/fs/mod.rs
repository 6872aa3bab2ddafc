//! virtio-fs (virtio 1.2, 5.11): a folder of the host, shared by a virtiofsd process of its own,
//! which sandboxes itself. [`RemoteDevice`] is the device; here the process is found, started and
//! ended.
#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use crate::remote::{RemoteDevice, RemoteError, RemoteOptions};
use crate::{Device, DeviceId, Session, StartError, Worker};
use rustix::io::FdFlags;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Bytes of the tag in the configuration (virtio 1.2, 5.11.4).
const TAG_BYTES: usize = 36;
/// Entries of the queues for urgent and for ordinary requests.
const QUEUE_SIZES: [u16; 2] = [128, 256];

/// The folder cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag is empty or too long.
    #[error("share {tag:?}: a tag has 1 to {TAG_BYTES} bytes")]
    Tag {
        /// The tag given.
        tag: String,
    },
    /// There is no such program.
    #[error(
        "share {tag}: virtiofsd is not installed (looked in $PATH, /usr/libexec, /usr/lib/qemu and \
         ~/.cargo/bin); install it with `cargo install virtiofsd` (needs libcap-ng-dev and \
         libseccomp-dev), or share the folder as 9p"
    )]
    Missing {
        /// The share.
        tag: String,
    },
    /// The process cannot be started.
    #[error("share {tag}: cannot start {program:?}: {error}")]
    Start {
        /// The share.
        tag: String,
        /// The program.
        program: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The process does not work.
    #[error(transparent)]
    Attach(#[from] RemoteError),
}

/// What to share and how.
#[derive(Clone, Debug)]
pub struct FsOptions {
    /// The device's name, unique in the VM.
    pub name: String,
    /// What the guest mounts it by.
    pub tag: String,
    /// The folder.
    pub folder: PathBuf,
    /// The guest cannot write.
    pub read_only: bool,
    /// Where the socket to the process may be for a moment: a name not in use, in a folder only
    /// this user enters.
    pub socket: PathBuf,
}

/// The device.
pub struct VirtioFs {
    remote: RemoteDevice,
    options: FsOptions,
    child: Child,
}

impl VirtioFs {
    /// Starts a virtiofsd for the folder and attaches to it. It ends when the device is dropped,
    /// or when this process dies, since its socket closes.
    ///
    /// # Errors
    /// It is not installed, does not start, or does not answer.
    pub fn start(options: FsOptions) -> Result<Self, FsError> {
        let program = find().ok_or_else(|| FsError::Missing {
            tag: options.tag.clone(),
        })?;
        Self::start_program(&program, options)
    }

    fn start_program(program: &Path, options: FsOptions) -> Result<Self, FsError> {
        let tag = options.tag.as_bytes();
        if !(1..=TAG_BYTES).contains(&tag.len()) {
            return Err(FsError::Tag { tag: options.tag });
        }
        let mut config = tag.to_vec();
        config.resize(TAG_BYTES, 0);
        // One queue for ordinary requests (virtio 1.2, 5.11.4).
        config.extend(1u32.to_le_bytes());
        let (mut child, socket) = launch(program, &options).map_err(|error| FsError::Start {
            tag: options.tag.clone(),
            program: program.to_owned(),
            error,
        })?;
        let remote = RemoteDevice::attach(
            RemoteOptions {
                id: DeviceId::FileSystem,
                name: options.name.clone(),
                queue_sizes: QUEUE_SIZES.to_vec(),
                config,
            },
            socket,
        );
        match remote {
            Ok(remote) => Ok(Self {
                remote,
                options,
                child,
            }),
            Err(error) => {
                end(&mut child);
                Err(error.into())
            }
        }
    }

    /// The process, for whoever watches it.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

/// Starts the process with a listening socket it inherits, and connects to that.
fn launch(program: &Path, options: &FsOptions) -> io::Result<(Child, UnixStream)> {
    // A VM killed between the next lines leaves its socket behind.
    match std::fs::remove_file(&options.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&options.socket)?;
    let connected = UnixStream::connect(&options.socket);
    // Nobody else is to come; both ends are there.
    std::fs::remove_file(&options.socket)?;
    let socket = connected?;
    let descriptor = listener.as_raw_fd();
    let mut command = Command::new(program);
    command
        .arg("--fd")
        .arg(descriptor.to_string())
        .arg("--shared-dir")
        .arg(&options.folder)
        .args(["--tag", &options.tag, "--cache", "auto"])
        .args(["--log-level", "warn"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if options.read_only {
        command.arg("--readonly");
    }
    // SAFETY: runs in the child between fork and exec and only makes one system call, on a
    // descriptor `listener` keeps open until after the spawn.
    unsafe {
        command.pre_exec(move || {
            let listener = BorrowedFd::borrow_raw(descriptor);
            rustix::io::fcntl_setfd(listener, FdFlags::empty())?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    Ok((child, socket))
}

/// The program, wherever distributions and `cargo install` put it.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/libexec", "/usr/lib/qemu"].map(PathBuf::from));
    if let Some(home) = std::env::var_os("HOME") {
        folders.push(Path::new(&home).join(".cargo/bin"));
    }
    let mut candidates = folders.into_iter().map(|folder| folder.join("virtiofsd"));
    candidates.find(|program| {
        use std::os::unix::fs::PermissionsExt;
        program
            .metadata()
            .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    })
}

fn end(child: &mut Child) {
    // It would end by itself once the socket closes; waiting for it needs certainty.
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for VirtioFs {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Device for VirtioFs {
    fn id(&self) -> DeviceId {
        self.remote.id()
    }

    fn name(&self) -> &str {
        self.remote.name()
    }

    fn features(&self) -> u64 {
        self.remote.features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        self.remote.queue_sizes()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.remote.read_config(offset, data);
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(StartError {
                device: "virtio-fs",
                reason: format!("virtiofsd ended ({status})"),
            });
        }
        self.remote.start(session)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        vec![
            ("tag", self.options.tag.clone()),
            ("folder", self.options.folder.display().to_string()),
            ("read-only", self.options.read_only.to_string()),
            ("process", self.child.id().to_string()),
        ]
    }
}
