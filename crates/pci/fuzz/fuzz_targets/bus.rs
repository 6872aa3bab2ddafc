//! Random accesses to configuration ports, the ECAM window and BARs of a bus with three functions.
//! Run: `cargo +nightly fuzz run bus` in `crates/pci`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pci::{
    AddressSpace, Apertures, BarKind, Bus, ConfigSpace, Function, Identity, MsiMessage, MsiSink,
    Msix, MsixLayout, Region, SharedBytes, SharedMemory,
};
use std::sync::{Arc, Mutex};

struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _: MsiMessage) {}
}

/// Regions as told; panics when the bus contradicts itself.
#[derive(Default)]
struct Follower(Mutex<Vec<Region>>);

impl AddressSpace for Follower {
    fn added(&self, region: &Region) {
        let mut regions = self.0.lock().unwrap();
        for other in regions.iter().filter(|other| other.space == region.space) {
            let below = region.base + region.size <= other.base;
            assert!(below || other.base + other.size <= region.base);
        }
        regions.push(*region);
    }
    fn removed(&self, region: &Region) {
        let mut regions = self.0.lock().unwrap();
        let at = regions.iter().position(|other| other == region).unwrap();
        regions.remove(at);
    }
}

struct Device {
    config: ConfigSpace,
    msix: Msix,
}

impl Device {
    fn new(kind: BarKind) -> Self {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            ..Identity::default()
        });
        config.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
        config.add_bar(2, kind, 0x100).unwrap();
        config.add_express_endpoint().unwrap();
        let layout = MsixLayout {
            bar: 0,
            table: 0,
            pending: 0x800,
        };
        let msix = Msix::new(&mut config, 9, layout, Arc::new(Nowhere)).unwrap();
        Self { config, msix }
    }
}

impl Function for Device {
    fn name(&self) -> &str {
        "device"
    }
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }
    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        self.msix.config_written(&self.config);
    }
    fn bars(&self) -> Vec<(u8, BarKind, u64)> {
        self.config.bars()
    }
    fn bar_address(&self, index: u8) -> Option<u64> {
        self.config.bar_address(index)
    }
    fn read_bar(&mut self, _: u8, offset: u64, data: &mut [u8]) {
        self.msix.read(offset, data);
    }
    fn write_bar(&mut self, _: u8, offset: u64, data: &[u8]) {
        if !self.msix.write(offset, data) {
            self.msix.raise(u16::from(data[0]));
        }
    }
    fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
    }
}

/// Memory that only checks that accesses are inside it.
struct Bounds;

impl SharedBytes for Bounds {
    fn size(&self) -> u64 {
        1 << 20
    }
    fn read(&self, offset: u64, data: &mut [u8]) {
        assert!(offset + data.len() as u64 <= self.size());
    }
    fn write(&self, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= self.size());
    }
}

fuzz_target!(|input: &[u8]| {
    let apertures = Apertures {
        ports: (0x1000, 0xffff),
        memory: vec![(0xc000_0000, 0xfbff_ffff), (1 << 33, (1 << 40) - 1)],
    };
    let follower = Arc::new(Follower::default());
    let bus = Bus::new(apertures, follower.clone());
    for kind in [BarKind::Port, BarKind::Prefetchable64] {
        bus.add_anywhere(Arc::new(Mutex::new(Device::new(kind))))
            .unwrap();
    }
    let shared = SharedMemory::new(Bounds).unwrap();
    bus.add_anywhere(Arc::new(Mutex::new(shared))).unwrap();
    bus.program_without_firmware(0xb000_0000, 0x600);
    for step in input.chunks_exact(18) {
        let (head, rest) = step.split_at(2);
        let (address, data) = rest.split_at(8);
        let address = u64::from_le_bytes(address.try_into().unwrap());
        let port = address as u16;
        let mut data: [u8; 8] = data.try_into().unwrap();
        let length = [1, 2, 4, 8][usize::from(head[1] % 4)];
        let short = length.min(4);
        match head[0] % 8 {
            0 => drop(bus.read_port(port, &mut data[..short])),
            1 => drop(bus.write_port(port, &data[..short])),
            2 => drop(bus.read_memory(address, &mut data[..length])),
            3 => drop(bus.write_memory(address, &data[..length])),
            4 => bus.read_config(head[1] >> 2, port, &mut data[..length]),
            5 | 6 => bus.write_config(head[1] >> 4, port % 0x60, &data[..length]),
            _ if head[1] == 0 => bus.reset(),
            _ => {}
        }
    }
    let mut followed = follower.0.lock().unwrap().clone();
    followed.sort();
    assert_eq!(followed, bus.regions());
});
