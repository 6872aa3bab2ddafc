//! Lists of files as desktops write them: `text/uri-list` (RFC 2483 5) and
//! `x-special/gnome-copied-files` (a verb, then URIs, by line).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// What stays as it is in a path: RFC 3986 2.3 and the separator.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The local files of a `text/uri-list`. Comments and everything that is not a local file are left out.
/// The paths are absolute; they are as they were written, `..` included.
pub fn read_list(bytes: &[u8]) -> Vec<PathBuf> {
    lines(bytes).filter(|line| !line.starts_with(b"#")).filter_map(read_uri).collect()
}

/// The local files of `x-special/gnome-copied-files`, and whether they are cut; nothing when the verb is
/// another or none.
pub fn read_copied(bytes: &[u8]) -> Option<(Vec<PathBuf>, bool)> {
    let mut lines = lines(bytes);
    let cut = match lines.next()? {
        b"copy" => false,
        b"cut" => true,
        _ => return None,
    };
    Some((lines.filter_map(read_uri).collect(), cut))
}

/// The path of a `file:` URI of this machine (RFC 8089 2): no host or `localhost`.
pub fn read_uri(uri: &[u8]) -> Option<PathBuf> {
    let (scheme, rest) = uri.split_at_checked(5)?;
    if !scheme.eq_ignore_ascii_case(b"file:") {
        return None;
    }
    let path = match rest.strip_prefix(b"//") {
        None => rest,
        Some(authority) => {
            let slash = authority.iter().position(|byte| *byte == b'/')?;
            let (host, path) = authority.split_at(slash);
            if !host.is_empty() && !host.eq_ignore_ascii_case(b"localhost") {
                return None;
            }
            path
        }
    };
    // A fragment is no part of a file's name; `%` begins two hexadecimal digits, or it is no URI.
    let sound = path.starts_with(b"/")
        && !path.contains(&b'#')
        && path.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
            path.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        });
    if !sound {
        return None;
    }
    let path: Vec<u8> = percent_decode(path).collect();
    (!path.contains(&0)).then(|| PathBuf::from(OsString::from_vec(path)))
}

/// The paths as a `text/uri-list`.
pub fn write_list(paths: &[PathBuf]) -> Vec<u8> {
    paths
        .iter()
        .flat_map(|path| [write_uri(path), "\r\n".to_owned()])
        .collect::<String>()
        .into_bytes()
}

/// The paths as `x-special/gnome-copied-files`.
pub fn write_copied(paths: &[PathBuf], cut: bool) -> Vec<u8> {
    let verb = if cut { "cut" } else { "copy" };
    paths.iter().fold(verb.to_owned(), |text, path| text + "\n" + &write_uri(path)).into_bytes()
}

fn write_uri(path: &Path) -> String {
    format!("file://{}", percent_encode(path.as_os_str().as_bytes(), ESCAPED))
}

/// Lines that say something, without what ends them: line feeds, and from some programs a NUL.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(|byte| matches!(byte, b'\n' | 0))
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_files_are_read_from_a_list() {
        let list = b"# a comment\r\nfile:///home/a%20b\r\nhttp://x/y\r\nfile://localhost/c\r\n\
            FILE:/d\r\nfile://other/e\r\nfile:f\r\nfile:///bad%zz\r\nfile:///bad%2\r\nfile:///nul%00\r\n\
            file:///frag#ment\r\nfile:\r\nfile://\r\n/plain\r\nfile:///caf%C3%A9\r\nfile:///%FF\n\0";
        let expected: [&[u8]; 5] = [b"/home/a b", b"/c", b"/d", "/café".as_bytes(), b"/\xff"];
        let read = read_list(list);
        let read: Vec<&[u8]> = read.iter().map(|path| path.as_os_str().as_bytes()).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn the_verb_says_whether_files_are_cut() {
        let files = |name: &str| vec![PathBuf::from(name)];
        assert_eq!(read_copied(b"copy\nfile:///a"), Some((files("/a"), false)));
        assert_eq!(read_copied(b"cut\nfile:///a\n"), Some((files("/a"), true)));
        assert_eq!(read_copied(b"file:///a"), None);
        assert_eq!(read_copied(b""), None);
        assert_eq!(read_copied(b"copy"), Some((Vec::new(), false)));
    }

    #[test]
    fn what_is_written_is_read_again_whatever_bytes_a_name_has() {
        let every: Vec<u8> = (1..=255).collect();
        let paths = vec![
            PathBuf::from("/home/x y/#1?.txt"),
            PathBuf::from(OsString::from_vec([b"/".as_slice(), &every].concat())),
        ];
        assert_eq!(read_list(&write_list(&paths)), paths);
        assert_eq!(read_copied(&write_copied(&paths, true)), Some((paths.clone(), true)));
        assert!(write_list(&paths).starts_with(b"file:///home/x%20y/%231%3F.txt\r\n"));
    }
}
