//! The way to the host for the agents of sessions where it is a serial port: the kernel lets only one program
//! open that, and only root. The system agent has it, and carries what others send over channels of their own.
//! Who they are is for the host to find out, as ever.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use agent_link::Address;
use tokio::net::{UnixListener, UnixStream};

/// Where the system agent listens.
pub const SOCKET: &str = "/run/macrohard-guest-relay.sock";

/// Connections of one user at once: an agent has two, and may be followed by its next run.
const MOST_OF_A_USER: usize = 6;

/// A user's turn.
struct Turn(Arc<Mutex<BTreeMap<u32, usize>>>, u32);

impl Turn {
    fn take(counts: &Arc<Mutex<BTreeMap<u32, usize>>>, user: u32) -> Option<Self> {
        let mut held = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(user).or_default();
        let free = *count < MOST_OF_A_USER;
        if free {
            *count += 1;
        }
        drop(held);
        free.then(|| Self(Arc::clone(counts), user))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// Carries connections to `host` for ever.
pub async fn carry(listener: UnixListener, host: Address) {
    let counts = Arc::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let user = stream.peer_cred().map(|peer| peer.uid());
                if let Some(turn) = user.ok().and_then(|user| Turn::take(&counts, user)) {
                    tokio::spawn(one(stream, host.clone(), turn));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a session agent");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn one(mut stream: UnixStream, host: Address, _turn: Turn) {
    let carried: io::Result<()> = async {
        let mut channel = host.connect().await?;
        tokio::io::copy_bidirectional(&mut stream, &mut channel).await?;
        Ok(())
    }
    .await;
    if let Err(error) = carried {
        tracing::debug!(%error, "a session agent's connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_some_turns_and_others_have_theirs() {
        let counts = Arc::default();
        let mut held: Vec<_> =
            (0..MOST_OF_A_USER).map(|_| Turn::take(&counts, 1).unwrap()).collect();
        assert!(Turn::take(&counts, 1).is_none());
        assert!(Turn::take(&counts, 2).is_some());
        held.pop();
        assert!(Turn::take(&counts, 1).is_some());
        held.clear();
        assert!(counts.lock().unwrap().is_empty());
    }
}
