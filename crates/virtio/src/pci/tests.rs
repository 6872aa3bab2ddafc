//! A driver written against the registers of the PCI transport.

use super::shared::NO_VECTOR;
use super::*;
use crate::rng::Rng;
use crate::test_support::{BUFFERS, RINGS, Random, attack_pci, memory};
use crate::{Interrupts, Session, StartError, Worker};
use pci::MsiMessage;
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const VERSION_1: u64 = 1 << 32;
const RING_RESET: u64 = 1 << 40;

/// The messages sent.
#[derive(Default)]
struct Sink {
    sent: Mutex<Vec<u32>>,
    more: Condvar,
}

impl MsiSink for Sink {
    fn send(&self, message: MsiMessage) {
        self.sent.lock().unwrap().push(message.data);
        self.more.notify_all();
    }
}

impl Sink {
    fn wait(&self, data: u32) {
        let sent = self.sent.lock().unwrap();
        let patience = Duration::from_secs(20);
        let absent = |sent: &mut Vec<u32>| !sent.contains(&data);
        let (_sent, timeout) = self.more.wait_timeout_while(sent, patience, absent).unwrap();
        assert!(!timeout.timed_out(), "no interrupt {data}");
    }

    fn clear(&self) {
        self.sent.lock().unwrap().clear();
    }
}

struct Driver {
    function: VirtioPci,
    memory: GuestMemory,
    sink: Arc<Sink>,
}

impl Driver {
    fn new(device: Box<dyn Device>) -> Self {
        let (memory, sink) = (memory(), Arc::new(Sink::default()));
        let function = VirtioPci::new(device, memory.clone(), sink.clone()).unwrap();
        Self { function, memory, sink }
    }

    fn rng() -> Self {
        Self::new(Box::new(Rng::new("rng0")))
    }

    fn read(&mut self, offset: u64, length: usize) -> u64 {
        let mut data = [0; 8];
        self.function.read_bar(VIRTIO_BAR, offset, &mut data[..length]);
        u64::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, length: usize, value: u64) {
        self.function.write_bar(VIRTIO_BAR, offset, &value.to_le_bytes()[..length]);
    }

    fn status(&mut self) -> u8 {
        self.read(0x14, 1) as u8
    }

    fn set_status(&mut self, status: u8) {
        self.write(0x14, 1, status.into());
    }

    fn set_features(&mut self, features: u64) {
        for half in 0..2 {
            self.write(0x08, 4, half);
            self.write(0x0c, 4, features >> (32 * half) & 0xffff_ffff);
        }
    }

    /// MSI-X on, vector `n` sends `0x40 + n`.
    fn enable_msix(&mut self) {
        for vector in 0..self.function.msix().vectors() {
            let entry = u64::from(vector) * 16;
            self.function.write_bar(MSIX_BAR, entry, &0xfee0_0000_u64.to_le_bytes());
            let data = u64::from(0x40 + vector);
            self.function.write_bar(MSIX_BAR, entry + 8, &data.to_le_bytes());
        }
        let capability = self.find_capability(0x11, None).unwrap();
        self.function.write_config(capability + 2, &0x8000_u16.to_le_bytes());
    }

    /// Walks the capability list as a driver does.
    fn find_capability(&mut self, id: u8, kind: Option<u8>) -> Option<u16> {
        let mut pointer = [0];
        self.function.read_config(0x34, &mut pointer);
        while pointer[0] != 0 {
            let mut head = [0; 4];
            self.function.read_config(pointer[0].into(), &mut head);
            if head[0] == id && kind.is_none_or(|kind| head[3] == kind) {
                return Some(pointer[0].into());
            }
            pointer[0] = head[1];
        }
        None
    }

