//! Sends a log file to a client, and on request what is added to it while the VM runs.

use super::vm::Vm;
use crate::problem::Problem;
use proto::v1::LogChunk;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tonic::Status;

const CHUNK: usize = 32 << 10;
/// How often a followed file is looked at for more.
const INTERVAL: Duration = Duration::from_millis(250);

type Chunks = mpsc::Sender<Result<LogChunk, Status>>;

/// Streams `path` into `to` until its end, or with `follow` until the VM ends or the client goes.
pub(super) async fn stream(vm: Arc<Vm>, path: PathBuf, follow: bool, to: Chunks) {
    if let Err(error) = copy(&vm, &path, follow, &to).await {
        let problem = Problem::failed(format!("cannot read {}: {error}", path.display()));
        // The client may have gone.
        let _ = to.send(Err(problem.into())).await;
    }
}

async fn copy(vm: &Arc<Vm>, path: &Path, follow: bool, to: &Chunks) -> std::io::Result<()> {
    loop {
        // Asked before reading, so that what was written before the end is not missed.
        let active = follow && vm.look().await.state.is_active();
        match File::open(path).await {
            Ok(file) => {
                if !copy_file(vm, path, file, active, to).await? {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !active {
                    return Ok(());
                }
                tokio::time::sleep(INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// True when the file was replaced by a new one that should be read next.
async fn copy_file(
    vm: &Arc<Vm>,
    path: &Path,
    mut file: File,
    mut active: bool,
    to: &Chunks,
) -> std::io::Result<bool> {
    let inode = file.metadata().await?.ino();
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        if (&mut file).take(CHUNK as u64).read_to_end(&mut data).await? > 0 {
            if to.send(Ok(LogChunk { data })).await.is_err() {
                return Ok(false);
            }
            continue;
        }
        if !active {
            return Ok(false);
        }
        tokio::select! {
            () = to.closed() => return Ok(false),
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let now = tokio::fs::metadata(path).await;
        if now.is_ok_and(|now| now.ino() != inode) {
            return Ok(true);
        }
        active = vm.look().await.state.is_active();
    }
}
