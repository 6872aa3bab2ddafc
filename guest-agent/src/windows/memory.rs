//! Window memory: the PCI device whose memory the host maps, too. Only root may open it, and the agents of
//! sessions are not root: the system agent opens it for them.
//!
//! One user at a time has it, for whoever has it sees the windows of all who draw in it. A user has it as long
//! as a connection to the system agent is held ([`Given`]); programs of the same user share it. The system's
//! own accounts get none.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use passing::Passing;
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;

/// Where the system agent listens.
pub const SOCKET: &str = "/run/macrohard-guest-windows.sock";
/// Where the kernel shows PCI devices (Documentation/ABI/testing/sysfs-bus-pci).
const DEVICES: &str = "/sys/bus/pci/devices";

/// The device's ids: those of ivshmem-plain (QEMU docs/specs/ivshmem-spec).
const VENDOR: u32 = 0x1af4;
const DEVICE: u32 = 0x1110;
/// A RAM controller, and the revision since which BAR 2 is memory alone.
const CLASS: u32 = 0x05_00_00;
const REVISION: u32 = 1;

/// The first number of people's accounts (login.defs(5), `UID_MIN`).
pub(super) const FIRST_PERSON: u32 = 1000;
/// Connections held by one user at once.
const MOST_HELD: usize = 8;
/// How long the system agent may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the system agent says before it gives the memory; what else it says is why it does not.
const HERE: &[u8] = b"here\n";
/// Most bytes it says.
const MOST_SAID: u64 = 200;

/// Window memory, as long as this lives.
#[derive(Debug)]
pub struct Given {
    /// The memory, to be mapped shared. Its length is the file's (`fstat`).
    pub memory: OwnedFd,
    /// Dropped, another user may have the memory.
    _held: UnixStream,
}

/// Asks the system agent at `socket` for this machine's window memory.
///
/// # Errors
/// There is no system agent, no such device, or another user has it.
pub fn open(socket: &Path) -> io::Result<Given> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let held = stream.try_clone()?;
    let mut passing = Passing::new(stream);
    let mut said = Vec::new();
    while said.last() != Some(&b'\n') {
        let before = said.len();
        // Byte by byte: the other side keeps the connection open behind its line.
        passing.by_ref().take(1).read_to_end(&mut said)?;
        if said.len() == before || said.len() as u64 > MOST_SAID {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    match passing.take_descriptor() {
        Some(memory) if said == HERE => Ok(Given { memory, _held: held }),
        _ => Err(io::Error::other(String::from_utf8_lossy(&said).trim_end().to_owned())),
    }
}

/// The device's memory, opened by root. Switches the device on where nobody has.
///
/// # Errors
/// There is no such device, or it cannot be opened.
pub fn of_this_machine() -> io::Result<File> {
    find(Path::new(DEVICES))
}

fn find(devices: &Path) -> io::Result<File> {
    let mut found: Vec<_> = std::fs::read_dir(devices)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|device| {
            let is = |file, expected| number(&device.join(file)) == Some(expected);
            is("vendor", VENDOR)
                && is("device", DEVICE)
                && is("class", CLASS)
                && is("revision", REVISION)
        })
        .collect();
    // The one that the VM itself has; one that a person added comes behind it.
    found.sort();
    let Some(device) = found.first() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "this machine has no window memory"));
    };
    // Without a driver nobody has told the device to answer.
    let enable = device.join("enable");
    if std::fs::read_to_string(&enable).is_ok_and(|state| state.trim() == "0") {
        std::fs::write(&enable, "1")?;
    }
    let open = |name| OpenOptions::new().read(true).write(true).open(device.join(name));
    // Processors of AMD apply the guest's memory type to it: write-combining is what is written fast there.
    open("resource2_wc").or_else(|_| open("resource2"))
}

