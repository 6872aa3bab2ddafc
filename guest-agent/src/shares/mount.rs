//! Mounting and leaving. All of it can wait for a host that does not answer, and so runs on threads of its
//! own with a deadline.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::ROOT;
use super::mounts::{Mount, parse};
use super::plan::{Entry, Source};
use super::way::Host;
use crate::user::User;

/// How long a mount, or what is asked of one, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one message. The kernel keeps a buffer of this size for each request under way.
const MESSAGE: u32 = 256 << 10;
/// Programs that are named when they hold a mount.
const MOST_NAMED: usize = 10;

/// Below the root, the mounts of devices: a 9P device can be mounted once, and is bound to each user's
/// folder from there.
const DEVICES: &str = ".devices";

/// Runs what may wait. What does not end in time goes on for itself.
async fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

/// The mounts below `root`, lowest first, and which of them answer.
pub(super) async fn there(root: &Path) -> io::Result<Vec<Mount>> {
    let mut mounts = parse(&std::fs::read_to_string("/proc/self/mountinfo")?, root);
    // Those of devices stay as long as the guest runs.
    mounts.retain(|mount| !mount.path.starts_with(root.join(DEVICES)));
    for mount in &mut mounts {
        let path = mount.path.clone();
        let asked = in_time(move || rustix::fs::statfs(&path)).await;
        mount.answers = matches!(asked, Some(Ok(_)));
    }
    Ok(mounts)
}

/// Unmounts; from under the programs that use it, if it must be.
pub(super) async fn leave(mount: Mount) -> io::Result<()> {
    let left = in_time(move || {
        let path = mount.path;
        match rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => {
                let programs = users_of(&path).join(", ");
                tracing::warn!(path = %path.display(), programs, "in use; it goes when they end");
                rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            }
            other => other?,
        }
        // The user may have put something there in the same moment, which then stays.
        let _ = std::fs::remove_dir(&path);
        Ok(())
    });
    left.await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