    /// Reset to DRIVER_OK with queue 0 of 8 entries at [`RINGS`], vectors 0 (config) and 1.
    fn bring_up(&mut self, features: u64) {
        self.set_status(0);
        self.set_status(ACKNOWLEDGE | DRIVER);
        self.set_features(features);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_ne!(self.status() & FEATURES_OK, 0);
        self.write(0x10, 2, 0);
        self.set_up_queue(RINGS);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn set_up_queue(&mut self, at: u64) {
        self.write(0x16, 2, 0);
        self.write(0x18, 2, 8);
        self.write(0x1a, 2, 1);
        self.write(0x20, 4, at & 0xffff_ffff);
        self.write(0x24, 4, at >> 32);
        self.write(0x28, 8, at + 0x100);
        self.write(0x30, 8, at + 0x200);
        self.write(0x1c, 2, 1);
    }

    /// Makes one request of 16 writable bytes available as number `n` and rings.
    fn request(&mut self, n: u16) {
        let memory = self.memory.memory();
        memory.write_obj(BUFFERS, GuestAddress(RINGS)).unwrap();
        // Length 16, flag WRITE, no next.
        memory.write_obj(16_u64 | 2 << 32, GuestAddress(RINGS + 8)).unwrap();
        memory.write_obj(0_u16, GuestAddress(RINGS + 0x104 + 2 * u64::from(n % 8))).unwrap();
        memory.write_obj(n + 1, GuestAddress(RINGS + 0x102)).unwrap();
        self.write(NOTIFY, 2, 0);
    }

    fn used_index(&self) -> u16 {
        self.memory.memory().read_obj(GuestAddress(RINGS + 0x202)).unwrap()
    }
}

#[test]
fn the_driver_finds_every_structure_where_the_capabilities_say() {
    let mut driver = Driver::rng();
    let mut ids = [0; 4];
    driver.function.read_config(0, &mut ids);
    assert_eq!(ids, [0xf4, 0x1a, 0x44, 0x10]);
    for (kind, offset, length) in [
        (CAP_COMMON, COMMON, 0x3c),
        (CAP_NOTIFY, NOTIFY, 4),
        (CAP_ISR, ISR, 1),
        (CAP_DEVICE, DEVICE, 0x1000),
    ] {
        let at = driver.find_capability(CAPABILITY_VENDOR, Some(kind)).unwrap();
        let mut body = [0; 16];
        driver.function.read_config(at, &mut body);
        assert_eq!(body[4], VIRTIO_BAR);
        assert_eq!(u32::from_le_bytes(body[8..12].try_into().unwrap()), offset as u32);
        assert_eq!(u32::from_le_bytes(body[12..16].try_into().unwrap()), length);
    }
    let bars = driver.function.bars();
    assert_eq!(bars, [(0, BarKind::Memory32, 0x1000), (4, BarKind::Memory32, 0x4000)]);
}

#[test]
fn a_request_is_answered_and_interrupts_on_the_queues_vector() {
    let mut driver = Driver::rng();
    driver.enable_msix();
    driver.bring_up(VERSION_1);
    driver.request(0);
    driver.sink.wait(0x41);
    assert_eq!(driver.used_index(), 1);
    assert_eq!(driver.read(ISR, 1), 0, "with MSI-X the ISR stays 0");
}

#[test]
fn without_msix_the_isr_tells_once() {
    let mut driver = Driver::rng();
    driver.bring_up(VERSION_1);
    driver.request(0);
    while driver.used_index() == 0 {
        std::thread::yield_now();
    }
    driver.function.pause();
    assert_eq!(driver.read(ISR, 1), 1);
    assert_eq!(driver.read(ISR, 1), 0);
}

#[test]
fn features_not_offered_or_without_version_1_are_refused() {
    let mut driver = Driver::rng();
    for features in [0, 1 << 28, VERSION_1 | 1, VERSION_1 | 1 << 63] {
        driver.set_status(0);
        driver.set_status(ACKNOWLEDGE | DRIVER);
        driver.set_features(features);
        driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "{features:#x}");
        driver.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "no DRIVER_OK without features");
    }
}

