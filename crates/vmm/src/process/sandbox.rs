//! The walls around a VM process. After [`close`] it can use what it has open, the two folders of
//! its VM and the folders it shares: no other file, no program, no other process, no new socket, no
//! new privilege. The one thing it needs of the host later, connections to programs that listen for
//! the guest's vsock, it asks of a process with walls of its own ([`super::broker`]).

use super::every_thread;
use crate::MachineError;
use ::sandbox::{
    AccessFs, Action, Argument, BpfProgram, Calls, Files, SandboxError, without_clone3,
};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What a system call outside the list does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Denied {
    /// Ends the process, with the call's name in the log and the exit record.
    #[default]
    Fatal,
    /// Goes through; the kernel's audit log names it. For diagnosis.
    Logged,
    /// Everything is allowed. For diagnosis.
    Off,
}

/// Files a process keeps access to.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Folders with full access below them, but no file may be brought in from another folder:
    /// what lies there is the VM's own. So nobody can put a link to somebody else's socket where
    /// the broker connects to it.
    pub(super) own: Vec<PathBuf>,
    /// Folders with full access below them.
    pub(super) writable: Vec<PathBuf>,
    /// Folders or files that can be read.
    pub(super) readable: Vec<PathBuf>,
}

/// Builds the walls; the calling process keeps them for ever, on all its threads.
///
/// # Errors
/// The kernel refused. A kernel without landlock is accepted with a warning in the log.
pub(super) fn close(reach: &Reach, denied: Denied) -> Result<(), MachineError> {
    restrict_files(reach)?;
    if denied != Denied::Off {
        restrict_calls(denied)?;
    }
    Ok(())
}

fn refused(error: impl std::fmt::Display) -> MachineError {
    MachineError::Part { part: "sandbox", reason: error.to_string() }
}

fn restrict_files(reach: &Reach) -> Result<(), MachineError> {
    match files(reach).map_err(refused)?.into_descriptor() {
        Some(ruleset) => {
            every_thread::restrict(&ruleset).map_err(|e| refused(format!("landlock: {e}")))
        }
        None => {
            tracing::warn!("this kernel has no landlock: file access is limited by seccomp alone");
            Ok(())
        }
    }
}

fn files(reach: &Reach) -> Result<Files, SandboxError> {
    let mut files = Files::none(false)?;
    for path in &reach.own {
        let bring_in = AccessFs::Refer;
        files = files.allow(path, Files::everything() & !bring_in)?;
    }
    for path in &reach.writable {
        files = files.allow(path, Files::everything())?;
    }
    for path in &reach.readable {
        files = files.allow(path, Files::reading())?;
    }
    Ok(files)
}

/// Calls with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // memory and threads
    libc::SYS_brk,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
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
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // waiting and time
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // open descriptors
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_sync_file_range,
    libc::SYS_write,
    libc::SYS_writev,
    // files, where landlock lets them
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_getcwd,
    libc::SYS_linkat,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    // open sockets: none is made, bound or connected any more
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // children started before, and facts about the process
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_pidfd_send_signal,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// The type byte of KVM's ioctl numbers (`KVMIO`, linux/kvm.h).
const KVM_IOCTLS: u64 = 0xae00;
/// The type byte of vhost's (`VHOST_VIRTIO`, linux/vhost.h) and tun's (`_IOW('T', ...)`, which it
/// shares with terminals).
const TUN_AND_TERMINAL_IOCTLS: u64 = 0x5400;
/// The type byte of the ioctls by which a child reports what it leaves with (`SECCOMP_IOC_MAGIC`,
/// linux/seccomp.h); they work on the descriptor it gave.
const EXIT_REPORT_IOCTLS: u64 = 0x2100;
/// Bits 8 to 15 of an ioctl number are its type (asm-generic/ioctl.h).
const IOCTL_TYPE: u64 = 0xff00;
/// Pushes a character into the terminal's input, as if typed: a way out of the sandbox.
const TIOCSTI: u64 = 0x5412;
/// Selects and pastes on a virtual console; the same danger.
const TIOCLINUX: u64 = 0x541c;

