//! The whole number a child leaves with. The kernel tells a parent eight bits of it (wait(2)),
//! QEMU's `isa-debug-exit` uses nine. So the child asks us, by a seccomp filter that reports to a
//! descriptor, before it leaves with a number of more than eight (seccomp_unotify(2)); it always may.

use rustix::io::Errno;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Offsets in `struct seccomp_data` (linux/seccomp.h): the call's number, and the lower half of its
/// first argument on a little-endian machine.
const NUMBER: u32 = 0;
const ARGUMENT: u32 = 16;
/// What `wait` does not tell; only bits 0 to 8 are used.
const BEYOND: u32 = 0x100;
/// Room for a control message with one descriptor, aligned as `cmsghdr`.
type Control = [u64; 4];

/// Reports that come from one child.
pub(super) struct ExitReports(OwnedFd);

/// In the child, between fork and exec: asks for reports and sends their descriptor to `parent`.
/// Makes only async-signal-safe calls. A kernel that has no such filters (before Linux 5.5) leaves
/// the child as it is.
pub(super) fn report_to(parent: RawFd) -> io::Result<()> {
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |test: u32, k, jf| libc::sock_filter {
        code: (libc::BPF_JMP | test | libc::BPF_K) as u16,
        jt: 0,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let mut filter = [
        statement(load, NUMBER),
        jump(libc::BPF_JEQ, libc::SYS_exit_group as u32, 3),
        statement(load, ARGUMENT),
        jump(libc::BPF_JSET, BEYOND, 1),
        statement(libc::BPF_RET, libc::SECCOMP_RET_USER_NOTIF),
        statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program describes the array above, which outlives the call; the new descriptor
    // is closed at exec.
    let reports = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if reports < 0 {
        return Ok(());
    }
    send(parent, reports as RawFd)
}

fn send(socket: RawFd, descriptor: RawFd) -> io::Result<()> {
    let mut byte = 0u8;
    let mut control: Control = [0; 4];
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: the message names buffers that outlive the call; the control buffer has room for the
    // one header and the one descriptor that are written (cmsg(3)).
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor);
        if libc::sendmsg(socket, &raw const message, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

impl ExitReports {
    /// What the child sent to the other end of `socket`; `None` when its kernel gives no reports.
    pub(super) fn receive(socket: &UnixStream) -> Option<Self> {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut parts = [io::IoSliceMut::new(&mut byte)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(socket, &mut parts, &mut control, flags).ok()?;
        let reports = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })?;
        Some(Self(reports))
    }

    /// Takes the report that waits, and lets the child go on leaving. `None` when there was none
    /// after all: the child may be killed meanwhile.
    pub(super) fn take(&self) -> Option<i32> {
        // SAFETY: all-zero structures are valid, and the requests read and write them.
        unsafe {
            let mut report: libc::seccomp_notif = zeroed();
            let mut answer: libc::seccomp_notif_resp = zeroed();
            self.ioctl(libc::SECCOMP_IOCTL_NOTIF_RECV, (&raw mut report).cast()).ok()?;
            answer.id = report.id;
            answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
            self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SEND, (&raw mut answer).cast()).ok()?;
            // The register's lower half is the int that the child gave to exit.
            Some(report.data.args[0] as i32)
        }
    }

    /// # Safety
    /// `argument` points to the structure that `request` reads and writes.
    unsafe fn ioctl(&self, request: libc::Ioctl, argument: *mut libc::c_void) -> Result<(), Errno> {
        // SAFETY: promised by the caller; the descriptor is open.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) } {
            0 => Ok(()),
            _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }
}

impl AsFd for ExitReports {
    /// Readable when [`ExitReports::take`] has something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
