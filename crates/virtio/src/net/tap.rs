//! A tap interface of the host (Linux `Documentation/networking/tuntap.rst`). Its frames carry the
//! same header as the guest's, so they go straight between the kernel and guest memory, and the
//! kernel computes checksums and segments.
#![allow(unsafe_code)]

use super::backend::{Backend, Frame, LinkDown, Next, Offloads, Sent};
use super::header::{HEADER_BYTES, LONGEST_FRAME};
use crate::scatter::{MAX_ENTRIES, Readable, Writable};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A tap interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel knows no such name.
    #[error("tap {name:?}: an interface's name has 1 to 15 bytes, none of them '/', ':' or blank")]
    Name {
        /// The name given.
        name: String,
    },
    /// The system refused.
    #[error("tap {name}: cannot {tried}: {error}{hint}")]
    System {
        /// The interface.
        name: String,
        /// What was being done.
        tried: &'static str,
        /// What the system said.
        error: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
}

/// A frame without segmentation at the usual MTU, with its header.
const USUAL: usize = HEADER_BYTES + 18 + 1500;

/// The interface, attached.
pub struct Tap {
    device: OwnedFd,
    name: String,
    mtu: Option<u16>,
    /// How long recent frames were.
    estimate: usize,
    /// Takes the end of a frame longer than the guest's buffers.
    overflow: Vec<u8>,
}

impl Tap {
    /// Attaches to the interface `name`, which is made when it does not exist and the process may
    /// do so, and brings it up if it may.
    ///
    /// # Errors
    /// No permission, the interface is in use, or the kernel has no tap device.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let system = |tried, hint| {
            let name = name.to_owned();
            move |error: io::Error| TapError::System { name, tried, error, hint }
        };
        let mut request = Request::new(name)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(io::Error::from)
            .map_err(system("open /dev/net/tun", "; is the module tun loaded?"))?;
        let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.set_flags(kind);
        let attached = request.control(&device, libc::TUNSETIFF).or_else(|_| {
            // An interface made for several queues takes only those who ask for one of them.
            request.set_flags(kind | libc::IFF_MULTI_QUEUE);
            request.control(&device, libc::TUNSETIFF)
        });
        attached.map_err(system(
            "attach to it",
            "; create it for this user with `ip tuntap add mode tap user NAME name INTERFACE`, \
             and check that no other VM uses it",
        ))?;
        let header = HEADER_BYTES as libc::c_int;
        control(&device, libc::TUNSETVNETHDRSZ, Argument::In(&header))
            .map_err(system("set its header's length", ""))?;
        let mut tap = Self {
            device,
            name: name.to_owned(),
            mtu: None,
            estimate: USUAL,
            overflow: Vec::new(),
        };
        tap.set_offloads(Offloads::default()).map_err(system("switch its offloads off", ""))?;
        tap.bring_up();
        Ok(tap)
    }

    /// Looks at the interface: is it up, and which MTU has it? Failures leave a frame-less cable or
    /// the guest's own MTU, nothing worse, so they are only told.
    fn bring_up(&mut self) {
        let Ok(mut request) = Request::new(&self.name) else {
            return;
        };
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        );
        let Ok(socket) = socket else { return };
        if request.control(&socket, libc::SIOCGIFFLAGS).is_ok() {
            let flags = request.flags();
            if flags & libc::IFF_UP == 0 {
                request.set_flags(flags | libc::IFF_UP);
                if let Err(error) = request.control(&socket, libc::SIOCSIFFLAGS) {
                    tracing::warn!(
                        interface = self.name, %error,
                        "the interface is down; bring it up with `ip link set {} up`", self.name
                    );
                }
            }
        }
        if request.control(&socket, libc::SIOCGIFMTU).is_ok() {
            // The guest has its own way to 1500, and less than 1280 forbids IPv6 (RFC 8200, 5).
            self.mtu = u16::try_from(request.mtu()).ok().filter(|&mtu| mtu != 1500 && mtu >= 1280);
        }
    }

    /// The interface is gone, or was taken down, or the kernel does not like the frame.
    fn judge(&self, tried: &str, error: &io::Error) -> Result<(), LinkDown> {
        match error.raw_os_error() {
            Some(libc::EBADFD | libc::ENODEV | libc::ENXIO) => {
                Err(LinkDown { reason: format!("{tried} interface {} failed: {error}", self.name) })
            }
            _ => Ok(()),
        }
    }
}

impl From<Tap> for OwnedFd {
    /// For whoever moves the frames instead.
    fn from(tap: Tap) -> Self {
        tap.device
    }
}

impl Backend for Tap {
    fn describe(&self) -> String {
        format!("tap {}", self.name)
    }

    fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    fn offloads(&self) -> bool {
        true
    }

    fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        let mut flags = 0;
        if offloads.checksum {
            flags |= libc::TUN_F_CSUM;
            // The kernel takes the others only together with the checksum.
            for (wanted, flag) in [
                (offloads.tso4, libc::TUN_F_TSO4),
                (offloads.tso6, libc::TUN_F_TSO6),
                (offloads.ecn, libc::TUN_F_TSO_ECN),
            ] {
                if wanted {
                    flags |= flag;
                }
            }
        }
        control(&self.device, libc::TUNSETOFFLOAD, Argument::Value(flags))
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn send(&mut self, frames: &[Frame<'_>]) -> Result<Sent, LinkDown> {
        let mut done = Sent::default();
        for frame in frames {
            let mut list = Readable::with_room(1 + frame.data.pieces());
            list.push_bytes(&frame.header);
            list.append(&frame.data);
            match list.write_to(self.device.as_fd()) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    done.pending = true;
                    return Ok(done);
                }
                Err(error) => {
                    self.judge("writing to", &error)?;
                    done.refused += 1;
                }
            }
            done.taken += 1;
        }
        Ok(done)
    }

    fn next(&mut self) -> Result<Next, LinkDown> {
        // To look costs less than to gather room for a long frame in vain.
        if self.estimate > USUAL {
            let mut device = [PollFd::new(&self.device, PollFlags::IN)];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            // A failure is the next read's as well, and that tells it.
            if poll(&mut device, Some(&at_once)) == Ok(0) {
                return Ok(Next::Nothing);
            }
        }
        Ok(Next::Unknown(self.estimate))
    }

    fn receive(&mut self, room: &mut Writable<'_>, rest: &mut Vec<u8>) -> Result<usize, LinkDown> {
        let longest = HEADER_BYTES + LONGEST_FRAME;
        let mut list = Writable::with_room(1 + room.pieces());
        list.append(room);
        // One more follows, and one call must take them all.
        list.limit_pieces(MAX_ENTRIES - 1);
        let fit = list.len();
        // Made once: filling it with zeroes costs as much as a frame.
        self.overflow.resize(longest, 0);
        let beyond = longest.saturating_sub(fit);
        list.push_bytes(&mut self.overflow[..beyond]);
        let count = match list.read_from(self.device.as_fd()) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.judge("reading from", &error)?;
                0
            }
        };
        rest.extend_from_slice(&self.overflow[..count.saturating_sub(fit)]);
        if count > 0 {
            // Who segments nothing sends frames of any length up to the longest. Up at once, down
            // slowly: short ones between them change little.
            let most = if count > USUAL { longest } else { USUAL };
            self.estimate = most.max(self.estimate - self.estimate / 16);
        }
        Ok(count)
    }
}

/// A request about an interface, `struct ifreq` (netdevice(7)).
struct Request(libc::ifreq);

impl Request {
    fn new(name: &str) -> Result<Self, TapError> {
        let bytes = name.as_bytes();
        let strange = |byte: &u8| matches!(byte, b'/' | b':' | 0..=b' ' | 0x7f..);
        let reserved = name == "." || name == "..";
        // A '%' would have the kernel choose a number in its place.
        if bytes.is_empty()
            || bytes.len() >= libc::IFNAMSIZ
            || reserved
            || bytes.iter().any(|byte| strange(byte) || *byte == b'%')
        {
            return Err(TapError::Name { name: name.to_owned() });
        }
        // SAFETY: all zeroes is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        Ok(Self(request))
    }

    fn flags(&self) -> libc::c_int {
        // SAFETY: every bit pattern of the union is a valid c_short, and it is never uninitialized.
        libc::c_int::from(unsafe { self.0.ifr_ifru.ifru_flags })
    }

    fn set_flags(&mut self, flags: libc::c_int) {
        // Not truncated: interface flags have 16 bits (netdevice(7)).
        self.0.ifr_ifru.ifru_flags = flags as libc::c_short;
    }

    fn mtu(&self) -> libc::c_int {
        // SAFETY: every bit pattern of the union is a valid c_int, and it is never uninitialized.
        unsafe { self.0.ifr_ifru.ifru_mtu }
    }

    fn control(&mut self, device: &OwnedFd, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: the requests used (TUNSETIFF and the SIOC*IF* ones) read and write one ifreq,
        // which is what the pointer names.
        match unsafe { libc::ioctl(device.as_raw_fd(), request, &raw mut self.0) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// How a tun request takes its number.
enum Argument<'a> {
    In(&'a libc::c_int),
    Value(libc::c_uint),
}

fn control(device: &OwnedFd, request: libc::Ioctl, argument: Argument<'_>) -> io::Result<()> {
    let device = device.as_raw_fd();
    let result = match argument {
        // SAFETY: TUNSETVNETHDRSZ reads one int through the pointer.
        Argument::In(number) => unsafe { libc::ioctl(device, request, &raw const *number) },
        // SAFETY: TUNSETOFFLOAD takes its number itself and touches no memory.
        Argument::Value(number) => unsafe {
            libc::ioctl(device, request, libc::c_ulong::from(number))
        },
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_misunderstand_are_refused() {
        for name in ["", "a/b", "a b", "..", "tap%d", "sixteen-bytes-xx", "a:1"] {
            assert!(matches!(Tap::open(name), Err(TapError::Name { .. })), "{name}");
        }
    }
}
