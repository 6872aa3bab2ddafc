//! What the process says when it dies out of order: a fatal signal, a system call outside the
//! sandbox, a panic. The handler writes the reason to the log and the exit record with nothing but
//! async-signal-safe calls, on data prepared beforehand.
#![allow(unsafe_code)]

use super::syscall_names;
use crate::MachineError;
use std::ffi::CString;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a failed process.
const FAILURE: i32 = 1;

struct Prepared {
    log: RawFd,
    record: CString,
    temporary: CString,
}

static PREPARED: OnceLock<Prepared> = OnceLock::new();
/// Only the first fatal event speaks.
static SPOKEN: AtomicBool = AtomicBool::new(false);

/// Catches fatal signals from now on. `log` stays open for the life of the process.
///
/// # Errors
/// A handler cannot be installed.
pub(super) fn prepare(log: OwnedFd, record: &Path) -> Result<(), MachineError> {
    let text = |bytes: &[u8]| {
        CString::new(bytes).map_err(|_| {
            MachineError::file(
                "cannot prepare exit record",
                record,
                std::io::ErrorKind::InvalidInput.into(),
            )
        })
    };
    let path = record.as_os_str().as_bytes();
    let prepared = Prepared {
        log: log.into_raw_fd(),
        record: text(path)?,
        temporary: text(&[path, b".dying"].concat())?,
    };
    if PREPARED.set(prepared).is_err() {
        return Ok(());
    }
    for signal in
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGSYS]
    {
        catch(signal)?;
    }
    Ok(())
}

fn catch(signal: libc::c_int) -> Result<(), MachineError> {
    // SAFETY: an all-zero sigaction is valid; the handler has the signature SA_SIGINFO asks for and
    // makes only async-signal-safe calls.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            on_signal;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(MachineError::system("cannot catch fatal signals", std::io::Error::last_os_error()))
    }
}

extern "C" fn on_signal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    let mut message = Text::new();
    if signal == libc::SIGSYS {
        // SAFETY: the kernel hands a valid siginfo; for SIGSYS from seccomp, si_syscall is an int
        // at offset 8 of the signal's own fields, which start at offset 16 (siginfo_t, 64 bit).
        let number = unsafe { *info.cast::<i32>().add(6) };
        message.push("system call ");
        message.push(syscall_names::name(i64::from(number)));
        message.push(" (");
        message.push_number(number.unsigned_abs().into());
        message.push(") is not allowed in the sandbox");
    } else {
        // SAFETY: as above; si_addr is the first of the signal's own fields.
        let address = unsafe { *info.cast::<usize>().add(2) };
        message.push("killed by ");
        message.push(signal_name(signal));
        message.push(" at address ");
        message.push_number(address as u64);
    }
    speak(message.as_bytes());
    // SAFETY: _exit ends the process at once and returns to nobody.
    unsafe { libc::_exit(FAILURE) }
}

fn signal_name(signal: libc::c_int) -> &'static str {
    match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGBUS => "SIGBUS (guest memory could not be backed, or a file shrank)",
        libc::SIGILL => "SIGILL",
        libc::SIGFPE => "SIGFPE",
        libc::SIGABRT => "SIGABRT",
        _ => "a signal",
    }
}

/// Writes `message` to the log and as exit record.
fn speak(message: &[u8]) {
    if SPOKEN.swap(true, Ordering::SeqCst) {
        return;
    }
    let Some(prepared) = PREPARED.get() else {
        return;
    };
    write(prepared.log, message);
    write(prepared.log, b"\n");
    // SAFETY: the strings live for ever and end in zero; a failed open gives a descriptor below
    // zero, on which the rest fails harmlessly.
    unsafe {
        let file = libc::open(
            prepared.temporary.as_ptr(),
            libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC,
            0o600,
        );
        if file < 0 {
            return;
        }
        write(file, b"{\"ending\":\"failed\",\"message\":\"");
        write(file, message);
        write(file, b"\",\"time\":");
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME, &mut now);
        let mut time = Text::new();
        time.push_number(now.tv_sec.unsigned_abs());
        write(file, time.as_bytes());
        write(file, b"}\n");
        libc::fsync(file);
        libc::rename(prepared.temporary.as_ptr(), prepared.record.as_ptr());
    }
}

fn write(descriptor: RawFd, bytes: &[u8]) {
    // SAFETY: the pointer and length describe `bytes`. Nothing can be done about a failure here.
    unsafe {
        libc::write(descriptor, bytes.as_ptr().cast(), bytes.len());
    }
}

/// A short text without allocation; what does not fit is cut off. Holds no character JSON escapes.
struct Text {
    bytes: [u8; 192],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Self { bytes: [0; 192], length: 0 }
    }

    fn push(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
    }

    fn push_number(&mut self, mut number: u64) {
        let mut digits = [0u8; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(std::str::from_utf8(&digits[start..]).unwrap_or(""));
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_cut_texts() {
        let mut text = Text::new();
        text.push_number(0);
        text.push(" ");
        text.push_number(u64::MAX);
        assert_eq!(text.as_bytes(), b"0 18446744073709551615");
        text.push(&"x".repeat(500));
        assert_eq!(text.as_bytes().len(), 192);
    }
}
