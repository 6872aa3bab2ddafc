//! Which system calls are made.

use crate::SandboxError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;

/// What an argument of a call must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// The argument of this number (from 0) has this value in its low 32 bits.
    Is(u8, u64),
    /// It has another.
    IsNot(u8, u64),
    /// The bits of a mask have this value, of 32 bits.
    Has(u8, u64, u64),
    /// The same of 64 bits.
    HasLong(u8, u64, u64),
}

impl Argument {
    fn condition(self) -> Result<SeccompCondition, SandboxError> {
        use SeccompCmpArgLen::{Dword, Qword};
        use SeccompCmpOp::{Eq, MaskedEq, Ne};
        let (number, length, operator, value) = match self {
            Self::Is(number, value) => (number, Dword, Eq, value),
            Self::IsNot(number, value) => (number, Dword, Ne, value),
            Self::Has(number, mask, value) => (number, Dword, MaskedEq(mask), value),
            Self::HasLong(number, mask, value) => (number, Qword, MaskedEq(mask), value),
        };
        Ok(SeccompCondition::new(number, length, operator, value)?)
    }
}

/// The calls that are allowed.
#[derive(Clone, Debug, Default)]
pub struct Calls(BTreeMap<libc::c_long, Vec<SeccompRule>>);

impl Calls {
    /// These with any arguments.
    #[must_use]
    pub fn with_any_arguments(calls: &[libc::c_long]) -> Self {
        Self(calls.iter().map(|call| (*call, Vec::new())).collect())
    }

    /// One call whose arguments are as one of `choices` says, each of which is a list of what must hold.
    ///
    /// # Errors
    /// An argument has no such number.
    pub fn with(
        mut self,
        call: libc::c_long,
        choices: &[&[Argument]],
    ) -> Result<Self, SandboxError> {
        let mut rules = Vec::new();
        for choice in choices {
            let conditions: Result<Vec<_>, _> =
                choice.iter().map(|argument| argument.condition()).collect();
            rules.push(SeccompRule::new(conditions?)?);
        }
        self.0.insert(call, rules);
        Ok(self)
    }

    /// What a process with threads does with itself and nobody else: threads are made, but no process; signals go to
    /// threads of this process (so a child needs its own), limits are its own, and threads and memory get names.
    /// Goes with [`without_clone3`].
    ///
    /// # Errors
    /// None that can be told in advance.
    pub fn with_threads(self) -> Result<Self, SandboxError> {
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
        // The filter before this one answers it.
        self.with(libc::SYS_clone3, &[])?
            .with(libc::SYS_clone, &[&[Argument::HasLong(0, thread, thread)]])?
            .with(libc::SYS_tgkill, &[&[Argument::Is(0, u64::from(std::process::id()))]])?
            .with(libc::SYS_prlimit64, &[&[Argument::Is(0, 0)]])?
            .with(
                libc::SYS_prctl,
                &[
                    &[Argument::Is(0, libc::PR_SET_NAME as u64)],
                    // The name of memory, set by newer C libraries for a thread's stack.
                    &[Argument::Is(0, libc::PR_SET_VMA as u64)],
                ],
            )
    }

    /// Whether a call is among them, with whatever arguments.
    #[must_use]
    pub fn has(&self, call: libc::c_long) -> bool {
        self.0.contains_key(&call)
    }

    /// The filter; all other calls do `others`.
    ///
    /// # Errors
    /// It would be too long, or the processor is not known.
    pub fn filter(self, others: SeccompAction) -> Result<BpfProgram, SandboxError> {
        filter(self.0, others, SeccompAction::Allow)
    }
}

/// The calls that are refused, all others being allowed: for a process whose libraries make calls that nobody can
/// list, as drivers of graphics cards do.
#[derive(Clone, Debug, Default)]
pub struct Refused(BTreeMap<libc::c_long, Vec<SeccompRule>>);

impl Refused {
    /// These with any arguments.
    #[must_use]
    pub fn with_any_arguments(calls: &[libc::c_long]) -> Self {
        Self(Calls::with_any_arguments(calls).0)
    }

    /// One call where its arguments are as one of `choices` says, each of which is a list of what must hold.
    ///
    /// # Errors
    /// An argument has no such number.
    pub fn with(self, call: libc::c_long, choices: &[&[Argument]]) -> Result<Self, SandboxError> {
        Ok(Self(Calls(self.0).with(call, choices)?.0))
    }

