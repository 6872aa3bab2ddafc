//! Users of the guest, as its name service has them.

use std::io;
use std::path::PathBuf;
use std::process::Command;

/// What of a user's entry matters here (passwd(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Number.
    pub number: u32,
    /// Number of its group.
    pub group: u32,
    /// Home folder.
    pub home: PathBuf,
    /// Shell.
    pub shell: String,
}

impl User {
    /// The user with this name or number. Asks the name service through getent, since this program is
    /// linked statically and would read /etc/passwd alone.
    ///
    /// # Errors
    /// There is none.
    pub fn find(key: &str) -> io::Result<Self> {
        let unknown =
            || io::Error::new(io::ErrorKind::NotFound, format!("there is no user {key:?}"));
        // As an option it would ask for something else.
        if key.is_empty() || key.starts_with('-') {
            return Err(unknown());
        }
        let said = match Command::new("getent").args(["passwd", key]).output() {
            Ok(ended) if ended.status.success() => {
                String::from_utf8_lossy(&ended.stdout).into_owned()
            }
            Ok(_) => return Err(unknown()),
            // A small guest without it.
            Err(_) => std::fs::read_to_string("/etc/passwd")?,
        };
        said.lines()
            .filter_map(Self::parse)
            .find(|user| user.name == key || user.number.to_string() == key)
            .ok_or_else(unknown)
    }

    /// The user this process runs as.
    ///
    /// # Errors
    /// It has no entry.
    pub fn own() -> io::Result<Self> {
        Self::find(&rustix::process::getuid().as_raw().to_string())
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, number, group, _, home, shell] = fields[..] else {
            return None;
        };
        let shell = if shell.is_empty() { "/bin/sh" } else { shell };
        Some(Self {
            name: name.to_owned(),
            number: number.parse().ok()?,
            group: group.parse().ok()?,
            home: home.into(),
            shell: shell.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_number() {
        let root = User::find("root").unwrap();
        assert_eq!((root.number, root.group, root.home.to_str()), (0, 0, Some("/root")));
        assert_eq!(User::find("0").unwrap(), root);
        for nobody in ["", "no such user", "-h", "--help"] {
            assert_eq!(User::find(nobody).unwrap_err().kind(), io::ErrorKind::NotFound, "{nobody}");
        }
        assert_eq!(User::parse("a:x:1:2"), None);
        assert_eq!(User::parse("a:x:1:2::/h:").unwrap().shell, "/bin/sh");
    }
}
