//! Power off and start again, in order.

use std::io;
use std::process::Stdio;

use proto::v1::PowerAction;
use tokio::process::Command;

/// Asks the guest's init for it. Answers when it has been taken, not when it is done.
///
/// # Errors
/// No program of the guest does it.
pub async fn request(action: PowerAction) -> io::Result<()> {
    let (systemctl, plain) = match action {
        PowerAction::Off => ("poweroff", "poweroff"),
        PowerAction::Reboot => ("reboot", "reboot"),
        PowerAction::Unspecified => return Err(io::ErrorKind::InvalidInput.into()),
    };
    if run("systemctl", &["--no-block", systemctl]).await.is_ok() {
        return Ok(());
    }
    // A guest with another init.
    run(plain, &[]).await
}

async fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let ended = Command::new(program).args(arguments).stdin(Stdio::null()).output().await?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(io::Error::other(format!("{program} ended with {}: {}", ended.status, said.trim())))
}
