//! One share process: started, found, watched.

use super::About;
use super::record::{Files, Record, Wanted};
use crate::daemon::process::{Process, describe_end};
use crate::daemon::records::Records;
use crate::launch::sibling;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use share::{Handed, Spec};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Child;

/// A living process.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) record: Record,
    pub(super) process: Process,
}

/// One that was just started, with what its end leaves; none of one that was found.
pub(super) type Started = (Served, Option<Child>);

/// Opens what is to be shared. What its path comes to name later is not shared.
fn open_folder(path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| format!("the folder {} cannot be opened: {error}", path.display()))
}

/// Listens at `path` in place of whoever did before.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

impl Served {
    /// The process with this record, if it lives.
    pub(super) fn find(files: &Files, record: Record) -> Option<Self> {
        let process = Process::find(&files.pid(record.port))?;
        Some(Self { record, process })
    }

    /// Starts one. Blocks until it serves; the reason when it does not.
    pub(super) fn start(
        about: &About,
        vm: &Process,
        wanted: Wanted,
        port: u32,
    ) -> Result<Started, String> {
        let (files, records) = (Files::new(about), Records::new(&about.places, &about.vm));
        let token = records.launch_spec().and_then(|spec| spec.agent_token);
        let token = token.ok_or("the VM was started without an agent's token")?;
        let folder = open_folder(&wanted.folder)?;
        let program = sibling("macrohard-share").map_err(|problem| problem.to_string())?;
        let failed = |error: io::Error| format!("cannot be shared: {error}");
        files.make().map_err(failed)?;
        let guest = listen(&records.files().host_port(port)).map_err(failed)?;
        let control = listen(&files.control(port)).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(files.pid(port))
            .map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed(error.into()))?;
        let log = log_limits::open(&records.state.join("shares.log")).map_err(failed)?;
        let record = Record { vm: vm.pid, port, wanted };
        files.write(&record).map_err(failed)?;
        let spec = Spec {
            vm: about.vm.clone(),
            tag: record.wanted.tag.clone(),
            token,
            read_only: record.wanted.read_only,
            only: record.wanted.only.clone(),
        };
        let handed = Handed {
            folder: folder.as_fd(),
            vm: vm.pidfd(),
            guest: guest.as_fd(),
            control: control.as_fd(),
            lock: lock.as_fd(),
        };
        let mut child = share::start(&program, &spec, handed, log)
            .map_err(|error| format!("{}: {error}", program.display()))?;
        // A later daemon finds it by this number and the lock.
        let noted = writeln!(&lock, "{}", child.id());
        let process = match noted.and_then(|()| Process::of(child.id())) {
            Ok(process) => process,
            Err(error) => {
                // Nobody would know of it.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(failed(error));
            }
        };
        Ok((Self { record, process }, Some(child)))
    }

    /// Ends one that nobody needs, and leaves nothing of it, a zombie neither.
    pub(super) async fn discard(self, child: Option<Child>) {
        if let Err(error) = self.process.kill() {
            tracing::warn!(%error, tag = self.record.wanted.tag, "a share goes on");
        }
        let _ = Self::ended(self.process, child).await;
    }

    /// Waits for its end and says how it came.
    pub(super) async fn ended(process: Process, child: Option<Child>) -> String {
        if let Err(error) = process.ended().await {
            tracing::error!(%error, "cannot watch a share process");
        }
        // It has ended, so this only fetches the status.
        let status = child.and_then(|mut child| child.wait().ok());
        describe_end(status).replace("the VM process", "the share process")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_left_of_a_process_that_nobody_needs() {
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        let wanted =
            Wanted { tag: "t".to_owned(), folder: "/".into(), read_only: true, only: None };
        let record = Record { vm: 1, port: 1, wanted };
        let served = Served { record, process: Process::of(pid).unwrap() };
        served.discard(Some(child)).await;
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
