//! A picture that the compositor made, on its way to a client.

use crate::problem::Problem;
use proto::v1::ScreenshotChunk;
use rustix::fs::FileType;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use tokio::sync::mpsc::Sender;
use tonic::Status;

/// Bytes of one piece.
const PIECE: u64 = 256 << 10;

/// A PNG file.
#[derive(Debug)]
pub(in crate::daemon) struct Picture {
    file: File,
    length: u64,
}

impl Picture {
    /// Of what the compositor sent: a file, so that reading it never waits, of a length that is allowed.
    pub(super) fn new(file: OwnedFd, length: u64) -> Result<Self, Problem> {
        let status = rustix::fs::fstat(&file).map_err(Problem::failed)?;
        let regular = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
        if !regular || length > compositor_control::PICTURE {
            return Err(Problem::failed(format!(
                "the compositor's picture of {length} bytes is not taken"
            )));
        }
        Ok(Self { file: file.into(), length })
    }

    /// Of a file's bytes.
    pub(super) fn of_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        let failed = |error: std::io::Error| Problem::failed(format!("a picture: {error}"));
        let file = rustix::fs::memfd_create("screenshot", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = File::from(file.map_err(|error| failed(error.into()))?);
        file.write_all(bytes).map_err(failed)?;
        Ok(Self { file, length: bytes.len() as u64 })
    }

    /// Sends all of it. Blocks.
    pub(in crate::daemon) fn send(&self, to: &Sender<Result<ScreenshotChunk, Status>>) {
        let mut at = 0;
        while at < self.length {
            let mut data = vec![0; usize::try_from(PIECE.min(self.length - at)).unwrap_or(0)];
            let read = self.file.read_exact_at(&mut data, at);
            at += data.len() as u64;
            let chunk = read.map(|()| ScreenshotChunk { data }).map_err(|error| {
                Problem::failed(format!("the compositor's picture breaks off: {error}")).into()
            });
            let broken = chunk.is_err();
            if to.blocking_send(chunk).is_err() || broken {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(length: u64, content: &[u8]) -> Vec<Result<ScreenshotChunk, Status>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let picture = Picture::new(file.into(), length).unwrap();
        let (to, mut chunks) = tokio::sync::mpsc::channel(64);
        picture.send(&to);
        drop(to);
        std::iter::from_fn(|| chunks.blocking_recv()).collect()
    }

    #[test]
    fn a_picture_arrives_whole() {
        let content: Vec<u8> = (0..=255).cycle().take(600_000).collect();
        let chunks = sent(600_000, &content);
        let came: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.unwrap().data).collect();
        assert_eq!(came, content);
    }

    #[test]
    fn a_picture_that_is_shorter_than_told_ends_with_an_error() {
        let chunks = sent(300_000, &[1; 1000]);
        assert_eq!(chunks.len(), 1);
        assert!(chunks[0].as_ref().unwrap_err().message().contains("breaks off"));
    }

    #[test]
    fn what_is_no_file_or_too_long_is_not_taken() {
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert!(Picture::new(pipe, 10).is_err());
        let file = tempfile::tempfile().unwrap();
        assert!(Picture::new(file.into(), compositor_control::PICTURE + 1).is_err());
    }
}
