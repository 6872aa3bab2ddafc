//! What an application is to open, as the host names it and as the application is told.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use proto::v1::LaunchTarget;
use proto::v1::launch_target::Target as Named;
use tonic::Status;
use url::Url;

use super::exec::Takes;

/// Targets of one launch, as the protocol says.
pub(super) const MOST: usize = 256;
const LONGEST_PATH: usize = 4096;
const LONGEST_URL: usize = 8192;
const LONGEST_TAG: usize = 31;

/// A target that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An absolute path; `shared` where it lies in a folder of the host.
    File {
        path: PathBuf,
        shared: bool,
    },
    Url(Url),
}

impl Target {
    /// Checks a target; `home` is where the user finds the host's folders.
    pub(super) fn check(target: LaunchTarget, home: &Path) -> Result<Self, Status> {
        let wrong = |what: &str| Status::invalid_argument(what.to_owned());
        let bytes = |bytes: &[u8]| bytes.len() <= LONGEST_PATH && !bytes.contains(&0);
        match target.target {
            Some(Named::Shared(shared)) => {
                if !is_tag(&shared.tag) {
                    return Err(wrong("the tag of a share is wrong"));
                }
                if !bytes(&shared.path) || !stays_inside(&shared.path) {
                    return Err(wrong("a path in a share is wrong"));
                }
                let mut path = home.join("Host").join(shared.tag);
                if !shared.path.is_empty() {
                    path.push(OsStr::from_bytes(&shared.path));
                }
                Ok(Self::File { path, shared: true })
            }
            Some(Named::Path(path)) => {
                let absolute = path.starts_with(b"/") && bytes(&path);
                let path = PathBuf::from(OsStr::from_bytes(&path));
                absolute
                    .then_some(Self::File { path, shared: false })
                    .ok_or_else(|| wrong("a path is not absolute, or too long"))
            }
            Some(Named::Url(text)) => {
                if text.len() > LONGEST_URL || text.chars().any(char::is_control) {
                    return Err(wrong("a URL is too long, or contains control characters"));
                }
                let url = Url::parse(&text).map_err(|error| wrong(&format!("a URL: {error}")))?;
                Ok(Self::Url(url))
            }
            None => Err(wrong("a target says nothing")),
        }
    }

    /// As an application is told that takes these.
    pub(super) fn argument(&self, takes: Takes) -> Result<OsString, Status> {
        match self {
            // Programs that take URLs are tested with those of files more than with paths.
            _ if takes.urls() => Ok(self.url()?.into()),
            Self::File { path, .. } => Ok(path.clone().into_os_string()),
            Self::Url(url) if url.scheme() == "file" => {
                let path = url.to_file_path().map_err(|()| no_file(url))?;
                Ok(path.into_os_string())
            }
            Self::Url(url) => Err(no_file(url)),
        }
    }

    /// As a URL.
    pub(super) fn url(&self) -> Result<String, Status> {
        match self {
            Self::Url(url) => Ok(url.as_str().to_owned()),
            Self::File { path, .. } => Url::from_file_path(path)
                .map(String::from)
                .map_err(|()| Status::invalid_argument("a path is not absolute")),
        }
    }
}

fn no_file(url: &Url) -> Status {
    let scheme = url.scheme();
    Status::failed_precondition(format!("the application opens files, and no URL of {scheme:?}"))
}

/// As [`Share`](proto::v1::Share) says.
fn is_tag(tag: &str) -> bool {
    (1..=LONGEST_TAG).contains(&tag.len())
        && !tag.starts_with('.')
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Neither `.` nor `..` nor empty components, so that it is below the folder it starts from.
fn stays_inside(path: &[u8]) -> bool {
    let plain = |part: &[u8]| {
        let mut components = Path::new(OsStr::from_bytes(part)).components();
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
    };
    path.is_empty() || path.split(|byte| *byte == b'/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::SharedPath;
    use tonic::Code;

    fn check(target: Named) -> Result<Target, Status> {
        Target::check(LaunchTarget { target: Some(target) }, Path::new("/home/ann"))
    }

    fn shared(tag: &str, path: &[u8]) -> Result<Target, Status> {
        check(Named::Shared(SharedPath { tag: tag.into(), path: path.to_vec() }))
    }

    #[test]
    fn a_shared_path_stays_in_its_share() {
        let file = |path: &str| Target::File { path: path.into(), shared: true };
        assert_eq!(shared("docs", b"a/b c.txt").unwrap(), file("/home/ann/Host/docs/a/b c.txt"));
        assert_eq!(shared("docs", b"").unwrap(), file("/home/ann/Host/docs"));
        assert_eq!(shared("docs", b"...").unwrap(), file("/home/ann/Host/docs/..."));
        let long = vec![b'x'; 4097];
        for path in [&b".."[..], b"a/../b", b".", b"./a", b"/a", b"a/", b"a//b", b"a\0b", &long] {
            let refusal = shared("docs", path).unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{path:?}");
        }
        for tag in ["", "..", ".x", "a/b", "a\n", &"x".repeat(32)] {
            assert!(shared(tag, b"a").is_err(), "{tag}");
        }
    }

    #[test]
    fn a_target_is_told_as_the_application_takes_it() {
        let path = check(Named::Path(b"/tmp/a b%\xff".to_vec())).unwrap();
        let as_path = OsString::from(OsStr::from_bytes(b"/tmp/a b%\xff"));
        assert_eq!(path.argument(Takes::File).unwrap(), as_path);
        assert_eq!(path.argument(Takes::Urls).unwrap(), "file:///tmp/a%20b%25%FF");
        let local = check(Named::Url("file:///tmp/a%20b%25%FF".into())).unwrap();
        assert_eq!(local.argument(Takes::Files).unwrap(), as_path);
        let remote = check(Named::Url("https://x/?a=%25 $(id)".into())).unwrap();
        assert_eq!(remote.argument(Takes::Url).unwrap(), "https://x/?a=%25%20$(id)");
        assert_eq!(remote.argument(Takes::File).unwrap_err().code(), Code::FailedPrecondition);
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for target in [
            Named::Path(b"relative".to_vec()),
            Named::Path(b"".to_vec()),
            Named::Path(b"/a\0".to_vec()),
            Named::Path(vec![b'/'; 4097]),
            Named::Url("-o".into()),
            Named::Url("https://x/\n".into()),
            Named::Url(format!("https://x/{}", "a".repeat(8192))),
        ] {
            assert_eq!(check(target).unwrap_err().code(), Code::InvalidArgument);
        }
        let nothing = Target::check(LaunchTarget { target: None }, Path::new("/"));
        assert!(nothing.is_err());
    }
}
