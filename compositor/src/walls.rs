//! The walls around the process: it starts no program and no other process, sends no signal, changes no file but
//! its drivers' caches, and reads no file of the user's but those that a program on a desktop needs.
//!
//! What drivers of graphics cards call and open nobody can list. So calls are refused that none of them makes for
//! good reason, and what is refused fails with an error that they can live with, instead of ending the process. The
//! X server is not behind these walls: who may speak with it may watch the whole desktop.
//!
//! They are closed while the process has one thread, so that every later thread has them.

use sandbox::{AccessFs, Argument, BpfProgram, Files, Refused, SandboxError, without_clone3};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Closes the walls around this thread and all it starts. A kernel without landlock is accepted with a warning in
/// the log.
///
/// # Errors
/// The kernel refuses.
pub fn close() -> Result<(), SandboxError> {
    let log = std::fs::read_link("/proc/self/fd/2").unwrap_or_default();
    let log = (log.file_name() == Some(OsStr::new(LOG))).then_some(log);
    close_around(log.as_deref().and_then(Path::parent))
}

fn close_around(log: Option<&Path>) -> Result<(), SandboxError> {
    if !files(log)?.close()? {
        tracing::warn!("this kernel has no landlock: files are reached as by any program");
    }
    for filter in calls()? {
        seccompiler::apply_filter(&filter)?;
    }
    Ok(())
}

/// The log in the VM's state folder, which is renamed and begun anew when it is full.
const LOG: &str = "compositor.log";
/// Where the system's programs, libraries, drivers and their descriptions are, and what the kernel says.
const SYSTEM: &[&str] = &[
    "/bin",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
    "/etc",
    "/gnu",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix",
    "/opt",
    "/proc",
    "/run/current-system",
    "/run/host",
    "/run/opengl-driver",
    "/run/opengl-driver-32",
    "/run/udev",
    "/snap",
    "/sys",
    "/usr",
    "/var/cache",
];
/// Cards, and memory that programs share.
const DEVICES: &[&str] = &["/dev/dri", "/dev/kfd", "/dev/null", "/dev/shm", "/dev/udmabuf"];
/// How NVIDIA's devices are named in `/dev`.
const NVIDIA: &str = "nvidia";
/// Below the user's folder: what a desktop's programs read.
const USER: &[&str] = &[
    ".XCompose",
    ".Xauthority",
    ".Xdefaults",
    ".Xresources",
    ".config/vulkan",
    ".drirc",
    ".icons",
    ".local/share/icons",
    ".local/share/vulkan",
];
/// Below the user's folder: what drivers keep.
const CACHES: &[&str] =
    &[".cache/mesa_shader_cache", ".cache/mesa_shader_cache_db", ".cache/nvidia", ".nv"];
/// Variables with files or folders that are read, some with several.
const NAMED: &[&str] = &[
    "DRIRC_CONFIGDIR",
    "LD_LIBRARY_PATH",
    "LIBGL_DRIVERS_PATH",
    "VK_ADD_DRIVER_FILES",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "VK_LAYER_PATH",
    "XAUTHORITY",
    "XCOMPOSEFILE",
    "XCURSOR_PATH",
    "XENVIRONMENT",
    "XLOCALEDIR",
    "__EGL_VENDOR_LIBRARY_DIRS",
    "__EGL_VENDOR_LIBRARY_FILENAMES",
];

fn files(log: Option<&Path>) -> Result<Files, SandboxError> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let below = |paths: &[&str]| -> Vec<PathBuf> {
        let absolute = home.is_absolute();
        paths.iter().filter(|_| absolute).map(|path| home.join(path)).collect()
    };
    let named = NAMED.iter().filter_map(std::env::var_os);
    let named: Vec<PathBuf> = named.flat_map(|value| paths(&value)).collect();
    let read = SYSTEM.iter().map(PathBuf::from).chain(below(USER)).chain(named);
    let devices = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let nvidia = devices.filter(|entry| entry.file_name().to_string_lossy().starts_with(NVIDIA));
    let write = DEVICES.iter().map(PathBuf::from).chain(below(CACHES));
    let write = write.chain(nvidia.map(|entry| entry.path()));
    let mut files = Files::none_but_sockets()?;
    for path in read {
        files = allow(files, &path, false)?;
    }
    if let Some(folder) = log {
        let renews = AccessFs::ReadDir
            | AccessFs::ReadFile
            | AccessFs::WriteFile
            | AccessFs::MakeReg
            | AccessFs::RemoveFile;
        files = files.allow(folder, renews)?;
    }
    for path in write {
        files = allow(files, &path, true)?;
    }
    Ok(files)
}

