//! Agents of guests without vsock. Their VM has a serial port, at whose other end the VM process listens on a
//! socket; each channel that the guest opens on it becomes a connection to the socket of a port of the host, the
//! agents' or a share's, as a connection over vsock does, and is bounded there.

use agent_link::serial::{Opened, answer};
use agent_link::{PORT, SHARE_PORTS};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use vm_control::Files;

/// Pause before the port is tried again, doubled with each try in vain: the VM may not have it yet, or not at
/// all.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The sockets of the host's ports that a guest may reach.
pub(super) type Ports = Arc<BTreeMap<u32, PathBuf>>;

/// The ports of a VM with these files.
pub(super) fn ports(files: &Files<'_>) -> Ports {
    let open = SHARE_PORTS.chain([PORT]);
    Arc::new(open.map(|port| (port, files.host_port(port))).collect())
}

/// Carries the line whose socket is at `line` to these ports, as long as this is polled.
pub(super) async fn carry(vm: String, line: PathBuf, ports: Ports) {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Ok(line) = UnixStream::connect(&line).await {
            pause = FIRST_PAUSE;
            tracing::debug!(vm, "the guest's serial port is open");
            let (mut channels, carrying) = answer(line);
            let connecting = async {
                // Dropped, all that was opened on the line ends.
                let mut open = tokio::task::JoinSet::new();
                while let Some(channel) = channels.next().await {
                    while open.try_join_next().is_some() {}
                    open.spawn(connect(channel, Arc::clone(&ports)));
                }
            };
            tokio::select! {
                ended = carrying => tracing::debug!(vm, ?ended, "the guest's serial port has ended"),
                () = connecting => {}
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect(channel: Opened, ports: Ports) {
    let Opened { port, stream: mut channel } = channel;
    // Of any other port, and of a share that there is not, the channel just ends.
    if let Some(path) = ports.get(&port)
        && let Ok(mut stream) = UnixStream::connect(path).await
    {
        // However it ends, it ends.
        let _ = tokio::io::copy_bidirectional(&mut channel, &mut stream).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_link::serial::call;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    const LONG: Duration = Duration::from_secs(60);

    async fn soon<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(LONG, work).await.expect("it takes too long")
    }

    #[tokio::test]
    async fn a_channel_leads_to_the_agents_or_a_share_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path(), folder.path());
        let line = UnixListener::bind(files.agent_port()).unwrap();
        let listeners =
            [PORT, PORT + 1].map(|port| UnixListener::bind(files.host_port(port)).unwrap());
        // Another of the guest's ways, which is none of the agents'.
        let other = UnixListener::bind(files.host_port(22)).unwrap();
        tokio::spawn(carry("vm".to_owned(), files.agent_port(), ports(&files)));
        let (guest, _) = soon(line.accept()).await.unwrap();
        let (line, carrying) = call(guest);
        tokio::spawn(carrying);
        for (port, listener) in [PORT, PORT + 1].into_iter().zip(&listeners) {
            let mut channel = soon(line.open(port)).await.unwrap();
            channel.write_all(b"hello").await.unwrap();
            let (mut heard, _) = soon(listener.accept()).await.unwrap();
            let mut bytes = [0; 5];
            soon(heard.read_exact(&mut bytes)).await.unwrap();
            assert_eq!(&bytes, b"hello");
        }
        for port in [PORT + 2, 22, 0, u32::MAX] {
            let mut channel = soon(line.open(port)).await.unwrap();
            assert_eq!(soon(channel.read(&mut [0; 10])).await.unwrap(), 0, "{port}");
        }
        assert!(tokio::time::timeout(Duration::ZERO, other.accept()).await.is_err());
    }
}