    /// What reaches beyond this process: another process, program or signal, the limits of another one. Threads
    /// are made. Goes with [`without_clone3`].
    ///
    /// # Errors
    /// None that can be told in advance.
    pub fn with_processes(self) -> Result<Self, SandboxError> {
        let thread = libc::CLONE_THREAD as u64;
        let own = u64::from(std::process::id());
        self.with(libc::SYS_clone, &[&[Argument::HasLong(0, thread, 0)]])?
            .with(libc::SYS_tgkill, &[&[Argument::IsNot(0, own)]])?
            .with(libc::SYS_kill, &[&[Argument::IsNot(0, own)]])?
            .with(libc::SYS_prlimit64, &[&[Argument::IsNot(0, 0), Argument::IsNot(0, own)]])
    }

    /// Whether a call is among them, with whatever arguments.
    #[must_use]
    pub fn has(&self, call: libc::c_long) -> bool {
        self.0.contains_key(&call)
    }

    /// The filter; these calls fail with `EPERM`.
    ///
    /// # Errors
    /// It would be too long, or the processor is not known.
    pub fn filter(self) -> Result<BpfProgram, SandboxError> {
        filter(self.0, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))
    }
}

/// `clone3` takes its flags from memory, where a filter cannot see whether it makes a thread or a
/// process. Told that the kernel has none, the C library makes threads with `clone`. A filter of its own, set before
/// the other: of two the stricter answer counts.
///
/// # Errors
/// The processor is not known.
pub fn without_clone3() -> Result<BpfProgram, SandboxError> {
    let none = SeccompAction::Errno(libc::ENOSYS as u32);
    filter([(libc::SYS_clone3, Vec::new())].into(), SeccompAction::Allow, none)
}

fn filter(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    others: SeccompAction,
    those: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, others, those, architecture)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within walls of these calls, on a thread of their own, where others fail with EPERM.
    fn inside<T: Send>(calls: Calls, act: impl FnOnce() -> T + Send) -> T {
        behind(calls.filter(SeccompAction::Errno(libc::EPERM as u32)).unwrap(), act)
    }

    fn behind<T: Send>(filter: BpfProgram, act: impl FnOnce() -> T + Send) -> T {
        let filters = [without_clone3().unwrap(), filter];
        std::thread::scope(|scope| {
            let close = move || {
                for filter in filters {
                    seccompiler::apply_filter(&filter).unwrap();
                }
                act()
            };
            scope.spawn(close).join().unwrap()
        })
    }

    /// What any thread of a test does.
    const EVERY: &[libc::c_long] = &[
        libc::SYS_brk,
        libc::SYS_clock_gettime,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_fcntl,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_madvise,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_munmap,
        libc::SYS_rseq,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sched_getaffinity,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_write,
    ];

    #[test]
    fn threads_are_made_and_processes_are_not() {
        let calls = Calls::with_any_arguments(EVERY).with_threads().unwrap();
        let (thread, process) = inside(calls, || {
            let thread = std::thread::Builder::new().name("one".to_owned()).spawn(|| 7);
            let process = std::process::Command::new("/bin/true").status();
            (thread.unwrap().join().unwrap(), process)
        });
        assert_eq!(thread, 7);
        assert!(process.is_err());
    }

    #[test]
    fn what_is_refused_fails_and_all_else_is_done() {
        let vsock = Argument::Is(0, libc::AF_VSOCK as u64);
        let refused = Refused::with_any_arguments(&[libc::SYS_execve])
            .with_processes()
            .and_then(|refused| refused.with(libc::SYS_socket, &[&[vsock]]))
            .unwrap();
        assert!(refused.has(libc::SYS_kill) && !refused.has(libc::SYS_openat));
        let (thread, process, file, socket) = behind(refused.filter().unwrap(), || {
            let thread = std::thread::Builder::new().name("one".to_owned()).spawn(|| 7);
            let process = std::process::Command::new("/bin/true").status();
            let file = tempfile::tempfile().map(drop);
            let socket = std::os::unix::net::UnixDatagram::unbound().map(drop);
            (thread.unwrap().join().unwrap(), process, file, socket)
        });
        assert_eq!(thread, 7);
        assert_eq!(process.unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(file.is_ok() && socket.is_ok());
    }

    #[test]
    fn a_call_is_made_with_the_arguments_allowed_only() {
        let unix = Argument::Is(0, libc::AF_UNIX as u64);
        let calls = Calls::with_any_arguments(EVERY).with(libc::SYS_socketpair, &[&[unix]]);
        let calls = calls.unwrap();
        assert!(calls.has(libc::SYS_socketpair) && !calls.has(libc::SYS_socket));
        let (pair, socket) = inside(calls, || {
            let pair = std::os::unix::net::UnixStream::pair().map(drop);
            (pair, std::os::unix::net::UnixDatagram::unbound().map(drop))
        });
        assert!(pair.is_ok());
        assert_eq!(socket.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
