//! Puts a landlock ruleset on every thread of the process. The kernel restricts only the thread
//! that asks, and what that thread makes later; the machine's threads exist by then. So each of
//! them is interrupted by a signal whose handler restricts the thread it runs on.
#![allow(unsafe_code)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::Duration;

/// What a handler needs; one call of [`restrict`] at a time sets it.
static RULESET: AtomicI32 = AtomicI32::new(-1);
static REPORTS: AtomicI32 = AtomicI32::new(-1);

/// How often a thread that does not answer is looked for, and how many times.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 100;

/// The signal: next to the one that takes processors out of the guest.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

/// Restricts every thread of the process, the calling one last. Threads made meanwhile are found
/// too; afterwards all new ones inherit it.
///
/// # Errors
/// The kernel refused, or a thread does not answer.
pub(super) fn restrict(ruleset: &OwnedFd) -> io::Result<()> {
    let (reports, write) = pipe_with(PipeFlags::CLOEXEC)?;
    RULESET.store(ruleset.as_raw_fd(), SeqCst);
    REPORTS.store(write.as_raw_fd(), SeqCst);
    disposition(on_signal as extern "C" fn(libc::c_int) as usize)?;
    let others = restrict_others(&reports);
    // Nobody sends it any more; should one come late, it must not end the process.
    disposition(libc::SIG_IGN)?;
    others?;
    match restrict_here(ruleset.as_raw_fd()) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn restrict_others(reports: &OwnedFd) -> io::Result<()> {
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let mut done = BTreeSet::from([own]);
    // A thread made by one not yet restricted is in a list made after its maker was.
    loop {
        let fresh: Vec<i32> = threads()?.into_iter().filter(|t| !done.contains(t)).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        for thread in fresh {
            restrict_one(thread, reports)?;
            done.insert(thread);
        }
    }
}

fn threads() -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        found.extend(entry?.file_name().to_str().and_then(|n| n.parse::<i32>().ok()));
    }
    Ok(found)
}

/// Interrupts `thread` and waits for its report, or for its end.
fn restrict_one(thread: i32, reports: &OwnedFd) -> io::Result<()> {
    // SAFETY: names a thread of this process, whose handler for the signal is ours.
    if unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) } != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(()),
            _ => Err(error),
        };
    }
    let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
    for _ in 0..LOOKS {
        let mut polled = [PollFd::new(reports, PollFlags::IN)];
        match poll(&mut polled, Some(&patience)) {
            Ok(0) if !Path::new("/proc/self/task").join(thread.to_string()).exists() => {
                return Ok(());
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut errno = [0; 4];
        rustix::io::read(reports, &mut errno)?;
        return match i32::from_ne_bytes(errno) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
    }
    Err(io::Error::other(format!("thread {thread} does not answer; start the VM again")))
}

/// Restricts the calling thread; the error number, or 0. Only makes async-signal-safe calls.
pub(super) fn restrict_here(ruleset: i32) -> i32 {
    // SAFETY: system calls on numbers; without new privileges the kernel lets anybody restrict
    // themselves.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) != 0
    };
    if failed {
        // SAFETY: the calling thread's own error number.
        unsafe { *libc::__errno_location() }
    } else {
        0
    }
}

extern "C" fn on_signal(_signal: libc::c_int) {
    // SAFETY: the thread's own error number, kept for the code this interrupts.
    let errno = unsafe { *libc::__errno_location() };
    let report = restrict_here(RULESET.load(SeqCst)).to_ne_bytes();
    // SAFETY: the pointer and length describe `report`; a write this short to a pipe is whole. The
    // error number is the thread's own.
    unsafe {
        libc::write(REPORTS.load(SeqCst), report.as_ptr().cast(), report.len());
        *libc::__errno_location() = errno;
    }
}

/// Sets what the signal does. Calls it interrupts go on by themselves where the kernel lets them.
fn disposition(handler: usize) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid; the handler makes only async-signal-safe calls.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal(), &raw const action, std::ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
