//! `image build`: a small Debian guest from packages: a qcow2 disk with one ext4 file system, and
//! its kernel and initial RAM disk beside it.
//!
//! `mmdebstrap` makes the root folder, as root or in a user namespace; [`recipe`] is what happens
//! in it; `mke2fs -d` packs it without mounting anything; [`convert`] turns that into qcow2. All of
//! it happens in a folder beside the output, which gets its files only when all are there.

mod convert;
mod progress;
mod recipe;
mod sources;

use crate::problem::Problem;
use progress::Progress;
use recipe::Recipe;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use std::collections::VecDeque;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Room for the packages; less than this never suffices.
const LEAST: u64 = 2 << 30;
/// Lines of a failed program's output that are shown.
const LINES_SHOWN: usize = 15;

/// What to build.
#[derive(Clone, Debug)]
pub struct Order {
    /// The disk image; the kernel and the initial RAM disk get its name with other endings.
    pub output: PathBuf,
    /// Bytes of the disk.
    pub size: u64,
    /// Debian release.
    pub suite: String,
    /// More packages.
    pub include: Vec<String>,
    /// Where packages come from; the host's own source when absent.
    pub mirror: Option<String>,
    /// Name of the machine.
    pub hostname: String,
    /// Name of the user.
    pub user: String,
    /// Password of the user and of root.
    pub password: String,
    /// Replace what is there.
    pub force: bool,
}

/// The three files of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The qcow2 disk.
    pub disk: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: PathBuf,
}

impl Files {
    /// Beside each other, named after the disk.
    #[must_use]
    pub fn of(disk: &Path) -> Self {
        Self {
            disk: disk.to_owned(),
            kernel: disk.with_extension("vmlinuz"),
            initrd: disk.with_extension("initrd"),
        }
    }

    fn all(&self) -> [&PathBuf; 3] {
        [&self.kernel, &self.initrd, &self.disk]
    }
}

/// A folder beside the output that vanishes whatever happens. Only its owner can get at it by name;
/// what is in it is open to all, because the packages are unpacked under other user ids, which
/// reach it through a descriptor.
struct Workplace {
    path: PathBuf,
}

impl Workplace {
    fn make(output: &Path) -> Result<Self, Problem> {
        let name = output
            .file_name()
            .ok_or_else(|| Problem::usage(format!("--output {output:?} names no file")))?;
        let path = output.with_file_name(format!(
            ".{}.{}.new",
            name.to_string_lossy(),
            std::process::id()
        ));
        let make = || {
            DirBuilder::new().mode(0o700).create(&path)?;
            DirBuilder::new().mode(0o755).create(path.join("open"))?;
            std::fs::set_permissions(path.join("open"), Permissions::from_mode(0o755))
        };
        make().map_err(failed_to("make a folder in", output))?;
        Ok(Self { path })
    }

    fn open(&self, name: &str) -> PathBuf {
        self.path.join("open").join(name)
    }

    /// A file that everybody who reaches it may write.
    fn put(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        std::fs::write(self.open(name), contents)?;
        std::fs::set_permissions(self.open(name), Permissions::from_mode(0o666))
    }

