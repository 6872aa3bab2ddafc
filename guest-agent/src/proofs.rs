//! Gives each user's agent the proof of its role: whoever connects to the socket is told the proof of
//! the user the kernel says it is, and no other.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agent_link::{Proof, Role, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Where the system agent listens.
pub const SOCKET: &str = "/run/macrohard-guest-agent.sock";

/// Listens at `path` in place of whoever did before.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Any user may ask: each gets its own.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Answers for ever.
pub async fn give(listener: UnixListener, token: Token) {
    loop {
        match listener.accept().await {
            // A line of 65 bytes fits into any socket's buffer: nobody can hold this up.
            Ok((stream, _)) => {
                if let Err(error) = answer(stream, &token).await {
                    tracing::debug!(%error, "a session agent asked and went away");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a session agent");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, token: &Token) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    stream.write_all(format!("{}\n", token.proof(Role::User(user))).as_bytes()).await
}

/// Asks for the proof of this process's user.
///
/// # Errors
/// No system agent answers.
pub async fn ask(path: &Path) -> io::Result<Proof> {
    let mut said = String::new();
    UnixStream::connect(path).await?.take(65).read_to_string(&mut said).await?;
    said.trim_end().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_user_gets_its_own_proof() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let token = Token::random().unwrap();
        let listener = listen(&path).unwrap();
        tokio::spawn(give(listener, token.clone()));
        let proof = ask(&path).await.unwrap();
        let user = rustix::process::getuid().as_raw();
        assert!(token.admits(Role::User(user), &proof));
        assert!(!token.admits(Role::System, &proof));
        assert!(!token.admits(Role::User(user + 1), &proof));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o666);
    }
}
