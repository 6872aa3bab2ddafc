//! The mount table, `/proc/self/mountinfo` (proc_pid_mountinfo(5)), as far as it is the agent's.

use std::path::{Path, PathBuf};

/// A mount below the agent's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) path: PathBuf,
    /// Whose it is and its tag; none of one that is no user's.
    pub(super) place: Option<(u32, String)>,
    pub(super) source: String,
    pub(super) file_system: String,
    pub(super) read_only: bool,
    /// Its server answers.
    pub(super) answers: bool,
}

/// The mounts below `root` that `table` names, lowest first.
pub(super) fn parse(table: &str, root: &Path) -> Vec<Mount> {
    table.lines().filter_map(|line| parse_line(line, root)).collect()
}

fn parse_line(line: &str, root: &Path) -> Option<Mount> {
    // id parent major:minor root path options [field...] - type source options
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let mut after = after.split(' ');
    let path = PathBuf::from(unescape(before.get(4)?));
    let below = path.strip_prefix(root).ok()?;
    let parts: Vec<&str> = below.iter().filter_map(|part| part.to_str()).collect();
    let place = match parts[..] {
        [user, tag] => user.parse().ok().map(|user| (user, tag.to_owned())),
        [] => return None,
        _ => None,
    };
    let file_system = after.next()?.to_owned();
    let source = unescape(after.next()?);
    let super_options = after.next().unwrap_or_default();
    let read_only = [before.get(5)?, super_options]
        .into_iter()
        .any(|options| options.split(',').any(|option| option == "ro"));
    Some(Mount { path, place, source, file_system, read_only, answers: true })
}

/// Spaces and the like are written as `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match digits {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
30 22 0:40 / /run/macrohard-guest/1000/home rw,nosuid,nodev,relatime shared:9 - 9p macrohard-share:19785 rw,trans=fd\n\
31 22 0:41 / /run/macrohard-guest/1000/a\\040b ro,relatime - virtiofs a\\134b rw\n\
32 22 0:42 / /run/macrohard-guest/.devices/x rw,relatime - 9p x ro,trans=virtio\n\
33 22 0:43 / /run/macrohard-guest-other/1000/home rw - 9p y rw\n\
34 22 0:44 / /run/macrohard-guest rw - tmpfs tmpfs rw\n\
nonsense\n";

    #[test]
    fn only_what_lies_below_the_folder_is_the_agents() {
        let found = parse(TABLE, Path::new("/run/macrohard-guest"));
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].place, Some((1000, "home".to_owned())));
        assert_eq!(found[0].source, "macrohard-share:19785");
        assert!(!found[0].read_only);
        assert_eq!(found[1].place, Some((1000, "a b".to_owned())));
        assert!(found[1].read_only && found[1].source == "a\\b");
        assert_eq!((found[2].place.clone(), found[2].read_only), (None, true));
    }
}
