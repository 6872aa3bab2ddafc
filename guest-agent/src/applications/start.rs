//! Starting a program of the session so that it outlives the agent.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::process::Command;

use super::session::Session;

/// How long systemd-run may take to say its version.
const PATIENCE: Duration = Duration::from_secs(2);
/// From this version on, systemd-run may replace `$NAME` in arguments, and can be told not to.
const EXPANDS: u32 = 254;
/// Characters of an id in a unit's name; each may become four.
const LONGEST_NAME: usize = 48;

/// Starts a program in a unit of its own where the user has a systemd, else in a session of its own. Gives
/// its process id; when it ends, its end is taken note of.
///
/// # Errors
/// It cannot be started.
pub(super) async fn start(
    id: &str,
    arguments: &[OsString],
    folder: &Path,
    session: &Session,
) -> io::Result<u32> {
    let mut command = match scope(id, session).await {
        Some(command) => command,
        None => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["start", "--session", "--"]);
            command
        }
    };
    command.args(arguments).env_clear().envs(session.variables()).current_dir(folder);
    command.stdin(Stdio::null());
    // What it says goes to the journal with the agent's own; another end might be gone before it.
    if std::env::var_os("JOURNAL_STREAM").is_none() {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    let mut child = command.spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
    let id = id.to_owned();
    tokio::spawn(async move {
        match child.wait().await {
            Ok(status) if status.success() => tracing::debug!(id, pid, "an application has ended"),
            Ok(status) => tracing::info!(id, pid, %status, "an application has ended"),
            Err(error) => tracing::warn!(id, pid, %error, "an application's end is not known"),
        }
    });
    Ok(pid)
}

/// systemd-run up to the program's name: it becomes the program, with the same process id, once the unit
/// is there.
async fn scope(id: &str, session: &Session) -> Option<Command> {
    let manager = session.folder("XDG_RUNTIME_DIR")?.join("systemd/private");
    let program = session.program(OsStr::new("systemd-run"))?;
    if !manager.exists() {
        return None;
    }
    let asking = Command::new(&program).arg("--version").kill_on_drop(true).output();
    let said = tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()?;
    let version = version(&String::from_utf8_lossy(&said.stdout))?;
    let mut command = Command::new(program);
    command.args(["--user", "--scope", "--quiet", "--collect", "--slice=app.slice"]);
    if version >= EXPANDS {
        command.arg("--expand-environment=no");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    command.arg(format!("--unit=app-macrohard-{}-{now:x}.scope", escape(id))).arg("--");
    Some(command)
}

/// The application that a process was launched as: it is in the unit that was made for it. None for what was
/// started otherwise, and where the user has no systemd.
#[must_use]
pub fn launched_as(pid: u32) -> Option<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.lines().find_map(application_of)
}

/// From a line of `/proc/PID/cgroup` (cgroups(7)).
fn application_of(line: &str) -> Option<String> {
    let unit = line.rsplit_once('/')?.1;
    let named = unit.strip_prefix("app-macrohard-")?.strip_suffix(".scope")?;
    let (id, _) = named.rsplit_once('-')?;
    let id = id.replace("\\x2d", "-");
    // A longer one was cut.
    (id.chars().count() < LONGEST_NAME).then_some(id)
}

/// The number in "systemd 252 (252.39-1~deb12u1)".
fn version(text: &str) -> Option<u32> {
    let number = text.strip_prefix("systemd ")?;
    number.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// As names of units want it: `-` separates their parts, and all of one has at most 255 characters
/// (systemd.unit(5), "String escaping").
fn escape(id: &str) -> String {
    id.chars().take(LONGEST_NAME).collect::<String>().replace('-', "\\x2d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemds_version_and_names_are_its_own() {
        assert_eq!(version("systemd 252 (252.39-1~deb12u1)\n+PAM"), Some(252));
        assert_eq!(version("systemd 256~rc1"), Some(256));
        assert_eq!(version("elogind 252"), None);
        assert_eq!(escape("org.x-y_z"), "org.x\\x2dy_z");
        assert_eq!(escape(&"-".repeat(128)).len(), 192);
    }

    #[test]
    fn a_process_is_of_the_application_in_its_units_name() {
        let line = |unit: &str| format!("0::/user.slice/user@1000.service/app.slice/{unit}");
        let unit = format!("app-macrohard-{}-18ebb165343992bc.scope", escape("org.x-y_z"));
        assert_eq!(application_of(&line(&unit)).as_deref(), Some("org.x-y_z"));
        for other in ["app-org.x-1.scope", "app-macrohard-x.scope", "app-macrohard-x-1.service", ""]
        {
            assert_eq!(application_of(&line(other)), None, "{other}");
        }
        let cut = format!("app-macrohard-{}-1.scope", escape(&"x".repeat(100)));
        assert_eq!(application_of(&line(&cut)), None);
        assert_eq!(launched_as(0), None);
    }
}
