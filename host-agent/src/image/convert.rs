//! From the raw file system image to a qcow2 that holds only what is written in it.

use super::progress::Progress;
use crate::problem::Problem;
use disk::{CreateOptions, Format, OpenOptions};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is read at once; a multiple of qcow2's usual cluster (64 KiB).
const CHUNK: u64 = 1 << 20;
/// What is looked at for being all zero.
const CLUSTER: usize = 64 << 10;

pub(super) fn to_qcow2(raw: &Path, qcow2: &Path, progress: &Progress) -> Result<(), Problem> {
    let failed = |error: io::Error| {
        Problem::failed(format!("cannot pack {} into {}: {error}", raw.display(), qcow2.display()))
    };
    let file = File::open(raw).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let options = CreateOptions { format: Format::Qcow2, size, backing: None };
    disk::create(qcow2, &options).map_err(Problem::failed)?;
    let image = OpenOptions::new(Format::Qcow2).open(qcow2).map_err(Problem::failed)?;
    let mut end = 0;
    while let Some((start, stop)) = next_data(&file, end).map_err(failed)? {
        let mut offset = start;
        while offset < stop {
            let length = CHUNK.min(stop - offset);
            let mut chunk = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact_at(&mut chunk, offset).map_err(failed)?;
            let mut at = offset;
            for cluster in chunk.chunks(CLUSTER) {
                if cluster.iter().any(|byte| *byte != 0) {
                    image.write(&mut &*cluster, at).map_err(failed)?;
                }
                at += cluster.len() as u64;
            }
            offset += length;
            progress.packed(offset, size);
        }
        end = stop;
    }
    image.flush().map_err(failed)
}

/// The next stretch at or behind `from` that is not a hole.
fn next_data(file: &File, from: u64) -> io::Result<Option<(u64, u64)>> {
    match seek(file, SeekFrom::Data(from)) {
        Ok(start) => Ok(Some((start, seek(file, SeekFrom::Hole(start))?))),
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::Wait;

    #[test]
    fn the_packed_image_reads_as_the_raw_one_and_is_smaller() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, qcow2) = (folder.path().join("a.raw"), folder.path().join("a.qcow2"));
        let file = File::create(&raw).unwrap();
        file.set_len(64 << 20).unwrap();
        for (offset, byte) in [(0, 1), (4096 * 777, 2), ((64 << 20) - 512, 3)] {
            file.write_all_at(&[byte; 512], offset).unwrap();
        }
        to_qcow2(&raw, &qcow2, &Progress::new()).unwrap();
        assert!(std::fs::metadata(&qcow2).unwrap().len() < 2 << 20);
        let image = OpenOptions::new(Format::Qcow2).open(&qcow2).unwrap();
        assert_eq!(image.size(), 64 << 20);
        let mut read = vec![0xff; 64 << 20];
        image.read(&mut &mut read[..], 0, Wait::Yes).unwrap();
        assert!(read == std::fs::read(&raw).unwrap());
    }
}
