//! Another version of this agent, installed by the guest's own package manager.
//!
//! The package is kept where only root comes, and checked as it arrives: its length, its digest, and that it
//! is the package and version it is said to be. The package manager runs in a unit of its own, because the
//! package restarts the agent's.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use proto::v1::update_chunk::Chunk;
use proto::v1::{UpdateChunk, UpdateStart};
use rustix::fs::Mode;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

/// Limits, as the protocol says.
const LONGEST_VERSION: usize = 64;
const LARGEST: u64 = 64 << 20;
const LARGEST_CHUNK: usize = 64 << 10;
const DIGEST: usize = 32;

const PACKAGE: &str = "macrohard-guest-agent";
/// Where the package lies unless the service manager names the service's own folder (systemd.exec(5),
/// `RuntimeDirectory=`).
const FOLDER: &str = "/run/macrohard-guest-agent";
/// The unit of the installation.
const UNIT: &str = "macrohard-guest-update";

/// One update at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// Takes the package and begins its installation.
///
/// # Errors
/// The package is not whole, or cannot be installed.
pub async fn update(
    mut chunks: impl Stream<Item = Result<UpdateChunk, Status>> + Unpin,
) -> Result<(), Status> {
    let turn = TURN.try_lock();
    let _turn = turn.map_err(|_| Status::failed_precondition("another update is under way"))?;
    let start = match chunks.next().await.transpose()?.and_then(|chunk| chunk.chunk) {
        Some(Chunk::Start(start)) => start,
        _ => return Err(Status::invalid_argument("the first chunk is not `start`")),
    };
    check(&start)?;
    if !has("dpkg") {
        let message = "this guest has no dpkg: install the agent as its system does";
        return Err(Status::failed_precondition(message));
    }
    let folder = std::env::var_os("RUNTIME_DIRECTORY").map_or_else(|| FOLDER.into(), PathBuf::from);
    let failed = |error: io::Error| {
        Status::internal(format!("cannot keep the package in {}: {error}", folder.display()))
    };
    private(&folder).map_err(failed)?;
    let path = folder.join("update.deb");
    let begun = async {
        let mut file = create(&path).await.map_err(failed)?;
        receive(&start, &mut chunks, &mut file).await?;
        file.sync_all().await.map_err(failed)?;
        drop(file);
        is_the_agent(&path, &start.version).await?;
        install(&path).await
    };
    let begun = begun.await;
    if begun.is_err() {
        let _ = std::fs::remove_file(&path);
    }
    begun
}

fn check(start: &UpdateStart) -> Result<(), Status> {
    let invalid = |message: String| Err(Status::invalid_argument(message));
    let version = &start.version;
    let fitting =
        |character: char| character.is_ascii_alphanumeric() || ".+~:-".contains(character);
    if !(1..=LONGEST_VERSION).contains(&version.len()) || !version.chars().all(fitting) {
        return invalid(format!("{version:?} is no version"));
    }
    if !(1..=LARGEST).contains(&start.size) {
        return invalid(format!("the package has {} bytes; allowed: 1 to {LARGEST}", start.size));
    }
    if start.digest.len() != DIGEST {
        return invalid(format!(
            "the digest has {} bytes; SHA-256 has {DIGEST}",
            start.digest.len()
        ));
    }
    Ok(())
}

/// Whether a program is there.
fn has(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// A folder of this user's that no other can enter.
fn private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != rustix::process::getuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is somebody else's"));
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

/// A file of its own, whatever an update that was broken off has left.
async fn create(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = (Mode::RUSR | Mode::WUSR).bits();
    File::options().write(true).create_new(true).mode(mode).open(path).await
}

/// Writes what comes until it is all, and no more than was said.
async fn receive(
    start: &UpdateStart,
    chunks: &mut (impl Stream<Item = Result<UpdateChunk, Status>> + Unpin),
    file: &mut File,
) -> Result<(), Status> {
    let mut left = start.size;
    let mut digest = Sha256::new();
    while let Some(chunk) = chunks.next().await.transpose()? {
        let Some(Chunk::Data(data)) = chunk.chunk else {
            return Err(Status::invalid_argument("a later chunk is not `data`"));
        };
        if data.len() > LARGEST_CHUNK {
            return Err(Status::invalid_argument(format!("a chunk has {} bytes", data.len())));
        }
        left = left.checked_sub(data.len() as u64).ok_or_else(|| {
            Status::invalid_argument(format!("more came than the {} bytes announced", start.size))
        })?;
        digest.update(&data);
        let written = file.write_all(&data).await;
        written.map_err(|error| Status::internal(format!("cannot write the package: {error}")))?;
    }
    if left > 0 {
        return Err(Status::data_loss(format!("{left} of {} bytes are missing", start.size)));
    }
    match digest.finalize()[..] == start.digest[..] {
        true => Ok(()),
        false => Err(Status::data_loss("the digest is not that of what came")),
    }
}

/// The package manager's own word for what the file is.
async fn is_the_agent(path: &Path, version: &str) -> Result<(), Status> {
    let mut asked = Command::new("dpkg-deb");
    asked.arg("-f").arg(path).args(["Package", "Version"]);
    let said = run(&mut asked).await?;
    let found = |field: &str| {
        said.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": ")).map(str::trim)
    };
    if (found("Package"), found("Version")) == (Some(PACKAGE), Some(version)) {
        return Ok(());
    }
    let said = super::notifications::one_line(&said);
    Err(Status::invalid_argument(format!("this is not {PACKAGE} {version} but: {said}")))
}

