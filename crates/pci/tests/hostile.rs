//! A guest that writes anything anywhere: the bus stays whole.

use pci::{
    AddressSpace, Apertures, BarKind, Bus, ConfigSpace, Function, Identity, MsiMessage, MsiSink,
    Msix, MsixLayout, Owner, Region, Space,
};
use std::sync::{Arc, Mutex};

/// xorshift64 (Marsaglia 2003): the same accesses on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Default)]
struct Sent(Mutex<u64>);

impl MsiSink for Sent {
    fn send(&self, _: MsiMessage) {
        *self.0.lock().unwrap() += 1;
    }
}

/// Follows the regions as the machine's address spaces would, and holds the bus to its word.
#[derive(Default)]
struct Follower(Mutex<Vec<Region>>);

impl AddressSpace for Follower {
    fn added(&self, region: &Region) {
        let mut regions = self.0.lock().unwrap();
        for other in regions.iter().filter(|r| r.space == region.space) {
            let apart =
                region.base + region.size <= other.base || other.base + other.size <= region.base;
            assert!(apart, "{region:x?} over {other:x?}");
        }
        regions.push(*region);
    }

    fn removed(&self, region: &Region) {
        let mut regions = self.0.lock().unwrap();
        let at = regions.iter().position(|r| r == region);
        regions.remove(at.expect("removed what was never added"));
    }
}

/// A device with BARs of several kinds whose registers are scratch memory.
struct Scratch {
    config: ConfigSpace,
    msix: Msix,
    registers: [u8; 256],
}

impl Scratch {
    fn new(vectors: u16, bars: &[(u8, BarKind, u64)], sink: Arc<dyn MsiSink>) -> Self {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1041,
            class: 0x02_00_00,
            ..Identity::default()
        });
        let size = (0x1000 + Msix::pending_size(vectors)).next_power_of_two();
        config.add_bar(1, BarKind::Memory32, size.max(Msix::table_size(vectors))).unwrap();
        for (index, kind, size) in bars {
            config.add_bar(*index, *kind, *size).unwrap();
        }
        config.add_express_endpoint().unwrap();
        let layout = MsixLayout { bar: 1, table: 0, pending: 0x1000 };
        let msix = Msix::new(&mut config, vectors, layout, sink).unwrap();
        Self { config, msix, registers: [0; 256] }
    }
}

impl Function for Scratch {
    fn name(&self) -> &str {
        "scratch"
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
    fn read_bar(&mut self, index: u8, offset: u64, data: &mut [u8]) {
        if index == 1 && self.msix.read(offset, data) {
            return;
        }
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = usize::try_from(at)
                .ok()
                .and_then(|at| self.registers.get(at))
                .copied()
                .unwrap_or(0);
        }
    }
    fn write_bar(&mut self, index: u8, offset: u64, data: &[u8]) {
        if index == 1 && self.msix.write(offset, data) {
            return;
        }
        for (byte, at) in data.iter().zip(offset..) {
            if let Some(old) = usize::try_from(at).ok().and_then(|at| self.registers.get_mut(at)) {
                *old = *byte;
            }
        }
    }
    fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
    }
}

const ECAM: u64 = 0xb000_0000;

struct Machine {
    bus: Bus,
    follower: Arc<Follower>,
    sent: Arc<Sent>,
    handles: Vec<Msix>,
}