#[test]
fn features_and_queues_stay_once_agreed() {
    let mut driver = Driver::rng();
    driver.bring_up(VERSION_1);
    driver.set_features(0);
    assert_eq!(driver.function.driver_features, VERSION_1);
    driver.write(0x18, 2, 4);
    driver.write(0x20, 8, 0x5000);
    driver.write(0x1c, 2, 0);
    assert_eq!(driver.read(0x18, 2), 8);
    assert_eq!(driver.read(0x20, 8), RINGS);
    assert_eq!(driver.read(0x1c, 2), 1);
    driver.set_status(ACKNOWLEDGE);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

#[test]
fn a_queue_outside_memory_needs_a_reset_and_tells_the_driver() {
    let mut driver = Driver::rng();
    driver.enable_msix();
    for at in [0x1000_0000, u64::MAX - 0xfff, RINGS + 8] {
        driver.sink.clear();
        driver.set_status(0);
        driver.set_status(ACKNOWLEDGE | DRIVER);
        driver.set_features(VERSION_1);
        driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        driver.write(0x10, 2, 0);
        driver.set_up_queue(at);
        driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_ne!(driver.status() & NEEDS_RESET, 0, "{at:#x}");
        driver.sink.wait(0x40);
    }
    driver.memory.memory().write_slice(&[0; 0x400], GuestAddress(RINGS)).unwrap();
    driver.bring_up(VERSION_1);
    driver.request(0);
    driver.sink.wait(0x41);
}

#[test]
fn a_queue_is_reset_alone_and_goes_on_with_new_rings() {
    let mut driver = Driver::rng();
    driver.enable_msix();
    driver.bring_up(VERSION_1 | RING_RESET);
    driver.request(0);
    driver.sink.wait(0x41);
    driver.write(0x3a, 2, 1);
    // Over when the driver looks (virtio 1.2, 4.1.4.3.1), and the queue as after power-on.
    assert_eq!(driver.read(0x3a, 2), 0);
    assert_eq!(driver.read(0x1c, 2), 0);
    assert_eq!(driver.read(0x20, 8), 0);
    assert_eq!(driver.read(0x1a, 2), u64::from(NO_VECTOR));
    // What is made available meanwhile is not looked at (2.6.1.1.1).
    driver.sink.clear();
    driver.request(1);
    driver.function.pause();
    driver.function.resume();
    assert_eq!(driver.used_index(), 1);
    assert_eq!(driver.status() & (DRIVER_OK | NEEDS_RESET), DRIVER_OK);
    // A new ring starts from its first entry.
    let memory = driver.memory.memory();
    memory.write_obj(0_u32, GuestAddress(RINGS + 0x100)).unwrap();
    memory.write_obj(0_u32, GuestAddress(RINGS + 0x200)).unwrap();
    driver.set_up_queue(RINGS);
    driver.request(0);
    driver.sink.wait(0x41);
    assert_eq!(driver.used_index(), 1);
}

#[test]
fn a_device_that_needs_a_queue_waits_for_it_and_is_not_broken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vsock.sock");
    let mut driver =
        Driver::new(Box::new(crate::vsock::Vsock::new("vsock0", 3, &path, None).unwrap()));
    let set_up = |driver: &mut Driver, queue: u64| {
        let at = RINGS + 0x1000 * queue;
        for (offset, length, value) in [
            (0x16, 2, queue),
            (0x18, 2, 8),
            (0x20, 8, at),
            (0x28, 8, at + 0x100),
            (0x30, 8, at + 0x200),
            (0x1c, 2, 1),
        ] {
            driver.write(offset, length, value);
        }
    };
    driver.set_status(ACKNOWLEDGE | DRIVER);
    driver.set_features(VERSION_1 | RING_RESET);
    driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    set_up(&mut driver, 0);
    set_up(&mut driver, 1);
    driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert!(driver.function.running.is_some());
    driver.write(0x16, 2, 1);
    driver.write(0x3a, 2, 1);
    assert!(driver.function.running.is_none());
    assert_eq!(driver.status() & NEEDS_RESET, 0);
    set_up(&mut driver, 1);
    assert!(driver.function.running.is_some());
}

#[test]
fn without_the_feature_a_queue_is_not_reset() {
    let mut driver = Driver::rng();
    driver.bring_up(VERSION_1);
    for value in [0, 1, 2] {
        driver.write(0x3a, 2, value);
        assert_eq!(driver.read(0x1c, 2), 1);
    }
    let mut driver = Driver::rng();
    driver.bring_up(VERSION_1 | RING_RESET);
    for (queue, value) in [(0, 0), (0, 2), (1, 1), (0xffff, 1)] {
        driver.write(0x16, 2, queue);
        driver.write(0x3a, 2, value);
    }
    driver.write(0x16, 2, 0);
    assert_eq!(driver.read(0x1c, 2), 1);
}