/// Names of the programs that hold something below `path`.
fn users_of(path: &Path) -> Vec<String> {
    let holds = |process: &Path| {
        let here = |link: PathBuf| std::fs::read_link(link).is_ok_and(|to| to.starts_with(path));
        let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        here(process.join("cwd")) || files.into_iter().any(|file| here(file.path()))
    };
    let name = |process: PathBuf| {
        let name = std::fs::read_to_string(process.join("comm")).ok()?;
        let number = process.file_name()?.to_str()?.parse::<u32>().ok()?;
        Some(format!("{} ({number})", name.trim_end()))
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let holding = processes.map(|process| process.path()).filter(|process| holds(process));
    holding.filter_map(name).take(MOST_NAMED).collect()
}

/// Mounts a share; the reason, if it cannot be.
pub(super) async fn mount(host: &Host, entry: Entry) -> Result<(), String> {
    let number = entry.user.to_string();
    let found = in_time(move || User::find(&number)).await;
    let user =
        found.ok_or("the guest's users cannot be looked up")?.map_err(|error| error.to_string())?;
    let late = || "the mount does not come about in time".to_owned();
    match entry.source {
        Source::Port(port) => {
            let way = host.connect(port, &user).await.map_err(|error| error.to_string())?;
            // The number stays valid: whoever mounts holds the connection, however late.
            let held = way.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
            let mounting = in_time(move || {
                let descriptor = held.as_raw_fd();
                let options = format!(
                    "trans=fd,rfdno={descriptor},wfdno={descriptor},version=9p2000.L,\
                     msize={MESSAGE},access=any,cache=none"
                );
                attach(&entry, &user, &options)
            });
            let mounted = mounting.await;
            if mounted.is_none() {
                // Lets the kernel give up.
                let _ = rustix::net::shutdown(&way, rustix::net::Shutdown::Both);
            }
            mounted.ok_or_else(late)?
        }
        Source::Plan9Device | Source::VirtioFs => {
            in_time(move || bind(&entry, &user)).await.ok_or_else(late)?
        }
    }
}

fn reason(entry: &Entry, error: Errno) -> String {
    match error {
        Errno::NODEV => format!("the guest's kernel has no {}", entry.file_system()),
        Errno::NOENT | Errno::BUSY if !matches!(entry.source, Source::Port(_)) => format!(
            "there is no free device with the tag {:?}; it may be mounted elsewhere already",
            entry.tag
        ),
        other => io::Error::from(other).to_string(),
    }
}

fn flags(entry: &Entry) -> MountFlags {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    if entry.read_only { flags | MountFlags::RDONLY } else { flags }
}

/// Mounts at the user's folder.
fn attach(entry: &Entry, user: &User, options: &str) -> Result<(), String> {
    let point = Point::make(Path::new(ROOT), entry, user).map_err(|error| error.to_string())?;
    let options = CString::new(options).map_err(|error| error.to_string())?;
    let (source, kind) = (entry.source_name(), entry.file_system());
    rustix::mount::mount(source, point.path(), kind, flags(entry), options.as_c_str())
        .map_err(|error| reason(entry, error))
}

/// Mounts a device where only root is, unless it is, and shows it in the user's folder.
fn bind(entry: &Entry, user: &User) -> Result<(), String> {
    let device = Path::new(ROOT).join(DEVICES).join(&entry.tag);
    let failed = |error: io::Error| error.to_string();
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    if !parse(&table, Path::new(ROOT)).iter().any(|mount| mount.path == device) {
        make_folder(Path::new(ROOT), 0o755).map_err(failed)?;
        make_folder(&Path::new(ROOT).join(DEVICES), 0o700).map_err(failed)?;
        make_folder(&device, 0o700).map_err(failed)?;
        let options = match entry.source {
            Source::VirtioFs => CString::default(),
            _ => CString::new(format!(
                "trans=virtio,version=9p2000.L,msize={MESSAGE},access=any,cache=none"
            ))
            .map_err(|error| error.to_string())?,
        };
        let kind = entry.file_system();
        rustix::mount::mount(&entry.tag, &device, kind, flags(entry), options.as_c_str())
            .map_err(|error| reason(entry, error))?;
    }
    let point = Point::make(Path::new(ROOT), entry, user).map_err(failed)?;
    rustix::mount::mount_bind(&device, point.path()).map_err(|error| reason(entry, error))
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// A folder to mount at, held open: the user owns the folder above it and could put a link in its place.
struct Point(OwnedFd);

impl Point {
    fn make(root: &Path, entry: &Entry, user: &User) -> io::Result<Self> {
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        make_folder(root, 0o755)?;
        let root = rustix::fs::openat(CWD, root, folder, Mode::empty())?;
        let make = |above: &OwnedFd, name: &str| -> io::Result<OwnedFd> {
            match rustix::fs::mkdirat(above, name, Mode::RWXU) {
                Err(error) if error != Errno::EXIST => return Err(error.into()),
                _ => {}
            }
            Ok(rustix::fs::openat(above, name, folder, Mode::empty())?)
        };
        let own = make(&root, &entry.user.to_string())?;
        let (owner, group) = (Uid::from_raw(user.number), Gid::from_raw(user.group));
        rustix::fs::chownat(&own, "", Some(owner), Some(group), AtFlags::EMPTY_PATH)?;
        let point = make(&own, &entry.tag)?;
        // What the user put there is not covered by a mount.
        let facts = rustix::fs::fstat(&point)?;
        if !FileType::from_raw_mode(facts.st_mode).is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self(point))
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn entry(tag: &str) -> Entry {
        Entry { tag: tag.to_owned(), user: 0, read_only: false, source: Source::Port(1) }
    }

    #[test]
    fn a_users_folder_is_the_users_alone_and_a_link_in_it_is_not_followed() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root gives folders to users");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("mounts");
        let user = User { number: 12345, group: 54321, ..User::find("root").unwrap() };
        let of = |tag: &str| Entry { user: 12345, ..entry(tag) };
        Point::make(&root, &of("home"), &user).unwrap();
        let facts = root.join("12345").metadata().unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o777), (12345, 54321, 0o700));
        symlink("/etc", root.join("12345/link")).unwrap();
        assert!(Point::make(&root, &of("link"), &user).is_err());
        std::fs::write(root.join("12345/file"), "").unwrap();
        assert!(Point::make(&root, &of("file"), &user).is_err());
    }

    #[test]
    fn the_programs_that_hold_a_folder_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(users_of(folder.path()).is_empty());
        let _held = std::fs::File::create(folder.path().join("file")).unwrap();
        let own = format!("({})", std::process::id());
        let users = users_of(folder.path());
        assert!(users.iter().any(|user| user.ends_with(&own)), "{users:?}");
    }

    #[test]
    fn a_kernel_that_lacks_it_is_named_as_the_reason() {
        let virtio_fs = Entry { source: Source::VirtioFs, ..entry("t") };
        assert_eq!(reason(&virtio_fs, Errno::NODEV), "the guest's kernel has no virtiofs");
        assert!(reason(&virtio_fs, Errno::NOENT).contains("no free device with the tag \"t\""));
        assert!(reason(&entry("t"), Errno::ACCESS).contains("denied"));
    }
}