    /// A descriptor of the open folder that programs inherit. Its number is high, because dash, in
    /// which mmdebstrap has apt run commands, only knows single-digit ones and they must stay free.
    fn inherited(&self) -> io::Result<OwnedFd> {
        let folder = File::open(self.open(""))?;
        let descriptor = fcntl_dupfd_cloexec(&folder, 30)?;
        fcntl_setfd(&descriptor, FdFlags::empty())?;
        Ok(descriptor)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn failed_to(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Problem {
    let text = format!("cannot {what} {}", path.display());
    move |error| Problem::failed(format!("{text}: {error}"))
}

/// Builds the image.
///
/// # Errors
/// A value that is not allowed, a missing program, a failed download, a full disk; nothing is left
/// behind.
pub async fn build(order: &Order) -> Result<Files, Problem> {
    let recipe = Recipe::new(order)?;
    let files = check(order)?;
    let workplace = Workplace::make(&order.output)?;
    let progress = Progress::new();
    let agent = match crate::launch::guest_package() {
        Some(path) => std::fs::read(&path).map_err(failed_to("read", &path))?,
        None => {
            eprintln!("warning: there is no package of the guest's agent: the image has none");
            Vec::new()
        }
    };
    let put = || {
        workplace.put(recipe::AGENT, &agent)?;
        for (name, contents) in recipe.files() {
            workplace.put(name, contents.as_bytes())?;
        }
        for name in [recipe::KERNEL, recipe::INITRD, recipe::DISK] {
            workplace.put(name, b"")?;
        }
        File::options().write(true).open(workplace.open(recipe::DISK))?.set_len(order.size)
    };
    put().map_err(failed_to("write beside", &order.output))?;
    let inherited =
        workplace.inherited().map_err(failed_to("open the folder of", &order.output))?;
    let arguments = recipe.arguments(inherited.as_raw_fd(), &sources::sources(order)?);
    bootstrap(&arguments, &progress).await?;
    drop(inherited);
    let raw = workplace.open(recipe::DISK);
    let qcow2 = workplace.path.join("disk.qcow2");
    let packed = qcow2.clone();
    let shown = progress.clone();
    tokio::task::spawn_blocking(move || convert::to_qcow2(&raw, &packed, &shown))
        .await
        .map_err(Problem::failed)??;
    let made = [
        (workplace.open(recipe::KERNEL), &files.kernel),
        (workplace.open(recipe::INITRD), &files.initrd),
        (qcow2, &files.disk),
    ];
    for (from, to) in made {
        let finish = || {
            std::fs::set_permissions(&from, Permissions::from_mode(0o644))?;
            File::open(&from)?.sync_all()?;
            std::fs::rename(&from, to)
        };
        finish().map_err(failed_to("write", to))?;
    }
    progress.done();
    Ok(files)
}

fn check(order: &Order) -> Result<Files, Problem> {
    if order.output.extension().is_none_or(|ext| ext != "qcow2") {
        return Err(Problem::usage(format!(
            "--output is {:?}; allowed: a file name that ends in .qcow2",
            order.output
        )));
    }
    if order.size < LEAST || order.size > 1 << 44 {
        return Err(Problem::usage(format!("--size is {} bytes; allowed: 2G to 16T", order.size)));
    }
    let files = Files::of(&order.output);
    if !order.force
        && let Some(there) = files.all().into_iter().find(|file| file.exists())
    {
        return Err(Problem::failed(format!("{} is there already", there.display()))
            .advise("choose another --output, or replace it with --force"));
    }
    Ok(files)
}

/// Runs mmdebstrap and shows how far it is.
async fn bootstrap(arguments: &[String], progress: &Progress) -> Result<(), Problem> {
    let failed = |error: io::Error| Problem::failed(format!("mmdebstrap: {error}"));
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new("mmdebstrap")
        .args(arguments)
        // mke2fs and chroot lie where users do not look.
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Problem::failed("the program mmdebstrap is missing")
                .advise("install the packages mmdebstrap and e2fsprogs"),
            _ => failed(error),
        })?;
    let mut lines = match child.stderr.take() {
        Some(stderr) => BufReader::new(stderr).split(b'\n'),
        None => return Err(Problem::failed("mmdebstrap has no output")),
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut last: VecDeque<String> = VecDeque::new();
    let mut interrupted = false;
    loop {
        let line = tokio::select! {
            line = lines.next_segment() => line.map_err(failed)?,
            _ = interrupt.recv() => { interrupted = true; end(&child); continue }
            _ = terminate.recv() => { interrupted = true; end(&child); continue }
        };
        let Some(line) = line else { break };
        let line = String::from_utf8_lossy(&line).replace(char::is_control, " ");
        progress.line(&line);
        if last.len() == LINES_SHOWN {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = child.wait().await.map_err(failed)?;
    if interrupted {
        return Err(Problem::failed("interrupted; nothing was made"));
    }
    if status.success() {
        return Ok(());
    }
    let last: Vec<String> = last.into();
    Err(Problem::failed(format!(
        "mmdebstrap failed ({status}); nothing was made. It said last:\n{}",
        last.join("\n")
    ))
    .advise(
        "look at the network, at --suite and --mirror, and, when not run as root, whether the \
         package uidmap is installed and /etc/subuid names you",
    ))
}

/// Asks mmdebstrap to end; it removes what it made.
fn end(child: &tokio::process::Child) {
    let pid =
        child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(output: PathBuf) -> Order {
        Order {
            output,
            size: 4 << 30,
            suite: "bookworm".into(),
            include: vec![],
            mirror: None,
            hostname: "debian".into(),
            user: "guest".into(),
            password: "guest".into(),
            force: false,
        }
    }

    #[test]
    fn nothing_that_is_there_is_replaced_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let order = order(folder.path().join("a.qcow2"));
        let files = check(&order).unwrap();
        assert_eq!(files.kernel, folder.path().join("a.vmlinuz"));
        std::fs::write(&files.initrd, "mine").unwrap();
        assert!(check(&order).unwrap_err().message.contains("a.initrd"));
        check(&Order { force: true, ..order.clone() }).unwrap();
        for wrong in [
            Order { size: 1 << 20, ..order.clone() },
            Order { output: folder.path().join("a.img"), ..order.clone() },
        ] {
            assert_eq!(check(&wrong).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn the_workplace_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let workplace = Workplace::make(&folder.path().join("a.qcow2")).unwrap();
        workplace.put("x", b"y").unwrap();
        let inherited = workplace.inherited().unwrap();
        let reached = format!("/proc/self/fd/{}/x", inherited.as_raw_fd());
        assert_eq!(std::fs::read(reached).unwrap(), b"y");
        drop(workplace);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
