//! Serving a device to another VMM over a vhost-user socket (QEMU docs/interop/vhost-user): the
//! second transport, used by engine `tcg`, where QEMU is the machine.
//!
//! The front-end (QEMU) keeps configuration of PCI to itself; it sends us guest memory, rings and
//! eventfds. [`Server`] is a thread that listens, and for each connection turns messages into
//! starts and stops of the device's workers. Front-ends are as little trusted as the guest inside
//! them: what they send is checked, and at worst the device stops. One thing is theirs: a
//! front-end that truncates the memory it shared takes this process down with a bus error, and
//! with it only its own VM.

mod backend;
#[cfg(test)]
mod tests;

use crate::Device;
use backend::Backend;
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use vhost::vhost_user::BackendReqHandler;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Message handling calls only into the device's control half.
const STACK_BYTES: usize = 256 * 1024;

/// A device being served; one connection at a time.
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: EventFd,
    backend: Arc<Mutex<Backend>>,
    /// A second handle on the connection, to cut it off.
    connection: Mutex<Option<UnixStream>>,
}

impl Shared {
    fn backend(&self) -> MutexGuard<'_, Backend> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Serves `device` to whoever connects to `listener`.
    ///
    /// # Errors
    /// The kernel gives no eventfd or no thread.
    pub fn start(device: Box<dyn Device>, listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let name: String = format!("vu-{}", device.name()).chars().take(15).collect();
        let shared = Arc::new(Shared {
            stop: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            backend: Arc::new(Mutex::new(Backend::new(device))),
            connection: Mutex::new(None),
        });
        let in_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name(name)
            .stack_size(STACK_BYTES)
            .spawn(move || listen(&in_thread, &listener))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Looks at the device, also while it is being served.
    pub fn with_device<T>(&self, look: impl FnOnce(&dyn Device) -> T) -> T {
        look(self.shared.backend().device())
    }
}

impl Drop for Server {
    /// Cuts the connection and stops the device.
    fn drop(&mut self) {
        // Fails only when the counter is full: the signal stands already.
        let _ = self.shared.stop.write(1);
        if let Some(connection) = self.shared.connection().as_ref() {
            // Not connected any more is as good.
            let _ = connection.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread.
            let _ = thread.join();
        }
        self.shared.backend().disconnect();
    }
}

fn listen(shared: &Shared, listener: &UnixListener) {
    while wait(shared, listener.as_fd()) {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::error!(%error, "vhost-user: cannot accept");
                return;
            }
        };
        let served = stream
            .set_nonblocking(false)
            .and_then(|()| stream.try_clone())
            .map(|second| *shared.connection() = Some(second));
        match served {
            Ok(()) => serve(shared, stream),
            Err(error) => tracing::warn!(%error, "vhost-user: connection dropped"),
        }
        *shared.connection() = None;
        shared.backend().disconnect();
    }
}

/// One connection, until it ends.
fn serve(shared: &Shared, stream: UnixStream) {
    let mut handler = BackendReqHandler::from_stream(stream, shared.backend.clone());
    loop {
        // Rings are set up by many messages; the workers start when no more are there to read.
        if !ready_now(descriptor(&handler)) {
            shared.backend().settle();
        }
        if !wait(shared, descriptor(&handler)) {
            return;
        }
        match handler.handle_request() {
            Ok(()) => {}
            Err(vhost::vhost_user::Error::Disconnected) => return,
            // The message was answered with an error where it can be; the next may be fine.
            Err(
                error @ (vhost::vhost_user::Error::InvalidParam
                | vhost::vhost_user::Error::InvalidOperation(_)
                | vhost::vhost_user::Error::ReqHandlerError(_)),
            ) => tracing::warn!(%error, "vhost-user: request refused"),
            Err(error) => {
                tracing::warn!(%error, "vhost-user: connection given up");
                return;
            }
        }
    }
}

#[allow(unsafe_code)]
fn descriptor<S: AsRawFd>(owner: &S) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is `owner`'s and open as long as `owner` lives, which the lifetime
    // borrows.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Waits until `source` is readable; false when told to stop.
fn wait(shared: &Shared, source: BorrowedFd<'_>) -> bool {
    loop {
        let mut polled = [
            PollFd::from_borrowed_fd(descriptor(&shared.stop), PollFlags::IN),
            PollFd::from_borrowed_fd(source, PollFlags::IN),
        ];
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "vhost-user: cannot wait");
                return false;
            }
            Ok(_) => return polled[0].revents().is_empty(),
        }
    }
}

fn ready_now(source: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(source, PollFlags::IN)];
    let no_time = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut polled, Some(&no_time)), Ok(1))
}
