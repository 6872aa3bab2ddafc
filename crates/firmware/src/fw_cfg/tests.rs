use super::*;
use crate::AcpiConfig;
use chipset::{Device, PortDevice};
use layout::{ECAM_SIZE, MemoryMap, Range};
use std::sync::{Arc, Mutex};
use units::{Bytes, GuestPhysical};

/// Guest RAM of 64 KiB.
#[derive(Clone)]
struct Ram(Arc<Mutex<Vec<u8>>>);

impl Ram {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(vec![0xee; 0x1_0000])))
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        self.0.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn get(&self, at: usize, length: usize) -> Vec<u8> {
        self.0.lock().unwrap()[at..at + length].to_vec()
    }
}

impl DmaMemory for Ram {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let ram = self.0.lock().unwrap();
        let Some(from) =
            usize::try_from(address).ok().and_then(|at| ram.get(at..)?.get(..data.len()))
        else {
            return false;
        };
        data.copy_from_slice(from);
        true
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        let mut ram = self.0.lock().unwrap();
        let place =
            usize::try_from(address).ok().and_then(|at| ram.get_mut(at..)?.get_mut(..data.len()));
        place.map(|place| place.copy_from_slice(data)).is_some()
    }
}

fn items() -> Items {
    let basics = Basics { uuid: [7; 16], ram: 2 << 30, processors: 3 };
    let mut items = Items::new(&basics);
    items.add_file("opt/hello", b"hello, firmware".to_vec()).unwrap();
    items
}

fn device() -> (FwCfg, Ram) {
    let ram = Ram::new();
    (FwCfg::new(items(), Box::new(ram.clone())), ram)
}

fn select(device: &mut FwCfg, item: u16) {
    device.write(0x510, &item.to_le_bytes());
}

fn bytes(device: &mut FwCfg, length: usize) -> Vec<u8> {
    (0..length)
        .map(|_| {
            let mut byte = [0];
            device.read(0x511, &mut byte);
            byte[0]
        })
        .collect()
}

/// Reads the directory as firmware does.
fn directory(device: &mut FwCfg) -> Vec<(String, u16, u32)> {
    select(device, 0x19);
    let count = u32::from_be_bytes(bytes(device, 4).try_into().unwrap());
    (0..count)
        .map(|_| {
            let entry = bytes(device, 64);
            let name = entry[8..].split(|byte| *byte == 0).next().unwrap().to_vec();
            (
                String::from_utf8(name).unwrap(),
                u16::from_be_bytes([entry[4], entry[5]]),
                u32::from_be_bytes(entry[..4].try_into().unwrap()),
            )
        })
        .collect()
}

fn find(device: &mut FwCfg, name: &str) -> (u16, u32) {
    let found = directory(device).into_iter().find(|entry| entry.0 == name).unwrap();
    (found.1, found.2)
}

/// Puts a request at 0x8000, rings, and gives the control word as left by the device.
fn dma(device: &mut FwCfg, ram: &Ram, control: u32, length: u32, address: u64) -> u32 {
    ram.put(0x8000, &control.to_be_bytes());
    ram.put(0x8004, &length.to_be_bytes());
    ram.put(0x8008, &address.to_be_bytes());
    device.write(0x514, &0u32.to_be_bytes());
    device.write(0x518, &0x8000u32.to_be_bytes());
    u32::from_be_bytes(ram.get(0x8000, 4).try_into().unwrap())
}

#[test]
fn the_signature_and_features_are_where_firmware_looks() {
    let (mut device, _) = device();
    select(&mut device, 0);
    assert_eq!(bytes(&mut device, 6), b"QEMU\0\0");
    select(&mut device, 1);
    assert_eq!(bytes(&mut device, 4), [3, 0, 0, 0]);
    select(&mut device, 5);
    assert_eq!(bytes(&mut device, 2), [3, 0]);
    let mut signature = [0; 8];
    let (high, low) = signature.split_at_mut(4);
    device.read(0x514, high);
    device.read(0x518, low);
    assert_eq!(&signature, b"QEMU CFG");
}

#[test]
fn files_are_found_by_name() {
    let (mut device, _) = device();
    let names: Vec<_> = directory(&mut device).into_iter().map(|entry| entry.0).collect();
    assert_eq!(names, ["etc/system-states", "opt/hello"]);
    let (number, size) = find(&mut device, "opt/hello");
    select(&mut device, number);
    assert_eq!(bytes(&mut device, usize::try_from(size).unwrap()), b"hello, firmware");
}

#[test]
fn dma_selects_skips_and_reads_with_zeros_past_the_end() {
    let (mut device, ram) = device();
    let (number, _) = find(&mut device, "opt/hello");
    let item = u32::from(number) << 16;
    assert_eq!(dma(&mut device, &ram, item | 0b1100, 7, 0), 0);
    assert_eq!(dma(&mut device, &ram, 0b10, 12, 0x100), 0);
    assert_eq!(ram.get(0x100, 13), b"firmware\0\0\0\0\xee");
    assert_eq!(dma(&mut device, &ram, 0b10, 4, 0x100), 0);
    assert_eq!(ram.get(0x100, 4), [0; 4]);
    assert_eq!(dma(&mut device, &ram, item | 0b1010, 5, 0x200), 0);
    assert_eq!(ram.get(0x200, 5), b"hello");
}

