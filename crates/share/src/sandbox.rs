//! The walls around the process: below its folder it may do what a file server does, and nowhere else
//! anything. No other file, no program, no process, no new socket, no privilege.
//!
//! They are closed while the process has one thread, so that every later thread has them.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;

fn refused(error: impl Display) -> io::Error {
    io::Error::other(format!("the sandbox cannot be closed: {error}"))
}

/// Closes the walls around this thread and all it starts. A kernel without landlock is accepted with a
/// warning in the log: the guard before the server stands in any case.
pub(crate) fn close(folder: &OwnedFd, read_only: bool) -> io::Result<()> {
    restrict_files(folder, read_only)?;
    for filter in [without_clone3()?, calls()?] {
        seccompiler::apply_filter(&filter).map_err(refused)?;
    }
    Ok(())
}

fn restrict_files(folder: &OwnedFd, read_only: bool) -> io::Result<()> {
    let abi = ABI::V3;
    let all = match read_only {
        true => AccessFs::from_read(abi),
        false => AccessFs::from_all(abi),
    };
    // What a guest may not make is not made here either.
    let never = AccessFs::Execute
        | AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::MakeSym;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rule(PathBeneath::new(folder, all & !never)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(refused)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        tracing::warn!("this kernel has no landlock: file access is limited by the guard alone");
    }
    Ok(())
}

/// Calls with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // memory and threads
    libc::SYS_brk,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // waiting and time
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    // open descriptors
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    // files, where landlock and the guard let them
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    // open sockets: none is made, bound or connected any more
    libc::SYS_accept4,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    // facts about the process
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getrandom,
    libc::SYS_getuid,
];

fn calls() -> io::Result<BpfProgram> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};
    let rule = |argument, length, operator, value: u64| {
        SeccompCondition::new(argument, length, operator, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(refused)
    };
    let mut rules: Vec<_> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // Threads only: CLONE_VM and CLONE_THREAD must be set.
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
    rules.push((libc::SYS_clone, vec![rule(0, Qword, MaskedEq(thread), thread)?]));
    // Signals for the threads of this process, and limits of this process, only.
    let own = u64::from(std::process::id());
    rules.push((libc::SYS_tgkill, vec![rule(0, Dword, Eq, own)?]));
    rules.push((libc::SYS_prlimit64, vec![rule(0, Dword, Eq, 0)?]));
    let name = libc::PR_SET_NAME as u64;
    // Memory's name is set by newer C libraries for a thread's stack.
    let memory = libc::PR_SET_VMA as u64;
    rules.push((libc::SYS_prctl, vec![rule(0, Dword, Eq, name)?, rule(0, Dword, Eq, memory)?]));
    filter(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// `clone3` takes its flags from memory, where a filter cannot see whether it makes a thread or a
/// process. Told that the kernel has none, the C library makes threads with `clone`.
fn without_clone3() -> io::Result<BpfProgram> {
    let none = SeccompAction::Errno(libc::ENOSYS as u32);
    filter(vec![(libc::SYS_clone3, Vec::new())], SeccompAction::Allow, none)
}

fn filter(
    rules: Vec<(libc::c_long, Vec<SeccompRule>)>,
    others: SeccompAction,
    those: SeccompAction,
) -> io::Result<BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into().map_err(refused)?;
    SeccompFilter::new(rules.into_iter().collect(), others, those, architecture)
        .and_then(TryInto::try_into)
        .map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_no_call_twice_and_none_that_reaches_out() {
        let mut calls = ALLOWED.to_vec();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), ALLOWED.len());
        for never in [
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_ioctl,
            libc::SYS_kill,
            libc::SYS_mknodat,
            libc::SYS_mount,
            libc::SYS_ptrace,
            libc::SYS_socket,
            libc::SYS_symlinkat,
        ] {
            assert!(!calls.contains(&never));
        }
    }
}