fn machine() -> Machine {
    let follower = Arc::new(Follower::default());
    let sent = Arc::new(Sent::default());
    let apertures = Apertures {
        ports: (0x1000, 0xffff),
        memory: vec![(0xaffe_0000, 0xfbff_ffff), (0x1_4000_0000, 0xff_ffff_ffff)],
    };
    let bus = Bus::new(apertures, follower.clone());
    let mut handles = Vec::new();
    type Shape = (u16, &'static [(u8, BarKind, u64)]);
    let shapes: [Shape; 3] = [
        (3, &[(4, BarKind::Prefetchable64, 0x4000)]),
        (64, &[(0, BarKind::Port, 64), (2, BarKind::Memory64, 0x1_0000_0000)]),
        (200, &[(0, BarKind::Memory32, 16), (3, BarKind::Port, 256)]),
    ];
    for (vectors, bars) in shapes {
        let function = Scratch::new(vectors, bars, sent.clone());
        handles.push(function.msix.clone());
        bus.add_anywhere(Arc::new(Mutex::new(function))).unwrap();
    }
    Machine { bus, follower, sent, handles }
}

fn check(machine: &Machine) {
    let mut followed = machine.follower.0.lock().unwrap().clone();
    followed.sort();
    assert_eq!(followed, machine.bus.regions());
    for region in &followed {
        let last = region.base + region.size - 1;
        match (region.owner, region.space) {
            (Owner::Bar { .. }, Space::Port) => assert!(region.base >= 0x1000 && last <= 0xffff),
            (Owner::Bar { .. }, Space::Memory) => assert!(
                (region.base >= 0xaffe_0000 && last < 0xfc00_0000)
                    || (region.base >= 0x1_4000_0000 && last <= 0xff_ffff_ffff),
                "{region:x?}"
            ),
            (Owner::Ecam, _) => assert!(last < 1 << 36),
            (Owner::PowerManagement, _) => assert!(region.base >= 0x400),
        }
    }
    for (device, identity) in [(0, 0x29c0_8086), (1, 0x1041_1af4), (31, 0x2918_8086u32)] {
        let mut id = [0; 4];
        machine.bus.read_config(device, 0, &mut id);
        assert_eq!(u32::from_le_bytes(id), identity);
    }
}

#[test]
fn random_accesses_break_no_invariant() {
    let machine = machine();
    let bus = &machine.bus;
    bus.program_without_firmware(ECAM, 0x600);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..60_000 {
        let length = [1, 2, 4, 8][usize::try_from(random.below(4)).unwrap()];
        let mut data = random.next().to_le_bytes();
        if random.below(4) == 0 {
            data = [[0; 8], [0xff; 8]][usize::from(data[0] & 1)];
        }
        let data = &mut data[..length];
        // Addresses near something decoded half of the time.
        let regions = bus.regions();
        let (space, address) = if regions.is_empty() || random.below(2) == 0 {
            let space = if random.below(2) == 0 { Space::Port } else { Space::Memory };
            (space, random.next() >> random.below(64))
        } else {
            let region = regions[usize::try_from(random.next()).unwrap() % regions.len()];
            let near = random.below(region.size.min(0x9000) + 16);
            (region.space, (region.base + near).wrapping_sub(8))
        };
        let port = u16::try_from(address & 0xffff).unwrap();
        let four = length.min(4);
        match (random.below(8), space) {
            (0, Space::Port) => drop(bus.read_port(port, &mut data[..four])),
            (1, Space::Port) => drop(bus.write_port(port, &data[..four])),
            (0, Space::Memory) => drop(bus.read_memory(address, data)),
            (1 | 2, Space::Memory) => drop(bus.write_memory(address, data)),
            (2..=4, _) => {
                let target = 0x8000_0000 | (random.next() & 0xf8fc);
                bus.write_port(0xcf8, &u32::try_from(target).unwrap().to_le_bytes());
                bus.write_port(0xcfc + u16::try_from(random.below(4)).unwrap(), &data[..four]);
            }
            (5, _) => {
                let device = u8::try_from(random.below(4)).unwrap();
                bus.write_config(device, u16::try_from(random.below(0x70)).unwrap(), data);
            }
            (6, _) => {
                let handle = &machine.handles[usize::try_from(random.below(3)).unwrap()];
                handle.raise(u16::try_from(random.below(210)).unwrap());
            }
            _ => bus.read_config(port.to_le_bytes()[0], port & 0xfff, data),
        }
        if round % 64 == 0 {
            check(&machine);
        }
        if round % 10_000 == 9_999 {
            bus.reset();
            assert_eq!(bus.regions(), []);
            bus.program_without_firmware(ECAM, 0x600);
            // Decoding on, so that the next rounds have BARs to hit.
            for device in 1..4 {
                bus.write_config(device, 4, &7u16.to_le_bytes());
            }
            check(&machine);
            assert!(bus.regions().len() >= 8);
        }
    }
    assert!(*machine.sent.0.lock().unwrap() > 0, "no interrupt ever got through");
}

#[test]
fn ports_and_window_reach_the_same_registers() {
    let machine = machine();
    let bus = &machine.bus;
    bus.program_without_firmware(ECAM, 0x600);
    // Device 2, register 0x3c, by byte through the data port's fourth byte and by word in ECAM.
    assert!(bus.write_port(0xcf8, &0x8000_103cu32.to_le_bytes()));
    assert!(bus.write_port(0xcfc, &[0x0b]));
    let mut word = [0; 2];
    assert!(bus.read_memory(ECAM + (2 << 15) + 0x3c, &mut word));
    assert_eq!(word, [0x0b, 0]);
    let mut address = [0; 4];
    assert!(bus.read_port(0xcf8, &mut address));
    assert_eq!(u32::from_le_bytes(address), 0x8000_103c);
    assert!(!bus.read_port(0xcf9, &mut [0]), "the reset register is not ours");
    let mut absent = [0; 4];
    assert!(bus.read_memory(ECAM + (9 << 15), &mut absent));
    assert_eq!(absent, [0xff; 4]);
    assert!(bus.read_memory(ECAM + (1 << 20), &mut absent), "bus 1 is inside the window");
    assert_eq!(absent, [0xff; 4]);
}

#[test]
fn a_bar_laid_over_another_waits_until_there_is_room() {
    let machine = machine();
    let bus = &machine.bus;
    let base = |device: u8, address: u32| {
        bus.write_config(device, 0x14, &address.to_le_bytes());
        bus.write_config(device, 4, &2u16.to_le_bytes());
    };
    base(1, 0xc000_0000);
    base(2, 0xc000_1000);
    let owner = |device| Owner::Bar { device, index: 1 };
    let decoded = |device| bus.regions().iter().any(|r| r.owner == owner(device));
    assert!(decoded(1) && !decoded(2));
    base(1, 0xd000_0000);
    assert!(decoded(1) && decoded(2));
    base(1, 0x1000);
    assert!(!decoded(1), "a BAR over RAM is not decoded");
}

#[test]
fn a_snapshot_brings_the_regions_back() {
    let machine = machine();
    let bus = &machine.bus;
    bus.program_without_firmware(ECAM, 0x600);
    let regions = bus.regions();
    let state = bus.save();
    bus.reset();
    bus.restore(&state).unwrap();
    assert_eq!(bus.regions(), regions);
}
