//! Lists of files, by the share that both sides see them under. What another side says is checked here to
//! lead nowhere but below a share's folder; whether it is there is for the one who has the folder.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use prost::Message;
use proto::v1::{ClipboardFile, ClipboardFiles};

/// Files in one list.
pub const MOST: usize = 1024;
/// Bytes of a path, as the protocol says.
const LONGEST_PATH: usize = 4096;
/// Bytes of a tag, as the protocol says.
const LONGEST_TAG: usize = 31;
/// Bytes of a list: paths, tags, and what protobuf writes around them.
pub const MOST_BYTES: usize = MOST * (LONGEST_PATH + LONGEST_TAG + 12) + 2;

/// Why a list is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesProblem {
    /// Not a message of the protocol.
    #[error("it cannot be read")]
    Message,
    /// None, or too many.
    #[error("it names {0} files; allowed: 1 to {MOST}")]
    Count(usize),
    /// Not a tag.
    #[error("the name of a share is not one")]
    Tag,
    /// Too long, absolute, or with components that lead elsewhere or cannot be shown.
    #[error("a path is not one below a share")]
    Path,
}

/// Checks a list that another side sends.
///
/// # Errors
/// It breaks a limit of the protocol.
pub fn decode(bytes: &[u8]) -> Result<ClipboardFiles, FilesProblem> {
    let files = ClipboardFiles::decode(bytes).map_err(|_| FilesProblem::Message)?;
    if files.files.is_empty() || files.files.len() > MOST {
        return Err(FilesProblem::Count(files.files.len()));
    }
    for ClipboardFile { tag, path } in &files.files {
        if !is_tag(tag) {
            return Err(FilesProblem::Tag);
        }
        if !is_path(path) {
            return Err(FilesProblem::Path);
        }
    }
    Ok(files)
}

/// As it travels.
#[must_use]
pub fn encode(files: Vec<ClipboardFile>, cut: bool) -> Vec<u8> {
    ClipboardFiles { files, cut }.encode_to_vec()
}

/// The path of a file below the folder of its share.
#[must_use]
pub fn below(folder: &Path, file: &ClipboardFile) -> PathBuf {
    folder.join(OsStr::from_bytes(&file.path))
}

/// How a file below `folder` travels; none of one that is not there.
#[must_use]
pub fn within(folder: &Path, tag: &str, path: &Path) -> Option<ClipboardFile> {
    let rest = path.strip_prefix(folder).ok()?;
    // Repeated and trailing slashes are gone then.
    let rest: PathBuf = rest.components().collect();
    let file =
        ClipboardFile { tag: tag.to_owned(), path: rest.into_os_string().into_encoded_bytes() };
    (is_tag(tag) && is_path(&file.path)).then_some(file)
}

fn is_tag(tag: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=LONGEST_TAG).contains(&tag.len()) && !tag.starts_with('.') && tag.bytes().all(allowed)
}

fn is_path(path: &[u8]) -> bool {
    let text = Path::new(OsStr::from_bytes(path));
    path.len() <= LONGEST_PATH
        && !path.iter().any(u8::is_ascii_control)
        && text.components().all(|component| matches!(component, Component::Normal(_)))
        // What components() passes over: `./` within, doubled slashes, one at the end.
        && text.components().collect::<PathBuf>().as_os_str().as_bytes() == path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(tag: &str, path: &[u8]) -> Vec<u8> {
        encode(vec![ClipboardFile { tag: tag.into(), path: path.into() }], true)
    }

    #[test]
    fn a_list_leads_nowhere_but_below_a_share() {
        for path in [&b""[..], b"a", b"a/b c.txt", b"\xff\xfe", b"..a/b..", b"-rf"] {
            let files = decode(&list("docs", path)).unwrap();
            assert!(files.cut);
            assert!(below(Path::new("/srv"), &files.files[0]).starts_with("/srv"));
        }
        for path in [
            &b"/etc"[..],
            b"..",
            b"a/../b",
            b"a/..",
            b".",
            b"./a",
            b"a/./b",
            b"a//b",
            b"a/",
            b"a\nb",
            b"a\0b",
            &[b'a'; 4097],
        ] {
            assert_eq!(decode(&list("docs", path)), Err(FilesProblem::Path), "{path:?}");
        }
        for tag in ["", "..", ".a", "a/b", "ä", &"a".repeat(32)] {
            assert_eq!(decode(&list(tag, b"a")), Err(FilesProblem::Tag), "{tag}");
        }
        assert_eq!(decode(b"\xff"), Err(FilesProblem::Message));
        assert_eq!(decode(b""), Err(FilesProblem::Count(0)));
        let file = ClipboardFile { tag: "t".repeat(31), path: vec![b'a'; 4096] };
        let full = encode(vec![file.clone(); MOST], true);
        assert!(full.len() <= MOST_BYTES, "{} of {MOST_BYTES}", full.len());
        assert!(decode(&full).is_ok());
        assert_eq!(
            decode(&encode(vec![file; MOST + 1], false)),
            Err(FilesProblem::Count(MOST + 1))
        );
    }

    #[test]
    fn a_path_is_found_again_below_its_share() {
        let folder = Path::new("/srv/docs");
        let file = within(folder, "docs", Path::new("/srv/docs//a/b/")).unwrap();
        assert_eq!((file.tag.as_str(), &file.path[..]), ("docs", &b"a/b"[..]));
        assert_eq!(
            below(Path::new("/home/a/Host/docs"), &file),
            Path::new("/home/a/Host/docs/a/b")
        );
        for other in ["/srv", "/srv/docs2/a", "/srv/docs/../a"] {
            assert_eq!(within(folder, "docs", Path::new(other)), None, "{other}");
        }
    }
}