#[test]
fn dma_outside_ram_or_to_an_item_is_an_error() {
    let (mut device, ram) = device();
    let (number, _) = find(&mut device, "opt/hello");
    let item = u32::from(number) << 16;
    for address in [0xfffc, 0x1_0000, u64::MAX, u64::MAX - 7] {
        assert_eq!(dma(&mut device, &ram, item | 0b1010, 8, address), 1, "{address:#x}");
    }
    assert_eq!(dma(&mut device, &ram, item | 0b1010, u32::MAX, 0x9000), 1);
    assert_eq!(dma(&mut device, &ram, item | 0b1_1000, 4, 0x100), 1, "items are read-only");
    // A request that is itself not in RAM goes nowhere.
    device.write(0x514, &u32::MAX.to_be_bytes());
    device.write(0x518, &u32::MAX.to_be_bytes());
}

#[test]
fn names_are_checked() {
    let mut items = items();
    assert_eq!(items.add_file("opt/hello", vec![]), Err(FileError::Exists("opt/hello".into())));
    for name in ["", "a b", &"x".repeat(56)] {
        assert_eq!(items.add_file(name, vec![]), Err(FileError::Name(name.into())));
    }
    items.add_file(&"x".repeat(55), vec![]).unwrap();
    for n in 0..29 {
        items.add_file(&format!("opt/{n}"), vec![]).unwrap();
    }
    assert_eq!(items.add_file("opt/last", vec![]), Err(FileError::Full("opt/last".into())));
}

#[test]
fn ram_and_boot_order_are_files() {
    let mut items = items();
    items.add_ram(&MemoryMap::new(Bytes::gib(4), 40).unwrap()).unwrap();
    items.add_boot_order(&["/pci@i0cf8/scsi@3/disk@0,0".into()]).unwrap();
    let mut device = FwCfg::new(items, Box::new(Ram::new()));
    assert_eq!(find(&mut device, "etc/e820").1, 40);
    let (number, size) = find(&mut device, "bootorder");
    select(&mut device, number);
    let order = bytes(&mut device, usize::try_from(size).unwrap());
    assert_eq!(order, b"/pci@i0cf8/scsi@3/disk@0,0\0");
}

#[test]
fn acpi_tables_describe_the_machine_as_it_is_when_they_are_read() {
    let ecam = Arc::new(Mutex::new(None));
    let seen = ecam.clone();
    let map = MemoryMap::new(Bytes::gib(4), 40).unwrap();
    let source = move || AcpiConfig {
        processors: 1,
        map: map.clone(),
        ecam: *seen.lock().unwrap(),
        pm_base: 0x600,
        virtio: Vec::new(),
    };
    let mut device = FwCfg::with_acpi(items(), Box::new(Ram::new()), Box::new(source)).unwrap();
    let mut tables = |name| {
        let (number, size) = find(&mut device, name);
        select(&mut device, number);
        bytes(&mut device, usize::try_from(size).unwrap())
    };
    let holds = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(!holds(&tables(crate::TABLES_FILE), b"MCFG"));
    *ecam.lock().unwrap() = Some(Range { base: GuestPhysical(0xe000_0000), size: ECAM_SIZE });
    // The commands are read first; all three files follow.
    assert_eq!(tables(crate::LOADER_FILE).len() % 128, 0);
    assert!(holds(&tables(crate::TABLES_FILE), b"MCFG"));
    assert_eq!(&tables(crate::RSDP_FILE)[..8], b"RSD PTR ");
}

#[test]
fn random_port_accesses_never_panic() {
    let (mut device, ram) = device();
    let mut seed = 0x0dd0_feed_1234_5678_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..100_000 {
        let value = random();
        let [port, kind, width, ..] = value.to_le_bytes();
        let port = 0x510 + u16::from(port % 16);
        let width = [1, 2, 4][usize::from(width % 3)];
        let mut data = random().to_le_bytes();
        match kind % 8 {
            0..=2 => device.write(port, &data[..width]),
            3..=5 => device.read(port, &mut data[..width]),
            6 => {
                // A request whose fields are small often enough to be carried out.
                let (control, length) =
                    (u32::from(data[0] & 0x1f), u32::from(data[1]) << (data[2] % 25));
                let item = u32::from(data[3] % 40) << 16;
                let address = random() >> (data[4] % 64);
                dma(&mut device, &ram, item | control, length, address);
            }
            _ if data[0] == 0 => device.reset(),
            _ => {}
        }
    }
    select(&mut device, 0);
    assert_eq!(bytes(&mut device, 4), b"QEMU", "items are as they were");
}
