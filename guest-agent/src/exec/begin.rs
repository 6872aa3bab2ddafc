//! The last steps before a program runs, in its own process: taking the terminal, becoming the user.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;

/// Arguments of the hidden command `start`.
#[derive(Clone, Debug, Args)]
pub struct Begin {
    /// Standard input is a terminal to take
    #[arg(long)]
    pub terminal: bool,
    /// Begin a session of its own, without a terminal
    #[arg(long, conflicts_with = "terminal")]
    pub session: bool,
    /// The user to become
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub arguments: Vec<OsString>,
}

/// Turns this process into the program.
///
/// # Errors
/// A step is refused; on success it does not return.
pub fn begin(begin: &Begin) -> io::Result<std::convert::Infallible> {
    if begin.terminal {
        // A session of its own, of which the terminal becomes the controlling one (tty_ioctl(4)).
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(std::io::stdin())?;
    }
    if begin.session {
        rustix::process::setsid()?;
    }
    let mut command = match &begin.user {
        // It asks PAM for a session and takes the user's groups.
        Some(user) => {
            let mut command = Command::new("runuser");
            command.args(["-u", user, "--"]).args(&begin.arguments);
            command
        }
        None => {
            let mut command = Command::new(&begin.arguments[0]);
            command.args(&begin.arguments[1..]);
            command
        }
    };
    let error = command.exec();
    Err(match &begin.user {
        Some(user) => io::Error::new(error.kind(), format!("runuser, to become {user}: {error}")),
        None => error,
    })
}
