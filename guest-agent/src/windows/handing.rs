//! Handing window memory to the session's agent. Only root may open the device, so the system agent does, and
//! gives it to one user: pixels of that user's windows are nobody else's to see.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::net::UnixListener;

/// Where the system agent listens.
pub const SOCKET: &str = "/run/macrohard-guest-windows.sock";
/// Where the kernel shows PCI devices.
pub const DEVICES: &str = "/sys/bus/pci/devices";

/// Vendor and device of the memory (QEMU, docs/specs/ivshmem-spec.rst).
const VENDOR: u32 = 0x1af4;
const DEVICE: u32 = 0x1110;
/// Its memory, the kernel's mapping with write combining first.
const RESOURCES: [&str; 2] = ["resource2_wc", "resource2"];
/// How long the system agent may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What comes with the descriptor.
const GIVEN: u8 = b'+';
/// There is none, or it is another user's.
const REFUSED: u8 = b'-';

/// The file of the memory of this machine's device, if it has one.
#[must_use]
pub fn device(devices: &Path) -> Option<PathBuf> {
    let number = |path: PathBuf| {
        let text = std::fs::read_to_string(path).ok()?;
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(devices)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            number(path.join("vendor")) == Some(VENDOR)
                && number(path.join("device")) == Some(DEVICE)
        })
        .collect();
    found.sort();
    let resources = RESOURCES.iter().map(|name| found.first().map(|path| path.join(name)));
    resources.flatten().find(|path| path.exists())
}

/// Opens a file as window memory.
///
/// # Errors
/// It cannot be opened for reading and writing.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Gives the memory to the first user who asks, and to that one again, for ever.
pub async fn give(listener: UnixListener, memory: Option<PathBuf>) {
    let mut holder = None;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a session agent");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Ok(user) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
        let memory = memory.as_deref().filter(|_| *holder.get_or_insert(user) == user);
        if memory.is_none() {
            tracing::info!(user, "no window memory for this user");
        }
        let given = memory.map(open).transpose().and_then(|file| answer(&stream, file.as_ref()));
        if let Err(error) = given {
            tracing::warn!(%error, user, "window memory is not given");
        }
    }
}

/// One byte fits into any socket's buffer: nobody can hold this up.
fn answer(stream: &tokio::net::UnixStream, memory: Option<&File>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = memory.map(|memory| [memory.as_fd()]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let byte = [if memory.is_some() { GIVEN } else { REFUSED }];
    sendmsg(stream, &[IoSlice::new(&byte)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Asks for the memory. None: there is none, or it is another user's.
///
/// # Errors
/// No system agent answers.
pub async fn ask(path: &Path) -> io::Result<Option<OwnedFd>> {
    let stream = tokio::net::UnixStream::connect(path).await?;
    let asked = async {
        loop {
            stream.readable().await?;
            let taken = stream.try_io(tokio::io::Interest::READABLE, || take(&stream));
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => return taken,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn take(stream: &tokio::net::UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    let got = recvmsg(stream, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(descriptors.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(folder: &Path) -> PathBuf {
        let devices = folder.join("devices");
        for (name, vendor, device) in
            [("0000:00:01.0", "0x1af4\n", "0x1041\n"), ("0000:00:02.0", "0x1af4\n", "0x1110\n")]
        {
            let path = devices.join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("vendor"), vendor).unwrap();
            std::fs::write(path.join("device"), device).unwrap();
            std::fs::write(path.join("resource2"), name).unwrap();
        }
        devices
    }

    #[test]
    fn the_device_is_found_by_its_ids() {
        let folder = tempfile::tempdir().unwrap();
        let devices = machine(folder.path());
        let memory = devices.join("0000:00:02.0");
        assert_eq!(device(&devices), Some(memory.join("resource2")));
        std::fs::write(memory.join("resource2_wc"), "").unwrap();
        assert_eq!(device(&devices), Some(memory.join("resource2_wc")));
        std::fs::remove_dir_all(memory).unwrap();
        assert_eq!(device(&devices), None);
        assert_eq!(device(&folder.path().join("none")), None);
    }

    #[tokio::test]
    async fn a_user_gets_the_memory_or_hears_that_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let memory = device(&machine(folder.path()));
        for memory in [memory, None] {
            let path = folder.path().join("socket");
            let listener = crate::proofs::listen(&path).unwrap();
            let giving = tokio::spawn(give(listener, memory.clone()));
            for _ in 0..2 {
                let given = ask(&path).await.unwrap();
                assert_eq!(given.is_some(), memory.is_some());
                if let Some(given) = given {
                    let text = std::io::read_to_string(File::from(given)).unwrap();
                    assert_eq!(text, "0000:00:02.0");
                }
            }
            giving.abort();
        }
    }
}