#[test]
fn a_jumping_index_needs_a_reset() {
    let mut driver = Driver::rng();
    driver.enable_msix();
    driver.bring_up(VERSION_1);
    driver.memory.memory().write_obj(1000_u16, GuestAddress(RINGS + 0x102)).unwrap();
    driver.write(NOTIFY, 2, 0);
    driver.sink.wait(0x40);
    assert_ne!(driver.status() & NEEDS_RESET, 0);
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn nothing_is_answered_while_paused_and_nothing_is_lost() {
    let mut driver = Driver::rng();
    driver.enable_msix();
    driver.bring_up(VERSION_1);
    driver.request(0);
    driver.sink.wait(0x41);
    driver.function.pause();
    driver.sink.clear();
    driver.request(1);
    assert_eq!(driver.used_index(), 1);
    driver.function.resume();
    driver.sink.wait(0x41);
    assert_eq!(driver.used_index(), 2);
}

#[test]
fn a_saved_function_goes_on_in_another_one() {
    let mut driver = Driver::rng();
    driver.enable_msix();
    driver.bring_up(VERSION_1);
    driver.request(0);
    driver.sink.wait(0x41);
    driver.function.pause();
    let text = serde_json::to_string(&driver.function.save()).unwrap();

    let mut other = Driver { memory: driver.memory.clone(), ..Driver::rng() };
    let device = Box::new(Rng::new("rng0"));
    other.function = VirtioPci::new(device, other.memory.clone(), other.sink.clone()).unwrap();
    other.function.restore(&serde_json::from_str(&text).unwrap()).unwrap();
    other.request(1);
    other.function.resume();
    other.sink.wait(0x41);
    assert_eq!(other.used_index(), 2);

    let wrong = text.replace("\"size\":8", "\"size\":7");
    let error = other.function.restore(&serde_json::from_str(&wrong).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "rng0: saved queue size is 7, allowed here is 64");
}

#[test]
fn the_configuration_window_reaches_the_registers() {
    let mut driver = Driver::rng();
    let window = driver.find_capability(CAPABILITY_VENDOR, Some(CAP_PCI)).unwrap();
    let mut through = |offset: u32, value: Option<u8>| {
        driver.function.write_config(window + 4, &[VIRTIO_BAR]);
        driver.function.write_config(window + 8, &offset.to_le_bytes());
        driver.function.write_config(window + 12, &1_u32.to_le_bytes());
        if let Some(value) = value {
            driver.function.write_config(window + 16, &[value]);
        }
        let mut data = [0; 4];
        driver.function.read_config(window + 16, &mut data);
        data[0]
    };
    assert_eq!(through(0x14, Some(ACKNOWLEDGE)), ACKNOWLEDGE);
    assert_eq!(driver.status(), ACKNOWLEDGE);
}

#[test]
fn every_queue_has_a_doorbell_that_wakes_its_worker() {
    let mut driver = Driver::rng();
    driver.enable_msix();
    driver.bring_up(VERSION_1);
    let bells = driver.function.doorbells();
    assert_eq!(bells.len(), 1);
    assert_eq!((bells[0].bar, bells[0].offset), (VIRTIO_BAR, NOTIFY));
    let memory = driver.memory.memory();
    memory.write_obj(BUFFERS, GuestAddress(RINGS)).unwrap();
    memory.write_obj(16_u64 | 2 << 32, GuestAddress(RINGS + 8)).unwrap();
    memory.write_obj(1_u16, GuestAddress(RINGS + 0x102)).unwrap();
    rustix::io::write(bells[0].event, &1_u64.to_ne_bytes()).unwrap();
    driver.sink.wait(0x41);
}

/// Cannot start, or changes its configuration when told.
struct Odd {
    fails: bool,
    interrupts: Arc<Mutex<Option<Arc<dyn Interrupts>>>>,
}

impl Device for Odd {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }
    fn name(&self) -> &str {
        "odd"
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![8]
    }
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(7);
    }
    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        if self.fails {
            return Err(StartError { device: "odd", reason: "told to".to_owned() });
        }
        *self.interrupts.lock().unwrap() = Some(session.interrupts);
        Ok(Vec::new())
    }
}

#[test]
fn a_device_that_cannot_start_asks_for_a_reset() {
    let mut driver = Driver::new(Box::new(Odd { fails: true, interrupts: Arc::default() }));
    driver.bring_up(VERSION_1);
    assert_ne!(driver.status() & NEEDS_RESET, 0);
}

#[test]
fn a_configuration_change_moves_the_generation_and_interrupts() {
    let interrupts = Arc::new(Mutex::default());
    let mut driver = Driver::new(Box::new(Odd { fails: false, interrupts: interrupts.clone() }));
    driver.enable_msix();
    driver.bring_up(VERSION_1);
    let before = driver.read(0x15, 1);
    assert_eq!(driver.read(DEVICE, 4), 0x0707_0707);
    interrupts.lock().unwrap().as_ref().unwrap().config_changed();
    driver.sink.wait(0x40);
    assert_eq!(driver.read(0x15, 1), (before + 1) & 0xff);
}

#[test]
fn random_accesses_harm_nobody() {
    for seed in 0..20 {
        attack_pci(Box::new(Rng::new("rng0")), &mut Random::new(seed));
    }
}
