//! The walls around the process: below its folder it may do what a file server does, and nowhere else
//! anything. No other file, no program, no process, no new socket, no privilege.
//!
//! They are closed while the process has one thread, so that every later thread has them.

use sandbox::{AccessFs, Action, Calls, Files, SandboxError, without_clone3};
use std::os::fd::OwnedFd;

/// Closes the walls around this thread and all it starts. A kernel without landlock is accepted with a
/// warning in the log: the guard before the server stands in any case.
pub(crate) fn close(folder: &OwnedFd, read_only: bool) -> Result<(), SandboxError> {
    let access = if read_only { Files::reading() } else { Files::everything() };
    // What a guest may not make is not made here either.
    let never = AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::MakeSym;
    if !Files::none(true)?.allow_open(folder, access & !never)?.close()? {
        tracing::warn!("this kernel has no landlock: file access is limited by the guard alone");
    }
    for filter in [without_clone3()?, calls()?.filter(Action::KillProcess)?] {
        seccompiler::apply_filter(&filter)?;
    }
    Ok(())
}

fn calls() -> Result<Calls, SandboxError> {
    Calls::with_any_arguments(ALLOWED).with_threads()
}

/// Calls with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // memory and threads
    libc::SYS_brk,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_no_call_twice_and_none_that_reaches_out() {
        let mut sorted = ALLOWED.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ALLOWED.len());
        let calls = calls().unwrap();
        for never in [
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ioctl,
            libc::SYS_kill,
            libc::SYS_mknodat,
            libc::SYS_mount,
            libc::SYS_ptrace,
            libc::SYS_setxattr,
            libc::SYS_socket,
            libc::SYS_symlinkat,
        ] {
            assert!(!calls.has(never));
        }
    }
}
