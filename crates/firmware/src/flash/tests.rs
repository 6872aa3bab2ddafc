use super::*;
use std::sync::{Arc, Mutex};

/// A store in memory that counts syncs and can be made to fail.
#[derive(Clone)]
struct Memory(Arc<Mutex<Content>>);

struct Content {
    bytes: Vec<u8>,
    syncs: u32,
    full: bool,
}

impl FlashStore for Memory {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().bytes.len() as u64
    }
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        data.copy_from_slice(&self.0.lock().unwrap().bytes[at..at + data.len()]);
        Ok(())
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        if content.full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let at = usize::try_from(offset).unwrap();
        content.bytes[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().syncs += 1;
        Ok(())
    }
}

fn chip() -> (Flash<Memory>, Memory) {
    let content = Content { bytes: vec![0x5a; 4 * 4096], syncs: 0, full: false };
    let store = Memory(Arc::new(Mutex::new(content)));
    (Flash::new("flash1", store.clone()), store)
}

fn byte(chip: &mut Flash<Memory>, at: u64) -> u8 {
    let mut data = [0];
    chip.read(at, &mut data);
    data[0]
}

/// The steps by which OVMF tells a flash chip from ROM and RAM.
#[test]
fn firmware_recognizes_the_chip() {
    let (mut chip, store) = chip();
    let at = 0x100;
    assert_eq!(byte(&mut chip, at), 0x5a);
    chip.write(at, &[0x50]);
    assert_ne!(byte(&mut chip, at), 0x50, "would be RAM");
    chip.write(at, &[0x70]);
    assert_eq!(byte(&mut chip, at), 0x00, "cleared status");
    assert!(!chip.is_read_array());
    chip.write(at, &[0xff]);
    assert!(chip.is_read_array());
    assert_eq!(byte(&mut chip, at), 0x5a);
    assert_eq!(store.0.lock().unwrap().syncs, 0, "nothing was written");
}

#[test]
fn erase_and_program_persist_when_the_guest_returns_to_the_array() {
    let (mut chip, store) = chip();
    chip.write(0x1010, &[0x20]);
    chip.write(0x1010, &[0xd0]);
    assert_eq!(byte(&mut chip, 0x1010) & 0xb0, 0x80, "ready, no error");
    for (at, value) in [(0x1010, 0x12), (0x1011, 0x34)] {
        chip.write(at, &[0x10]);
        chip.write(at, &[value]);
    }
    // Programming again clears bits and sets none.
    chip.write(0x1011, &[0x40]);
    chip.write(0x1011, &[0xf0]);
    chip.write(0, &[0xff]);
    let content = store.0.lock().unwrap();
    assert_eq!(content.bytes[0x1010..0x1013], [0x12, 0x30, 0xff]);
    assert_eq!((content.bytes[0xfff], content.bytes[0x2000]), (0x5a, 0x5a));
    assert_eq!(content.syncs, 1);
}

#[test]
fn a_buffer_is_programmed_on_confirmation_only() {
    let (mut chip, store) = chip();
    let fill = |chip: &mut Flash<Memory>, confirm| {
        chip.write(0x20, &[0xe8]);
        assert_eq!(byte(chip, 0x20) & 0x80, 0x80);
        chip.write(0x20, &[3]);
        chip.write(0x20, &[0x50, 0x40]);
        chip.write(0x22, &[0x10]);
        chip.write(0x23, &[0x02]);
        chip.write(0x20, &[confirm]);
    };
    fill(&mut chip, 0x99);
    assert_eq!(byte(&mut chip, 0) & 0x30, 0x30, "sequence error");
    assert_eq!(store.0.lock().unwrap().bytes[0x20..0x24], [0x5a; 4]);
    chip.write(0, &[0x50]);
    fill(&mut chip, 0xd0);
    assert_eq!(byte(&mut chip, 0), 0x80);
    assert_eq!(store.0.lock().unwrap().bytes[0x20..0x24], [0x50, 0x40, 0x10, 0x02]);
}

#[test]
fn a_full_disk_shows_in_the_status_and_in_the_log() {
    let (mut chip, store) = chip();
    store.0.lock().unwrap().full = true;
    chip.write(0, &[0x20]);
    chip.write(0, &[0xd0]);
    assert_eq!(byte(&mut chip, 0) & ERASE_ERROR, ERASE_ERROR);
    assert_eq!(chip.take_failure().unwrap().kind(), io::ErrorKind::StorageFull);
    assert!(chip.take_failure().is_none());
}

#[test]
fn the_query_gives_size_and_blocks() {
    let (mut chip, _) = chip();
    chip.write(0x55, &[0x98]);
    let table: Vec<u8> = (0x10..0x36).map(|at| byte(&mut chip, at)).collect();
    assert_eq!(&table[..3], b"QRY");
    assert_eq!(table[0x17], 14, "2^14 bytes");
    assert_eq!(table[0x1d..0x21], [3, 0, 16, 0], "four blocks of 16 * 256 bytes");
    chip.write(0, &[0x90]);
    assert_eq!(byte(&mut chip, 0x1000), 0x89);
}

#[test]
fn a_file_keeps_the_content() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(FileStore::new(file.reopen().unwrap()).is_err(), "empty");
    file.as_file().set_len(8192).unwrap();
    let mut chip = Flash::new("flash1", FileStore::new(file.reopen().unwrap()).unwrap());
    for (at, data) in [(0, 0x20), (0, 0xd0), (5, 0x10), (5, 0x77), (0, 0xff)] {
        chip.write(at, &[data]);
    }
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!((bytes[4], bytes[5], bytes[4096]), (0xff, 0x77, 0));
}

#[test]
fn a_snapshot_taken_within_a_command_goes_on() {
    let (mut chip, store) = chip();
    chip.write(0x40, &[0x10]);
    let saved = chip.save();
    let mut other = Flash::new("flash1", store.clone());
    other.restore(saved).unwrap();
    other.write(0x40, &[0x18]);
    assert_eq!(store.0.lock().unwrap().bytes[0x40], 0x18);
    let mut saved = other.save();
    saved.registers.next = Next::BufferConfirm { bytes: vec![(1 << 40, 0)] };
    assert!(matches!(other.restore(saved), Err(StateError::Field { .. })));
}

#[test]
fn random_accesses_never_panic_nor_leave_the_chip() {
    let (mut chip, store) = chip();
    let mut seed = 0x0bad_cafe_0000_0001_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let commands = [0x10, 0x40, 0x20, 0x50, 0x60, 0x70, 0x90, 0x98, 0xe8, 0xd0, 0xff, 0xf0, 1];
    for _ in 0..100_000 {
        let [choice, width, index, ..] = random().to_le_bytes();
        let at = random() >> (index % 64);
        let at = if choice & 0x40 == 0 { at % 0x4010 } else { at };
        let mut data = random().to_le_bytes();
        if choice & 0x80 == 0 {
            data[0] = commands[usize::from(index) % commands.len()];
        }
        let width = usize::from(width % 8) + 1;
        if choice % 4 == 0 {
            chip.read(at, &mut data[..width]);
        } else {
            chip.write(at, &data[..width]);
        }
    }
    chip.reset();
    assert!(chip.is_read_array());
    assert_eq!(store.size(), 4 * 4096);
}
