//! From the first message to the end of the VM.

use crate::launch::{Handed, Spec, answer, receive};
use crate::server::Server;
use crate::walls;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// The program's `main`, once its log is set up: serves what it is told on standard input.
#[must_use]
pub fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("macrohard-share: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let starter = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let (spec, handed) = receive(&starter).map_err(|error| {
        let what = format!("no specification on standard input, as macrohardd gives it: {error}");
        io::Error::new(error.kind(), what)
    })?;
    let (vm, tag) = (spec.vm.clone(), spec.tag.clone());
    let prepared = Prepared::new(spec, handed);
    match &prepared {
        Ok(_) => answer(&starter, Ok(())),
        Err(error) => answer(&starter, Err(&error.to_string())),
    }
    drop(starter);
    prepared?.serve()?;
    tracing::info!(vm, tag, "the VM has ended");
    Ok(())
}

/// All that is needed, behind walls.
struct Prepared {
    runtime: Runtime,
    server: Arc<Server>,
    guest: tokio::net::UnixListener,
    control: tokio::net::UnixListener,
    vm: oneshot::Receiver<()>,
    /// Held locked.
    _lock: OwnedFd,
}

impl Prepared {
    fn new(spec: Spec, handed: Handed) -> io::Result<Self> {
        let Handed { folder, vm, guest, control, lock } = handed;
        // The starter's socket, which nothing answers any more.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        raise_limits()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (guest, control) = {
            let _inside = runtime.enter();
            (listener(guest)?, listener(control)?)
        };
        walls::close(&folder, spec.read_only)
            .map_err(|error| io::Error::other(format!("the sandbox cannot be closed: {error}")))?;
        let vm = end_of(vm)?;
        let server = Arc::new(Server::new(spec, folder)?);
        Ok(Self { runtime, server, guest, control, vm, _lock: lock })
    }

    /// Serves until the VM process ends.
    fn serve(self) -> io::Result<()> {
        self.runtime.block_on(async {
            tokio::select! {
                () = Arc::clone(&self.server).accept(self.guest) => {}
                () = Arc::clone(&self.server).accept_questions(self.control) => {}
                _ = self.vm => {}
            }
            Ok(())
        })
    }
}

/// Waits for the end of a process, on a thread of its own.
fn end_of(process: OwnedFd) -> io::Result<oneshot::Receiver<()>> {
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new().name("vm".to_owned()).spawn(move || {
        // A pidfd becomes readable when its process ends.
        while let Err(Errno::INTR) = poll(&mut [PollFd::new(&process, PollFlags::IN)], None) {}
        // The one who waits may have ended already.
        let _ = tell.send(());
    })?;
    Ok(ended)
}

fn listener(socket: OwnedFd) -> io::Result<tokio::net::UnixListener> {
    let flags = rustix::fs::fcntl_getfl(&socket)?;
    rustix::fs::fcntl_setfl(&socket, flags | rustix::fs::OFlags::NONBLOCK)?;
    tokio::net::UnixListener::from_std(socket.into())
}

/// A guest that walks large trees holds many files.
fn raise_limits() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
