//! Reads a block device with `O_DIRECT`, one request at a time, against the clock.

use crate::{Random, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// `O_DIRECT` wants memory and offsets aligned to the device's logical block; a page always is.
const ALIGNMENT: usize = 4096;

pub(crate) fn run(path: &Path, block: usize, count: u64, random: bool) -> Result {
    if block == 0 || !block.is_multiple_of(512) {
        return Err(format!("--block {block}: not a multiple of 512").into());
    }
    let mut device =
        File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT, Mode::empty())?);
    let blocks = device.seek(SeekFrom::End(0))? / block as u64;
    if blocks == 0 {
        return Err(format!("{} is smaller than one block of {block}", path.display()).into());
    }
    let mut memory = vec![0_u8; block + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[start..start + block];
    let mut places = Random::new(7);
    // One read before the clock starts, so that no first-use cost counts.
    device.read_exact_at(buffer, 0)?;
    let clock = Instant::now();
    for index in 0..count {
        let place = if random { places.below(blocks) } else { index % blocks };
        device.read_exact_at(buffer, place * block as u64)?;
    }
    println!(
        "operations {count} bytes {} nanoseconds {}",
        count * block as u64,
        clock.elapsed().as_nanos()
    );
    Ok(())
}