/// A number as sysfs writes it: `0x1af4`.
fn number(file: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(file).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// Who has the memory now.
#[derive(Debug, Default)]
struct Holder {
    user: u32,
    connections: usize,
}

/// One connection of its holder.
struct Held(Arc<Mutex<Holder>>);

impl Held {
    fn take(holder: &Arc<Mutex<Holder>>, user: u32) -> Result<Self, &'static str> {
        if user != 0 && user < FIRST_PERSON {
            return Err("the system's accounts have no windows");
        }
        let mut now = holder.lock().unwrap_or_else(PoisonError::into_inner);
        match now.connections {
            0 => now.user = user,
            _ if now.user != user => return Err("another user has the window memory"),
            MOST_HELD.. => return Err("too many programs hold the window memory"),
            _ => {}
        }
        now.connections += 1;
        drop(now);
        Ok(Self(Arc::clone(holder)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).connections -= 1;
    }
}

/// Gives the memory to those who ask, for ever. `find` finds it ([`of_this_machine`]).
pub async fn give(listener: UnixListener, find: impl Fn() -> io::Result<File>) {
    let holder = Arc::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(user) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
                let given = Held::take(&holder, user).map_err(io::Error::other);
                let given = given.and_then(|held| Ok((held, find()?)));
                if let Err(error) = &given {
                    tracing::info!(user, %error, "no window memory for a user");
                }
                match answer(stream, given.as_ref().map(|(_, memory)| memory)) {
                    Ok(mut stream) => {
                        if let Ok((held, _)) = given {
                            tokio::spawn(async move {
                                // Until it is closed; what comes before counts for nothing.
                                while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {
                                }
                                drop(held);
                            });
                        }
                    }
                    Err(error) => tracing::debug!(%error, "a session agent asked and went away"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a session agent");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// A line that fits into any socket's buffer.
fn answer(
    stream: tokio::net::UnixStream,
    given: Result<&File, &io::Error>,
) -> io::Result<tokio::net::UnixStream> {
    let stream = stream.into_std()?;
    match given {
        Ok(memory) => passing::send(&stream, HERE, &[memory.as_fd()])?,
        Err(error) => passing::send(&stream, format!("{error}\n").as_bytes(), &[])?,
    }
    tokio::net::UnixStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proofs::listen;
    use std::io::{Seek, Write};
    use std::path::PathBuf;

    /// A tree as the kernel shows it, with one device of these ids.
    fn device(root: &Path, address: &str, ids: [&str; 4], enabled: &str) -> PathBuf {
        let device = root.join(address);
        std::fs::create_dir(&device).unwrap();
        for (name, id) in ["vendor", "device", "class", "revision"].into_iter().zip(ids) {
            std::fs::write(device.join(name), format!("{id}\n")).unwrap();
        }
        std::fs::write(device.join("enable"), enabled).unwrap();
        std::fs::write(device.join("resource2"), address).unwrap();
        device
    }

    const IDS: [&str; 4] = ["0x1af4", "0x1110", "0x050000", "0x01"];

    fn content(mut file: File) -> String {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn only_the_device_with_all_ids_is_taken_and_switched_on() {
        let root = tempfile::tempdir().unwrap();
        let other =
            device(root.path(), "0000:00:01.0", ["0x1af4", "0x1041", "0x020000", "0x01"], "0\n");
        device(root.path(), "0000:00:02.0", ["0x1af4", "0x1110", "0x050000", "0x00"], "0\n");
        assert_eq!(find(root.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
        let ours = device(root.path(), "0000:00:08.0", IDS, "0\n");
        device(root.path(), "0000:00:09.0", IDS, "0\n");
        assert_eq!(content(find(root.path()).unwrap()), "0000:00:08.0");
        assert_eq!(std::fs::read_to_string(ours.join("enable")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(other.join("enable")).unwrap(), "0\n");
        // Where the kernel offers it, the mapping that combines writes.
        std::fs::write(ours.join("resource2_wc"), "combined").unwrap();
        assert_eq!(content(find(root.path()).unwrap()), "combined");
    }

    #[test]
    fn a_device_that_is_on_is_left_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let ours = device(root.path(), "0000:00:08.0", IDS, "3\n");
        find(root.path()).unwrap();
        assert_eq!(std::fs::read_to_string(ours.join("enable")).unwrap(), "3\n");
    }

    #[test]
    fn the_memory_is_one_users_until_all_its_connections_have_ended() {
        let holder = Arc::default();
        let first = Held::take(&holder, 1000).unwrap();
        let second = Held::take(&holder, 1000).unwrap();
        assert!(Held::take(&holder, 1001).is_err());
        assert!(Held::take(&holder, 0).is_err());
        drop(first);
        assert!(Held::take(&holder, 1001).is_err());
        drop(second);
        let _other = Held::take(&holder, 1001).unwrap();
        assert!(Held::take(&holder, 1000).is_err());
    }

    #[test]
    fn the_systems_accounts_and_floods_get_nothing() {
        let holder = Arc::default();
        assert!(Held::take(&holder, 33).is_err());
        let held: Vec<_> = (0..MOST_HELD).map(|_| Held::take(&holder, 1000).unwrap()).collect();
        assert!(Held::take(&holder, 1000).is_err());
        drop(held);
        Held::take(&holder, 1000).unwrap();
    }

    #[tokio::test]
    async fn an_agent_gets_the_memory_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let memory = folder.path().join("memory");
        std::fs::write(&memory, "before").unwrap();
        let shown = memory.clone();
        let finder = move || OpenOptions::new().read(true).write(true).open(&shown);
        tokio::spawn(give(listen(&path).unwrap(), finder));
        let given = tokio::task::spawn_blocking(move || open(&path)).await.unwrap().unwrap();
        File::from(given.memory).write_all(b"after!").unwrap();
        assert_eq!(std::fs::read_to_string(memory).unwrap(), "after!");
    }

    #[tokio::test]
    async fn an_agent_of_a_machine_without_it_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let root = folder.path().to_owned();
        tokio::spawn(give(listen(&path).unwrap(), move || find(&root)));
        let error = tokio::task::spawn_blocking(move || open(&path)).await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "this machine has no window memory");
    }
}
