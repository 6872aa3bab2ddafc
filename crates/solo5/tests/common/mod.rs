//! A machine without a processor: memory, a console, a clock, a disk and a card.
// Each test uses some of it.
#![allow(dead_code, unreachable_pub)]

use solo5::{Block, Clock, Console, Devices, GuestMemory, Net, Tender, Unikernel};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use units::GuestPhysical;

pub struct Memory(pub Mutex<Vec<u8>>);

impl Memory {
    pub fn new(size: usize) -> Self {
        Self(Mutex::new(vec![0; size]))
    }

    fn range(&self, at: GuestPhysical, length: u64) -> Option<std::ops::Range<usize>> {
        let end = at.0.checked_add(length)?;
        (end <= self.0.lock().unwrap().len() as u64).then_some(at.0 as usize..end as usize)
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        assert!(self.write(GuestPhysical(at), bytes));
    }

    pub fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert!(self.read(GuestPhysical(at), &mut bytes));
        bytes
    }

    pub fn long(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    pub fn word(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.get(at))
    }
}

impl GuestMemory for Memory {
    fn holds(&self, address: GuestPhysical, length: u64) -> bool {
        self.range(address, length).is_some()
    }

    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> bool {
        let Some(range) = self.range(address, into.len() as u64) else {
            return false;
        };
        into.copy_from_slice(&self.0.lock().unwrap()[range]);
        true
    }

    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> bool {
        let Some(range) = self.range(address, bytes.len() as u64) else {
            return false;
        };
        self.0.lock().unwrap()[range].copy_from_slice(bytes);
        true
    }
}

/// Everything outside the guest, seen from the test.
#[derive(Clone, Default)]
pub struct World {
    pub printed: Arc<Mutex<Vec<u8>>>,
    pub now: Arc<AtomicU64>,
    pub disk: Arc<Mutex<Vec<u8>>>,
    pub broken: Arc<Mutex<bool>>,
    pub sent: Arc<Mutex<Vec<Vec<u8>>>>,
    pub inbox: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

pub const WALL: u64 = 1_795_654_800_000_000_000;

impl Console for World {
    fn write(&mut self, bytes: &[u8]) {
        self.printed.lock().unwrap().extend_from_slice(bytes);
    }
}

impl Clock for World {
    fn wall(&self) -> u64 {
        WALL + self.now.load(Relaxed)
    }

    fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }
}

impl Block for World {
    fn capacity(&self) -> u64 {
        self.disk.lock().unwrap().len() as u64
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool {
        let from = offset as usize;
        into.copy_from_slice(&self.disk.lock().unwrap()[from..from + into.len()]);
        !*self.broken.lock().unwrap()
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let from = offset as usize;
        self.disk.lock().unwrap()[from..from + bytes.len()].copy_from_slice(bytes);
        !*self.broken.lock().unwrap()
    }
}

impl Net for World {
    fn mac(&self) -> [u8; 6] {
        [0x52, 0x54, 0, 1, 2, 3]
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn send(&mut self, frame: &[u8]) {
        self.sent.lock().unwrap().push(frame.to_vec());
    }

    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        let frame = self.inbox.lock().unwrap().pop_front()?;
        let count = frame.len().min(into.len());
        into[..count].copy_from_slice(&frame[..count]);
        Some(count)
    }

    fn ready(&mut self) -> bool {
        !self.inbox.lock().unwrap().is_empty()
    }
}

impl World {
    pub fn with_disk(size: usize) -> Self {
        let world = Self::default();
        world.disk.lock().unwrap().resize(size, 0);
        world
    }

    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed.lock().unwrap()).into_owned()
    }

    /// One disk and one card.
    pub fn devices(&self, unikernel: &Unikernel<'_>) -> Devices {
        let (block, net) = (Box::new(self.clone()), Box::new(self.clone()));
        Devices::attach(&unikernel.manifest, vec![block], vec![net]).unwrap()
    }

    pub fn tender(&self, unikernel: &Unikernel<'_>) -> Tender {
        let devices = self.devices(unikernel);
        Tender::new(devices, Box::new(self.clone()), Box::new(self.clone()))
    }
}