/// Begins the installation. Where systemd runs, this process ends with its service before it is done.
async fn install(path: &Path) -> Result<(), Status> {
    if has("systemd-run") {
        let mut command = Command::new("systemd-run");
        command.args(["--quiet", "--collect", "--no-block"]);
        command.arg(format!("--unit={UNIT}"));
        command.arg("--description=Update of the agent of macrohard-hypervisor");
        command.arg("--setenv=DEBIAN_FRONTEND=noninteractive");
        command.args(["dpkg", "--install"]).arg(path);
        return run(&mut command).await.map(|_| ());
    }
    // Another init, which leaves alone what an agent has started.
    let mut command = Command::new("dpkg");
    command.arg("--install").arg(path).env("DEBIAN_FRONTEND", "noninteractive").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = command.spawn();
    begun.map(|_| ()).map_err(|error| Status::internal(format!("cannot start dpkg: {error}")))
}

async fn run(command: &mut Command) -> Result<String, Status> {
    let program = command.as_std().get_program().display().to_string();
    let ended = command.stdin(Stdio::null()).output().await;
    let ended =
        ended.map_err(|error| Status::failed_precondition(format!("{program}: {error}")))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let said = super::notifications::one_line(&String::from_utf8_lossy(&ended.stderr));
    Err(Status::internal(format!("{program} ended with {}: {said}", ended.status)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn start(bytes: &[u8]) -> UpdateStart {
        let digest = Sha256::digest(bytes).to_vec();
        UpdateStart { version: "1.2.3".into(), size: bytes.len() as u64, digest }
    }

    #[test]
    fn an_announcement_keeps_the_limits() {
        let good = start(b"x");
        assert!(check(&good).is_ok());
        for bad in [
            UpdateStart { version: String::new(), ..good.clone() },
            UpdateStart { version: "1 --force".into(), ..good.clone() },
            UpdateStart { version: "1".repeat(65), ..good.clone() },
            UpdateStart { size: 0, ..good.clone() },
            UpdateStart { size: LARGEST + 1, ..good.clone() },
            UpdateStart { digest: vec![0; 31], ..good.clone() },
        ] {
            assert_eq!(check(&bad).unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn only_the_announced_bytes_are_taken() {
        let data = |bytes: &[u8]| UpdateChunk { chunk: Some(Chunk::Data(bytes.to_vec())) };
        let of = async |start: &UpdateStart, chunks: Vec<UpdateChunk>| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            let mut file = create(&path).await.unwrap();
            let mut chunks = tokio_stream::iter(chunks.into_iter().map(Ok));
            let received = receive(start, &mut chunks, &mut file).await;
            file.flush().await.unwrap();
            received.map(|()| std::fs::read(&path).unwrap()).map_err(|status| status.code())
        };
        let good = start(b"abc");
        assert_eq!(of(&good, vec![data(b"a"), data(b""), data(b"bc")]).await.unwrap(), b"abc");
        assert_eq!(of(&good, vec![data(b"ab")]).await, Err(Code::DataLoss));
        assert_eq!(of(&good, vec![data(b"abd")]).await, Err(Code::DataLoss));
        assert_eq!(of(&good, vec![data(b"abcd")]).await, Err(Code::InvalidArgument));
        assert_eq!(
            of(&good, vec![data(&[0; LARGEST_CHUNK + 1])]).await,
            Err(Code::InvalidArgument)
        );
        let again = UpdateChunk { chunk: Some(Chunk::Start(good.clone())) };
        assert_eq!(of(&good, vec![again]).await, Err(Code::InvalidArgument));
        assert_eq!(of(&good, vec![UpdateChunk { chunk: None }]).await, Err(Code::InvalidArgument));
    }

    #[test]
    fn the_folder_is_this_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("update");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        private(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(private(&link).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
