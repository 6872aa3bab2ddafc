//! Random reads and writes to a flash chip.
//! Run: `cargo +nightly fuzz run flash` in `crates/firmware`.
#![no_main]

use chipset::{Device, MemoryDevice};
use firmware::{Flash, FlashStore};
use libfuzzer_sys::fuzz_target;
use std::io;

struct Store(Vec<u8>);

impl FlashStore for Store {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        data.copy_from_slice(&self.0[at..at + data.len()]);
        Ok(())
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = offset as usize;
        self.0[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let mut chip = Flash::new("flash", Store(vec![0xff; 3 * 4096]));
    for step in input.chunks_exact(12) {
        let offset = u64::from(u16::from_le_bytes([step[0], step[1]])) % 0x3010;
        let offset = if step[2] == 0xff {
            u64::MAX - offset
        } else {
            offset
        };
        let mut data: [u8; 8] = step[4..].try_into().unwrap();
        let length = usize::from(step[3] % 8) + 1;
        if step[3] & 0x80 == 0 {
            chip.write(offset, &data[..length]);
        } else {
            chip.read(offset, &mut data[..length]);
        }
    }
    chip.reset();
    assert!(chip.is_read_array());
});