fn calls() -> Result<Calls, SandboxError> {
    let kind = |kind| Argument::Has(1, IOCTL_TYPE, kind);
    Calls::with_any_arguments(ALLOWED)
        .with_threads()?
        .with(
            libc::SYS_ioctl,
            &[
                &[kind(KVM_IOCTLS)],
                &[kind(EXIT_REPORT_IOCTLS)],
                &[
                    kind(TUN_AND_TERMINAL_IOCTLS),
                    Argument::IsNot(1, TIOCSTI),
                    Argument::IsNot(1, TIOCLINUX),
                ],
            ],
        )?
        .with(
            libc::SYS_prctl,
            // The last is asked by the second call of no_new_privs and by thread start-up code.
            &[libc::PR_SET_NAME, libc::PR_SET_VMA, libc::PR_SET_TIMERSLACK, libc::PR_GET_NAME]
                .map(|option| [Argument::Is(0, option as u64)])
                .each_ref()
                .map(|choice| &choice[..]),
        )?
        .with(libc::SYS_socketpair, &[&[Argument::Is(0, libc::AF_UNIX as u64)]])
}

fn program(denied: Denied) -> Result<BpfProgram, SandboxError> {
    calls()?.filter(match denied {
        Denied::Fatal | Denied::Off => Action::Trap,
        Denied::Logged => Action::Log,
    })
}

fn restrict_calls(denied: Denied) -> Result<(), MachineError> {
    for filter in [without_clone3(), program(denied)] {
        let filter = filter.map_err(refused)?;
        seccompiler::apply_filter_all_threads(&filter)
            .map_err(|e| refused(format!("seccomp: {e}")))?;
    }
    Ok(())
}

/// What the vsock broker may do: one thing.
pub(super) struct BrokerWalls {
    /// No file can be opened, only named; `None` on a kernel without landlock.
    pub(super) files: Option<OwnedFd>,
    /// The system calls of a connection.
    pub(super) calls: BpfProgram,
}

