//! Agents of guests without vsock. Their VM has a serial port, at whose other end the VM process listens on a
//! socket; each channel that the guest opens on it becomes a connection to the agents' own socket, as a
//! connection over vsock does, and is bounded there.

use agent_link::serial::answer;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Pause before the port is tried again, doubled with each try in vain: the VM may not have it yet, or not at
/// all.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Carries the port at `port` to the agents' socket at `agents`, as long as this is polled.
pub(super) async fn carry(vm: String, port: PathBuf, agents: PathBuf) {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Ok(line) = UnixStream::connect(&port).await {
            pause = FIRST_PAUSE;
            tracing::debug!(vm, "the guest's serial port is open");
            let (mut channels, carrying) = answer(line);
            let connecting = async {
                // Dropped, all that was opened on the line ends.
                let mut open = tokio::task::JoinSet::new();
                while let Some(channel) = channels.next().await {
                    while open.try_join_next().is_some() {}
                    open.spawn(connect(channel, agents.clone()));
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

async fn connect(mut channel: tokio::io::DuplexStream, agents: impl AsRef<Path>) {
    if let Ok(mut stream) = UnixStream::connect(agents).await {
        // However it ends, it ends.
        let _ = tokio::io::copy_bidirectional(&mut channel, &mut stream).await;
    }
}
