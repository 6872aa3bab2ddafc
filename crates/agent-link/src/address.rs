//! Where an agent finds its host.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::{PORT, serial};

/// Any stream of bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection of whatever kind.
pub type BoxStream = Pin<Box<dyn Stream>>;

/// The context id of the host, always (vsock(7)).
const HOST: u32 = 2;

/// The virtio-serial port of a VM that leads to its host, by its name in the guest.
const SERIAL: &str = "/dev/virtio-ports/org.macrohard.agent";
/// What a guest with a driver for vsock has, with a device or without.
const VSOCK: &str = "/dev/vsock";
/// Devices of a VM, and the type of its vsock device (virtio 1.2, 5.10) as each says its own.
const DEVICES: &str = "/sys/bus/virtio/devices";
const VSOCK_DEVICE: &str = "0x0013";

/// `vsock` or `vsock:CID:PORT`, `serial` or `serial:PATH`, `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A vsock port of the machine with this context id.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// A virtio-serial port, for guests without vsock.
    Serial(PathBuf),
    /// A Unix socket, where agent and host run on one machine.
    Unix(PathBuf),
}

/// The text is none of the forms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address is {0:?}; allowed: vsock, vsock:CID:PORT, serial, serial:PATH, unix:PATH")]
pub struct AddressError(String);

impl Default for Address {
    fn default() -> Self {
        Self::Vsock { cid: HOST, port: PORT }
    }
}

impl Address {
    /// The way that this guest has: vsock, or a serial port where there is no vsock.
    #[must_use]
    pub fn of_this_guest() -> Self {
        let vsock = Path::new(VSOCK).exists() && has_vsock_device(Path::new(DEVICES));
        match !vsock && Path::new(SERIAL).exists() {
            true => Self::Serial(SERIAL.into()),
            false => Self::default(),
        }
    }

    /// Makes a connection.
    ///
    /// # Errors
    /// Nobody listens there, or this machine has no vsock.
    pub async fn connect(&self) -> io::Result<BoxStream> {
        Ok(match self {
            Self::Vsock { cid, port } => {
                Box::pin(VsockStream::connect(VsockAddr::new(*cid, *port)).await?)
            }
            Self::Serial(path) => Box::pin(serial::port::connect(path).await?),
            Self::Unix(path) => Box::pin(UnixStream::connect(path).await?),
        })
    }
}

fn has_vsock_device(devices: &Path) -> bool {
    let is_vsock = |device: PathBuf| {
        std::fs::read_to_string(device.join("device")).is_ok_and(|id| id.trim() == VSOCK_DEVICE)
    };
    std::fs::read_dir(devices)
        .is_ok_and(|devices| devices.flatten().any(|device| is_vsock(device.path())))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Serial(path) => write!(f, "serial:{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        match text.split_once(':') {
            None if text == "vsock" => Ok(Self::default()),
            None if text == "serial" => Ok(Self::Serial(SERIAL.into())),
            Some(("serial", path)) if !path.is_empty() => Ok(Self::Serial(path.into())),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("vsock", rest)) => {
                let (cid, port) = rest.split_once(':').ok_or_else(wrong)?;
                let number = |digits: &str| digits.parse().map_err(|_| wrong());
                Ok(Self::Vsock { cid: number(cid)?, port: number(port)? })
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_without_a_device_is_no_vsock() {
        let devices = tempfile::tempdir().unwrap();
        assert!(!has_vsock_device(&devices.path().join("none")));
        for (name, id) in [("virtio0", "0x0003\n"), ("virtio1", "0x0004\n")] {
            std::fs::create_dir(devices.path().join(name)).unwrap();
            std::fs::write(devices.path().join(name).join("device"), id).unwrap();
        }
        assert!(!has_vsock_device(devices.path()));
        std::fs::write(devices.path().join("virtio0/device"), "0x0013\n").unwrap();
        assert!(has_vsock_device(devices.path()));
    }

    #[test]
    fn addresses_come_back_from_their_text() {
        for text in ["vsock:2:19784", "vsock:1:5", "unix:/run/x y", "serial:/dev/x"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("vsock".parse(), Ok(Address::default()));
        assert_eq!("serial".parse(), Ok(Address::Serial(SERIAL.into())));
        for wrong in [
            "",
            "vsock:",
            "vsock:2",
            "vsock:a:1",
            "unix:",
            "serial:",
            "tcp:1:2",
            "vsock:2:4294967296",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