/// The broker's walls, made where memory may be had.
pub(super) fn broker_walls() -> Result<BrokerWalls, MachineError> {
    const CALLS: &[libc::c_long] = &[
        libc::SYS_close,
        libc::SYS_connect,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // The standard library's debug build looks at a descriptor before it closes it.
        libc::SYS_fcntl,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_openat,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigreturn,
        libc::SYS_sendmsg,
    ];
    let walls = || {
        Ok::<_, SandboxError>(BrokerWalls {
            files: Files::none(false)?.into_descriptor(),
            calls: Calls::with_any_arguments(CALLS)
                .with(libc::SYS_socket, &[&[Argument::Is(0, libc::AF_UNIX as u64)]])?
                .filter(Action::KillProcess)?,
        })
    };
    walls().map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use landlock::{ABI, Access, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::path::Path;
    use std::sync::Barrier;

    #[test]
    fn the_filter_is_small_enough_for_the_kernel_and_has_no_call_twice() {
        // BPF_MAXINSNS.
        assert!(program(Denied::Fatal).unwrap().len() <= 4096);
        let mut sorted = ALLOWED.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ALLOWED.len());
        let calls = calls().unwrap();
        for never in [
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_ptrace,
            libc::SYS_kill,
            libc::SYS_mount,
            libc::SYS_socket,
        ] {
            assert!(!calls.has(never));
        }
    }

    const CHILD: &str = "SANDBOX_TEST_FOLDER";

    /// Runs this test program again, with only the test `name`, in a sandbox that reaches `folder`.
    fn run_inside(name: &str, folder: &Path) -> std::process::Output {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("process::sandbox::tests::{name}")])
            .env(CHILD, folder)
            .output()
            .unwrap()
    }

    /// The folder, when this is the program that [`run_inside`] started.
    fn child() -> Option<PathBuf> {
        std::env::var_os(CHILD).map(PathBuf::from)
    }

    /// The folder, as [`child`]; then the sandbox is closed.
    fn inside() -> Option<PathBuf> {
        let folder = child()?;
        close_around(&folder, Denied::Fatal);
        Some(folder)
    }

    fn close_around(folder: &Path, denied: Denied) {
        let log = std::fs::File::create(folder.join("log")).unwrap();
        super::super::last_words::prepare(log.into(), &folder.join("exit.json")).unwrap();
        let reach = Reach { own: vec![folder.to_owned()], ..Reach::default() };
        close(&reach, denied).unwrap();
    }

    /// What the exit record of a process says that the sandbox ended.
    fn last_words(folder: &Path) -> String {
        let record = std::fs::read(folder.join("exit.json")).unwrap();
        let record: vm_control::ExitRecord = serde_json::from_slice(&record).unwrap();
        match record.ending {
            vm_control::Ending::Failed { message } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_socket_made_before_connects_nowhere_and_the_call_is_named() {
        let name = "a_socket_made_before_connects_nowhere_and_the_call_is_named";
        if let Some(folder) = child() {
            let _listener = UnixListener::bind(folder.join("socket")).unwrap();
            let (kind, family) = (SocketType::STREAM, AddressFamily::UNIX);
            let socket = rustix::net::socket(family, kind, None).unwrap();
            close_around(&folder, Denied::Fatal);
            let address = SocketAddrUnix::new(folder.join("socket")).unwrap();
            let _ = rustix::net::connect(&socket, &address);
            std::process::exit(99);
        }
        let folder = tempfile::tempdir().unwrap();
        let output = run_inside(name, folder.path());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let message = last_words(folder.path());
        assert!(message.starts_with("system call connect "), "{message}");
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(log.trim_end(), message);
    }

    #[test]
    fn no_new_socket_is_made_and_no_file_brought_into_the_folders_of_the_vm() {
        let name = "no_new_socket_is_made_and_no_file_brought_into_the_folders_of_the_vm";
        if let Some(folder) = child() {
            let (own, share) = (folder.join("own"), folder.join("share"));
            let log = std::fs::File::create(own.join("log")).unwrap();
            super::super::last_words::prepare(log.into(), &own.join("exit.json")).unwrap();
            let reach = Reach {
                own: vec![own.clone()],
                writable: vec![share.clone()],
                readable: Vec::new(),
            };
            close(&reach, Denied::Fatal).unwrap();
            let link = |from: PathBuf, to: PathBuf| {
                rustix::fs::link(from, to).map_or_else(|e| e.raw_os_error(), |()| 0)
            };
            std::fs::write(own.join("file"), "").unwrap();
            let facts = [
                link(share.join("socket"), own.join("vsock.sock_1")),
                link(own.join("file"), own.join("link")),
            ];
            std::fs::write(own.join("facts"), format!("{facts:?}")).unwrap();
            let _ = UnixStream::connect(own.join("socket"));
            std::process::exit(99);
        }
        let folder = tempfile::tempdir().unwrap();
        for name in ["own", "share"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let _listener = UnixListener::bind(folder.path().join("share/socket")).unwrap();
        let output = run_inside(name, folder.path());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let message = last_words(&folder.path().join("own"));
        assert!(message.starts_with("system call socket "), "{message}");
        if !has_landlock() {
            eprintln!("SKIPPED: this kernel has no landlock");
            return;
        }
        let facts = std::fs::read_to_string(folder.path().join("own/facts")).unwrap();
        assert_eq!(facts, format!("{:?}", [libc::EXDEV, 0]));
    }

    fn has_landlock() -> bool {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(ABI::V1))
            .and_then(Ruleset::create)
            .is_ok()
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_denied_call_ends_the_process_and_is_named() {
        if inside().is_some() {
            // SAFETY: asks for a number; touches no memory.
            unsafe { libc::syscall(libc::SYS_getpriority, 0, 0) };
            std::process::exit(99);
        }
        let folder = tempfile::tempdir().unwrap();
        let output = run_inside("a_denied_call_ends_the_process_and_is_named", folder.path());
        assert_eq!(output.status.code(), Some(1));
        let message = last_words(folder.path());
        assert!(message.starts_with("system call getpriority "), "{message}");
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(log.trim_end(), message);
    }

    #[test]
    fn only_the_folders_of_the_vm_are_in_reach() {
        if let Some(folder) = child() {
            let closed = Barrier::new(2);
            let read = || std::fs::read("/etc/passwd").map_err(|e| e.kind());
            std::thread::scope(|scope| {
                // Of a thread made before, and of one that such a thread makes later, as devices'
                // workers are.
                let before = scope.spawn(|| {
                    closed.wait();
                    (read(), std::thread::scope(|it| it.spawn(read).join()))
                });
                close_around(&folder, Denied::Fatal);
                closed.wait();
                let outside = format!("{:?} {:?}", read(), before.join().unwrap());
                std::fs::write(folder.join("own"), "fine").unwrap();
                std::fs::write(folder.join("outside"), outside).unwrap();
            });
            std::process::exit(0);
        }
        if !has_landlock() {
            eprintln!("SKIPPED: this kernel has no landlock");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let output = run_inside("only_the_folders_of_the_vm_are_in_reach", folder.path());
        assert!(output.status.success(), "{output:?}");
        let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("own"), "fine");
        let denied = "Err(PermissionDenied)";
        assert_eq!(read("outside"), format!("{denied} ({denied}, Ok({denied}))"));
    }

    #[test]
    fn sockets_without_a_file_are_out_of_reach() {
        let address = |folder: &Path| {
            SocketAddr::from_abstract_name(folder.as_os_str().as_encoded_bytes()).unwrap()
        };
        if let Some(folder) = child() {
            // Also where system calls are let through for diagnosis.
            close_around(&folder, Denied::Off);
            let connected = UnixStream::connect_addr(&address(&folder)).map_err(|e| e.kind());
            std::fs::write(folder.join("connected"), format!("{connected:?}")).unwrap();
            std::process::exit(0);
        }
        if Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .scope(Scope::AbstractUnixSocket)
            .and_then(Ruleset::create)
            .is_err()
        {
            eprintln!("SKIPPED: this kernel's landlock knows no sockets");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind_addr(&address(folder.path())).unwrap();
        let output = run_inside("sockets_without_a_file_are_out_of_reach", folder.path());
        assert!(output.status.success(), "{output:?}");
        let connected = std::fs::read_to_string(folder.path().join("connected")).unwrap();
        assert_eq!(connected, "Err(PermissionDenied)");
    }

    #[test]
    #[allow(unsafe_code)]
    fn threads_can_be_made_and_no_process_and_no_other_process_can_be_signalled() {
        if let Some(folder) = inside() {
            std::thread::spawn(|| {}).join().unwrap();
            // SAFETY: no arguments; the call fails before it looks for any.
            let made = unsafe { libc::syscall(libc::SYS_clone3, 0, 0) };
            let error = std::io::Error::last_os_error().raw_os_error();
            // SAFETY: signal 0 only asks whether the thread is there.
            let ask =
                |process: u32| unsafe { libc::syscall(libc::SYS_tgkill, process, process, 0) };
            let own = ask(std::process::id());
            let facts = format!("{made} {error:?} {own}");
            std::fs::write(folder.join("facts"), facts).unwrap();
            ask(1);
            std::process::exit(99);
        }
        let folder = tempfile::tempdir().unwrap();
        let name = "threads_can_be_made_and_no_process_and_no_other_process_can_be_signalled";
        let output = run_inside(name, folder.path());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("facts"), format!("-1 {:?} 0", Some(libc::ENOSYS)));
        assert!(read("log").starts_with("system call tgkill "));
    }
}
