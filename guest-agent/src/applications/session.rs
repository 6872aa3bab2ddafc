//! The session's variables, programs and folders.
//!
//! The agent is started before the desktop, so it may lack what the desktop has told the user's systemd
//! since (`DISPLAY`, `WAYLAND_DISPLAY` and others).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::Access;
use tokio::process::Command;

use crate::user::User;

/// How long systemd may take to say what it knows.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of one program's start or of this agent alone: what it starts does not inherit them.
const NOT_INHERITED: [&str; 11] = [
    "DESKTOP_STARTUP_ID",
    "XDG_ACTIVATION_TOKEN",
    "MACROHARD_LOG",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MANAGERPID",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
];

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    variables: BTreeMap<OsString, OsString>,
}

impl Session {
    /// As it is now.
    pub(super) async fn now() -> Self {
        let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let shows = |name: &str| variables.get(OsStr::new(name)).is_some_and(|v| !v.is_empty());
        if !shows("DISPLAY") && !shows("WAYLAND_DISPLAY") {
            let mut command = Command::new("systemctl");
            command.args(["--user", "show-environment"]).stdin(Stdio::null()).kill_on_drop(true);
            match tokio::time::timeout(PATIENCE, command.output()).await {
                Ok(Ok(ended)) if ended.status.success() => variables.extend(parse(&ended.stdout)),
                // No systemd: there is nothing more to know.
                _ => {}
            }
        }
        for name in NOT_INHERITED {
            variables.remove(OsStr::new(name));
        }
        Self { variables }
    }

    /// As it is for programs that start in it: their windows are the host's where it wants them, and a display that
    /// is being started for that is waited for.
    pub(super) async fn for_programs() -> Self {
        let shown = crate::windows::session::variables().await;
        let mut session = Self::now().await;
        if let Some((shown, elsewhere)) = shown {
            session.variables.extend(shown.into_iter().map(|(name, value)| (name.into(), value)));
            for name in elsewhere {
                session.variables.remove(OsStr::new(name));
            }
        }
        session
    }

    #[cfg(test)]
    pub(super) fn of(variables: &[(&str, &str)]) -> Self {
        let pair = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        Self { variables: variables.iter().map(pair).collect() }
    }

    /// All variables.
    pub(super) fn variables(&self) -> &BTreeMap<OsString, OsString> {
        &self.variables
    }

    /// A variable's value; `None` when it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        let value = self.variables.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value.as_os_str())
    }

    /// A variable that names a folder. One that is no absolute path does not count (XDG Base Directory
    /// Specification).
    pub(super) fn folder(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The user's home.
    pub(super) fn home(&self) -> PathBuf {
        self.folder("HOME")
            .or_else(|| User::own().ok().map(|user| user.home))
            .unwrap_or_else(|| PathBuf::from("/"))
    }

    /// Where configuration is.
    pub(super) fn configuration(&self) -> PathBuf {
        self.folder("XDG_CONFIG_HOME").unwrap_or_else(|| self.home().join(".config"))
    }

    /// Where data is, the most important first.
    pub(super) fn data(&self) -> Vec<PathBuf> {
        let mut folders =
            vec![self.folder("XDG_DATA_HOME").unwrap_or_else(|| self.home().join(".local/share"))];
        let system = self.get("XDG_DATA_DIRS").unwrap_or(OsStr::new("/usr/local/share:/usr/share"));
        for folder in std::env::split_paths(system).filter(|path| path.is_absolute()) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders
    }

    /// Names of the desktop that runs.
    pub(super) fn desktops(&self) -> Vec<String> {
        let names = self.get("XDG_CURRENT_DESKTOP").and_then(OsStr::to_str).unwrap_or_default();
        names.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// The file of a program, given by its path or its name.
    pub(super) fn program(&self, name: &OsStr) -> Option<PathBuf> {
        let runs =
            |path: &PathBuf| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
        let path = Path::new(name);
        if path.is_absolute() {
            return Some(path.to_owned()).filter(runs);
        }
        // A path from somewhere is none, for nobody is anywhere.
        if path.components().count() != 1 {
            return None;
        }
        let places = self.get("PATH").unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
        std::env::split_paths(places)
            .filter(|place| place.is_absolute())
            .map(|place| place.join(path))
            .find(runs)
    }
}

/// Reads systemctl's `show-environment`: a variable on each line, quoted as a shell would where it needs
/// to be (systemctl(1)).
fn parse(output: &[u8]) -> Vec<(OsString, OsString)> {
    let lines = output.split(|byte| *byte == b'\n');
    let pairs = lines.filter_map(|line| {
        let equals = line.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&line[..equals], &line[equals + 1..]);
        let value = match value.strip_prefix(b"$'").and_then(|rest| rest.strip_suffix(b"'")) {
            Some(quoted) => unquote(quoted)?,
            None => value.to_vec(),
        };
        let named = !name.is_empty() && !value.contains(&0);
        named.then(|| (OsString::from_vec(name.to_vec()), OsString::from_vec(value)))
    });
    pairs.collect()
}

/// What stands between `$'` and `'` in a shell; `None` when it is no such text.
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (escape, after) = rest.split_first()?;
        let digits = match escape {
            b'x' => Some((after, 2, 16)),
            b'0'..=b'7' => Some((rest, 3, 8)),
            _ => None,
        };
        if let Some((from, count, radix)) = digits {
            let number = std::str::from_utf8(from.get(..count)?).ok()?;
            bytes.push(u8::from_str_radix(number, radix).ok()?);
            rest = &from[count..];
            continue;
        }
        rest = after;
        bytes.push(match escape {
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            other => *other,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemds_variables_are_read_as_a_shell_would() {
        let output =
            b"DISPLAY=:1\nEMPTY=\nA=$'a b\\'c\\n\\x41\\101\\\\'\nB=$'bad\\'\n=x\nnothing\n";
        let read: Vec<(String, String)> = parse(output)
            .into_iter()
            .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
            .collect();
        let expected = [("DISPLAY", ":1"), ("EMPTY", ""), ("A", "a b'c\nAA\\")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn folders_are_those_of_the_specification() {
        let plain = Session::of(&[("HOME", "/home/ann")]);
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            plain.data(),
            paths(&["/home/ann/.local/share", "/usr/local/share", "/usr/share"])
        );
        let own = [
            ("HOME", "/h"),
            ("XDG_DATA_HOME", "/d"),
            ("XDG_DATA_DIRS", "/e:relative::/d:/f"),
            ("XDG_CURRENT_DESKTOP", "ubuntu:GNOME"),
            ("XDG_CONFIG_HOME", "relative"),
        ];
        let own = Session::of(&own);
        assert_eq!(own.data(), paths(&["/d", "/e", "/f"]));
        assert_eq!(own.desktops(), ["ubuntu", "GNOME"]);
        assert_eq!(own.configuration(), Path::new("/h/.config"));
    }

    #[test]
    fn a_program_is_found_by_its_path_or_in_path() {
        let session = Session::of(&[("PATH", "relative:/usr/bin:/bin")]);
        assert!(session.program(OsStr::new("sh")).is_some_and(|path| path.is_absolute()));
        assert_eq!(session.program(OsStr::new("/bin/sh")), Some("/bin/sh".into()));
        for none in ["", "no such program", "/etc/passwd", "/bin", "./sh", "../bin/sh", "."] {
            assert_eq!(session.program(OsStr::new(none)), None, "{none}");
        }
    }
}
