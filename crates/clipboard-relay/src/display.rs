//! Which desktop this user has: the one this process was started on, else the one that the user's service
//! manager knows, because the session told it (as desktops do with `dbus-update-activation-environment
//! --systemd`). A daemon or an agent that systemd started has no display of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use clipboard::{ConnectError, Connected, Display, connect_to};

/// How long the service manager may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to the user's desktop.
///
/// # Errors
/// There is none, or it lets this program not in.
pub async fn connect() -> Result<Connected, ConnectError> {
    let own = Display::of_this_process();
    let failed = match connect_to(&own).await {
        Ok(connected) => return Ok(connected),
        Err(error) => error,
    };
    match of_the_session().await {
        Some(display) if display != own && display != Display::default() => {
            connect_to(&display).await
        }
        _ => Err(failed),
    }
}

/// Where the user's desktop is, for a program that is to open windows there; none where there is none.
pub async fn desktop() -> Option<Display> {
    let is_one = |display: &Display| display.wayland.is_some() || display.x11.is_some();
    let own = Display::of_this_process();
    if is_one(&own) {
        return Some(own);
    }
    of_the_session().await.filter(is_one)
}

async fn of_the_session() -> Option<Display> {
    let mut command = tokio::process::Command::new("systemctl");
    command.args(["--user", "show-environment"]).kill_on_drop(true);
    command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let variables = variables(std::str::from_utf8(&output.stdout).ok()?);
    output.status.success().then(|| {
        // The manager's own folder is this user's, too.
        let runtime = || std::env::var_os("XDG_RUNTIME_DIR");
        Display::from_variables(|name| match (variables.get(name), name) {
            (Some(value), _) => Some(OsString::from(value)),
            (None, "XDG_RUNTIME_DIR") => runtime(),
            (None, _) => None,
        })
    })
}

/// Lines `NAME=VALUE`. Values with characters special to a shell are quoted as `$'...'`
/// (systemctl(1), show-environment); none that is used here has any, so those are left out.
fn variables(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .filter(|(_, value)| !value.starts_with("$'"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_managers_answer_is_read() {
        let variables = variables("DISPLAY=:0\nA=$'x\\ny'\nXAUTHORITY=/run/a=b\nbroken\n");
        let of = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!(
            (of("DISPLAY"), of("XAUTHORITY"), of("A")),
            (Some(":0"), Some("/run/a=b"), None)
        );
    }
}
