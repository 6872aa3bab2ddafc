//! Interrupting a running processor from another thread, without losing a kick.
//!
//! Two things together: `immediate_exit` in the run page makes a KVM_RUN that starts later return
//! at once, and a signal makes one that is under way return. The kicker sets `immediate_exit`
//! first and then looks whether the processor is inside; the processor says that it is inside
//! first and then lets KVM look at `immediate_exit`. With sequentially consistent accesses at
//! least one of them sees the other, so there is no moment at which a kick is lost. The signal's
//! handler does nothing: its arrival is the point.

use crate::{EngineError, Kick};
use kvm_bindings::kvm_run;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering::SeqCst};
use units::PAGE_SIZE;

/// The part of a processor that kickers share with it. Maps the run page a second time, so that a
/// kicker may outlive the processor.
pub(super) struct KickState {
    run_page: NonNull<kvm_run>,
    inside: AtomicBool,
    thread: AtomicI32,
}

// SAFETY: the run page is only reached through `immediate_exit`, an atomic, and stays mapped until
// the value is dropped.
unsafe impl Send for KickState {}
// SAFETY: as above; every field is atomic or never changes.
unsafe impl Sync for KickState {}

impl KickState {
    /// `vcpu` is a KVM vCPU descriptor.
    pub(super) fn new(vcpu: &impl AsRawFd) -> Result<Self, EngineError> {
        install_handler()?;
        // SAFETY: the caller's reference keeps the descriptor open during this call.
        let descriptor = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        // SAFETY: a fresh mapping at a place the kernel picks; the first page of a vCPU descriptor
        // is its `kvm_run`.
        let page = unsafe {
            mmap(
                null_mut(),
                PAGE_SIZE as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                descriptor,
                0,
            )
        }
        .map_err(|error| EngineError::call("mmap of the run page", error.into()))?;
        let run_page = NonNull::new(page.cast())
            .ok_or(EngineError::Missing { engine: "kvm", what: "a run page" })?;
        Ok(Self { run_page, inside: AtomicBool::new(false), thread: AtomicI32::new(0) })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: inside the mapped page, valid as long as `self`; all accesses in this process go
        // through this atomic (the kernel's are plain byte reads).
        unsafe { AtomicU8::from_ptr(&raw mut (*self.run_page.as_ptr()).immediate_exit) }
    }

    /// The calling thread is about to enter the guest.
    pub(super) fn enter(&self) {
        self.thread.store(current_thread(), SeqCst);
        self.inside.store(true, SeqCst);
    }

    /// It came back.
    pub(super) fn leave(&self) {
        self.inside.store(false, SeqCst);
    }

    /// Takes the kicks so far; the caller reports one [`crate::Exit::Interrupted`] for all of them.
    pub(super) fn take(&self) {
        self.immediate_exit().store(0, SeqCst);
    }
}

impl Kick for KickState {
    fn kick(&self) {
        self.immediate_exit().store(1, SeqCst);
        if self.inside.load(SeqCst) {
            // SAFETY: tgkill only names a thread of this process; should the thread have ended, it
            // fails, and should its number belong to another thread by now, the handler does
            // nothing there.
            unsafe {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread.load(SeqCst), signal())
            };
        }
    }
}

impl Drop for KickState {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size; nothing refers to it any more.
        if let Err(error) = unsafe { munmap(self.run_page.as_ptr().cast(), PAGE_SIZE as usize) } {
            tracing::warn!(%error, "the run page stays mapped");
        }
    }
}

/// The signal that brings a processor out of the guest: the first real-time signal that the C
/// library leaves to programs. Programs that use this engine must leave it alone.
pub(super) fn signal() -> c_int {
    libc::SIGRTMIN()
}

fn current_thread() -> i32 {
    thread_local!(static THREAD: Cell<i32> = const { Cell::new(0) });
    THREAD.with(|thread| {
        if thread.get() == 0 {
            thread.set(rustix::thread::gettid().as_raw_nonzero().get());
        }
        thread.get()
    })
}

/// Lets the signal reach the calling thread even where the program blocks signals by default.
pub(super) fn unblock() {
    // SAFETY: a zeroed `sigset_t` is made valid by `sigemptyset`; the calls change this thread's
    // mask only.
    let failed = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, null_mut())
    };
    if failed != 0 {
        tracing::warn!(errno = failed, "cannot unblock the kick signal");
    }
}

extern "C" fn arrived(_signal: c_int) {}

/// Once per process. Without SA_RESTART, so that KVM_RUN returns.
fn install_handler() -> Result<(), EngineError> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            // SAFETY: a zeroed `sigaction` is a valid one; the handler is a function that does
            // nothing, so it is safe at any moment on any thread.
            let failed = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = arrived as extern "C" fn(c_int) as usize;
                libc::sigemptyset(&raw mut action.sa_mask);
                libc::sigaction(signal(), &raw const action, null_mut())
            };
            match failed {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
            }
        })
        .map_err(|errno| EngineError::call("sigaction", io::Error::from_raw_os_error(errno)))
}