/// What is not there, or may not be opened, needs no rule.
fn allow(files: Files, path: &Path, write: bool) -> Result<Files, SandboxError> {
    use rustix::fs::{Mode, OFlags};
    let Ok(file) = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
        return Ok(files);
    };
    let folder = path.is_dir();
    let mut access = if write { Files::everything() } else { Files::reading() };
    if !folder {
        // The kernel takes no rule about what only folders have.
        access &= AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    }
    files.allow_open(file, access)
}

/// As in `$PATH`.
fn paths(value: &OsStr) -> Vec<PathBuf> {
    std::env::split_paths(value).filter(|path| path.is_absolute()).collect()
}

/// Whether the desktop may be on another machine, or a name of this one stands for it (X(7), DISPLAY NAMES).
fn far(display: &str) -> bool {
    let host = display.rsplit_once(':').map_or("", |(host, _)| host);
    !host.is_empty() && host != "unix" && !host.starts_with('/')
}

fn calls() -> Result<[BpfProgram; 2], SandboxError> {
    let display = std::env::var("DISPLAY").unwrap_or_default();
    let not = |family: libc::c_int| Argument::IsNot(0, family as u64);
    // Other machines only where the X server is on one; netlink tells of cards that come and go.
    let mut sockets = vec![not(libc::AF_UNIX), not(libc::AF_NETLINK)];
    if far(&display) {
        sockets.extend([not(libc::AF_INET), not(libc::AF_INET6)]);
    }
    let ioctl = |number: u64| Argument::Is(1, number);
    let refused = Refused::with_any_arguments(REFUSED)
        .with_processes()?
        .with(libc::SYS_socket, &[&sockets])?
        .with(libc::SYS_socketpair, &[&[not(libc::AF_UNIX)]])?
        // Types into a terminal, selects and pastes on a console: ways out.
        .with(libc::SYS_ioctl, &[&[ioctl(libc::TIOCSTI)], &[ioctl(libc::TIOCLINUX)]])?
        .with(libc::SYS_personality, &[&[Argument::IsNot(0, 0xffff_ffff)]])?;
    Ok([without_clone3()?, refused.filter()?])
}

/// Calls that are refused with any arguments.
const REFUSED: &[libc::c_long] = &[
    // other programs and processes
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_tkill,
    // other names for what there is
    libc::SYS_chroot,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // more rights
    libc::SYS_add_key,
    libc::SYS_capset,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
    // large parts of the kernel that nobody here needs
    libc::SYS_bpf,
    libc::SYS_fanotify_init,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_lookup_dcookie,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // the machine
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_modify_ldt,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_filters_are_small_enough_for_the_kernel_and_have_no_call_twice() {
        // BPF_MAXINSNS.
        assert!(calls().unwrap().iter().all(|filter| filter.len() <= 4096));
        let mut sorted = REFUSED.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), REFUSED.len());
    }

    #[test]
    fn a_display_is_far_where_it_has_a_host() {
        for near in ["", ":0", ":5.1", "unix:0", "/tmp/launch/org.xquartz:0"] {
            assert!(!far(near), "{near}");
        }
        for away in ["localhost:10.0", "example.org:0", "[::1]:2"] {
            assert!(far(away), "{away}");
        }
    }

    #[test]
    fn behind_the_walls_there_is_this_process_alone() {
        let folder = tempfile::tempdir().unwrap();
        let private = folder.path().join("private");
        let state = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(&private, "secret").unwrap();
        std::fs::write(state.join(LOG), "full").unwrap();
        // The walls are around this thread alone.
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                close_around(Some(&state)).unwrap();
                let thread = std::thread::spawn(|| 7).join().unwrap();
                assert_eq!(thread, 7);
                UnixStream::pair().unwrap();
                let denied = |result: std::io::Result<()>, what: &str| {
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied, "{what}");
                };
                denied(std::process::Command::new("/bin/true").status().map(drop), "a program");
                denied(std::net::TcpListener::bind("127.0.0.1:0").map(drop), "the network");
                let parent = rustix::process::getppid().unwrap();
                let signal = rustix::process::test_kill_process(parent);
                denied(signal.map_err(Into::into), "a signal");
                assert!(std::fs::read_dir("/usr").is_ok());
                // A log that is full.
                std::fs::rename(state.join(LOG), state.join("compositor.log.1")).unwrap();
                std::fs::write(state.join(LOG), "begun anew").unwrap();
                if Files::none_but_sockets().unwrap().into_descriptor().is_none() {
                    println!("SKIPPED: landlock, which this kernel lacks");
                    return;
                }
                denied(std::fs::read(&private).map(drop), "a file of the user's");
                denied(std::fs::write(&private, "x"), "the same");
                denied(std::fs::write(folder.path().join("new"), "x"), "a new file");
            });
            inside.join().unwrap();
        });
    }
}
