//! A front-end as QEMU is one, and the real QEMU is tried in the system tests.

use super::*;
use crate::GuestMemory;
use crate::block::{Block, BlockOptions, RateLimit};
use crate::rng::Rng;
use crate::test_support::{BUFFERS, END, RINGS, Random, Ring, eventfd};
use disk::{CreateOptions, Format, OpenOptions, create};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use vhost::vhost_user::{
    Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
    message::VhostUserConfigFlags,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap,
};

const VERSION_1: u64 = 1 << 32;

struct Machine {
    _folder: TempDir,
    server: Server,
    path: std::path::PathBuf,
}

impl Machine {
    fn new(make: impl FnOnce(&std::path::Path) -> Box<dyn Device>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let device = make(folder.path());
        let server = Server::start(device, UnixListener::bind(&path).unwrap()).unwrap();
        Self { _folder: folder, server, path }
    }

    fn connect(&self) -> Guest {
        Guest::new(Frontend::connect(&self.path, 4).unwrap())
    }
}

/// The front-end with one ring.
struct Guest {
    frontend: Frontend,
    memory: GuestMemory,
    ring: Ring,
    call: EventFd,
}

impl Guest {
    fn new(frontend: Frontend) -> Self {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(END).unwrap();
        let place = Some(FileOffset::new(file, 0));
        let ranges = [(GuestAddress(0), END as usize, place)];
        let memory = GuestMemory::new(GuestMemoryMmap::from_ranges_with_files(ranges).unwrap());
        let ring = Ring::new(&memory, 0, RINGS, 8, 0);
        Self { frontend, memory, ring, call: eventfd() }
    }

    fn bring_up(&mut self) {
        self.frontend.set_owner().unwrap();
        let offered = self.frontend.get_features().unwrap();
        assert_ne!(offered & VERSION_1, 0);
        let protocol = self.frontend.get_protocol_features().unwrap();
        assert!(
            protocol.contains(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ)
        );
        self.frontend.set_protocol_features(protocol).unwrap();
        let features = VERSION_1
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
            | offered & (1 << 9 | 1 << 11);
        self.frontend.set_features(features).unwrap();
        let memory = self.memory.memory();
        let region = memory.iter().next().unwrap();
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
        self.frontend.set_mem_table(&[region]).unwrap();
        self.set_up_ring(0, region.userspace_addr);
    }

    fn set_up_ring(&mut self, base: u16, user: u64) {
        self.frontend.set_vring_num(0, 8).unwrap();
        self.frontend.set_vring_base(0, base).unwrap();
        let data = VringConfigData {
            queue_max_size: 8,
            queue_size: 8,
            flags: 0,
            desc_table_addr: user + self.ring.descriptors(),
            used_ring_addr: user + self.ring.used_ring(),
            avail_ring_addr: user + self.ring.available_ring(),
            log_addr: None,
        };
        self.frontend.set_vring_addr(0, &data).unwrap();
        self.frontend.set_vring_call(0, &self.call).unwrap();
        self.frontend.set_vring_kick(0, self.ring.doorbell()).unwrap();
        self.frontend.set_vring_enable(0, true).unwrap();
    }

    fn user_base(&self) -> u64 {
        let memory = self.memory.memory();
        VhostUserMemoryRegionInfo::from_guest_region(memory.iter().next().unwrap())
            .unwrap()
            .userspace_addr
    }

    /// A request of `(bytes out, room in)`; what was written.
    fn request(&mut self, out: &[u8], room: u32) -> Vec<u8> {
        let memory = self.memory.memory();
        memory.write_slice(out, GuestAddress(BUFFERS)).unwrap();
        let mut buffers = vec![(BUFFERS + 0x10_0000, room, true)];
        if !out.is_empty() {
            buffers.insert(0, (BUFFERS, out.len() as u32, false));
        }
        self.ring.add(&buffers);
        self.ring.kick();
        self.wait().data
    }

    fn wait(&mut self) -> crate::test_support::Used {
        for _ in 0..2000 {
            if let Some(used) = self.ring.take_used() {
                return used;
            }
            let mut polled = [PollFd::from_borrowed_fd(descriptor(&self.call), PollFlags::IN)];
            let step = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            poll(&mut polled, Some(&step)).unwrap();
            let _ = self.call.read();
        }
        panic!("no answer");
    }
}

#[test]
fn a_front_end_gets_entropy_and_an_interrupt() {
    let machine = Machine::new(|_| Box::new(Rng::new("rng0")));
    let mut guest = machine.connect();
    guest.bring_up();
    let one = guest.request(&[], 64);
    let two = guest.request(&[], 64);
    assert_ne!(one, two);
    assert!(one.iter().any(|byte| *byte != 0));
    machine.server.with_device(|device| {
        assert_eq!(device.counters()[0], ("requests", 2));
    });
}

#[test]
fn a_front_end_uses_a_disk_and_its_configuration() {
    let machine = Machine::new(|folder| {
        let path = folder.join("disk");
        create(&path, &CreateOptions { format: Format::Raw, size: 1 << 20, backing: None })
            .unwrap();
        let image = Arc::new(OpenOptions::new(Format::Raw).open(&path).unwrap());
        let (name, serial) = ("block0".to_owned(), "s".to_owned());
        Box::new(Block::new(BlockOptions {
            name,
            image,
            serial,
            queues: 2,
            limit: RateLimit::default(),
        }))
    });
    let mut guest = machine.connect();
    guest.bring_up();
    assert_eq!(guest.frontend.get_queue_num().unwrap(), 2);
    let (_, config) =
        guest.frontend.get_config(0, 8, VhostUserConfigFlags::WRITABLE, &[0; 8]).unwrap();
    assert_eq!(config, 2048_u64.to_le_bytes());
    let mut write = [1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0].to_vec();
    write.extend([0xab; 512]);
    assert_eq!(guest.request(&write, 1), [0]);
    let read = [0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
    let data = guest.request(&read, 513);
    assert_eq!((&data[..512], data[512]), (&[0xab; 512][..], 0));
}

#[test]
fn a_stopped_ring_says_where_it_stands_and_goes_on_there() {
    let machine = Machine::new(|_| Box::new(Rng::new("rng0")));
    let mut guest = machine.connect();
    guest.bring_up();
    for _ in 0..3 {
        guest.request(&[], 16);
    }
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 3);
    guest.ring.add(&[(BUFFERS, 16, true)]);
    guest.ring.kick();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.ring.take_used(), None, "nothing is answered while stopped");
    let base = guest.user_base();
    guest.set_up_ring(3, base);
    assert_eq!(guest.wait().length, 16);
}

/// An entropy device that counts its resets.
struct Counting(Rng, Arc<AtomicU32>);

impl Device for Counting {
    fn id(&self) -> crate::DeviceId {
        self.0.id()
    }
    fn name(&self) -> &str {
        self.0.name()
    }
    fn features(&self) -> u64 {
        self.0.features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        self.0.queue_sizes()
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }
    fn start(
        &mut self,
        session: crate::Session,
    ) -> Result<Vec<Box<dyn crate::Worker>>, crate::StartError> {
        self.0.start(session)
    }
    fn reset(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_ring_that_begins_anew_means_that_the_driver_reset_the_device() {
    let resets = Arc::new(AtomicU32::new(0));
    let counted = resets.clone();
    let machine = Machine::new(|_| Box::new(Counting(Rng::new("rng0"), counted)));
    let mut guest = machine.connect();
    guest.bring_up();
    guest.request(&[], 16);
    let base = guest.user_base();
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 1);
    guest.set_up_ring(1, base);
    guest.request(&[], 16);
    assert_eq!(resets.load(Ordering::SeqCst), 0, "it only paused");
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 2);
    guest.ring.reset();
    guest.set_up_ring(0, base);
    guest.request(&[], 16);
    assert_eq!(resets.load(Ordering::SeqCst), 1);
}

#[test]
fn after_a_front_end_leaves_the_next_one_is_served() {
    let machine = Machine::new(|_| Box::new(Rng::new("rng0")));
    for _ in 0..3 {
        let mut guest = machine.connect();
        guest.bring_up();
        assert_eq!(guest.request(&[], 16).len(), 16);
    }
}

#[test]
fn nonsense_is_refused_and_the_ring_stays_off() {
    let machine = Machine::new(|_| Box::new(Rng::new("rng0")));
    let mut guest = machine.connect();
    guest.bring_up();
    guest.frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
    assert!(guest.frontend.set_vring_num(0, 7).is_err());
    assert!(guest.frontend.set_vring_num(0, 4096).is_err());
    assert!(guest.frontend.set_vring_num(3, 8).is_err());
    let nowhere = VringConfigData {
        queue_max_size: 8,
        queue_size: 8,
        desc_table_addr: 16,
        used_ring_addr: 16,
        avail_ring_addr: 16,
        ..VringConfigData {
            queue_max_size: 0,
            queue_size: 0,
            flags: 0,
            desc_table_addr: 0,
            used_ring_addr: 0,
            avail_ring_addr: 0,
            log_addr: None,
        }
    };
    assert!(guest.frontend.set_vring_addr(0, &nowhere).is_err());
    assert_eq!(guest.request(&[], 16).len(), 16, "and the ring that worked still does");
}

#[test]
fn random_bytes_on_the_socket_end_the_connection_and_nothing_else() {
    use std::io::Write;
    let machine = Machine::new(|_| Box::new(Rng::new("rng0")));
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut stream = UnixStream::connect(&machine.path).unwrap();
        for _ in 0..20 {
            // Request, flags (version 1), size, then a body of that size.
            let mut message = vec![0; 12 + random.below(64) as usize];
            random.fill(&mut message);
            let size = message.len() as u32 - 12;
            message[..4].copy_from_slice(&(random.below(45) as u32).to_le_bytes());
            message[4..8].copy_from_slice(&random.pick(&[1_u32, 9, 0xff]).to_le_bytes());
            message[8..12].copy_from_slice(&size.to_le_bytes());
            if stream.write_all(&message).is_err() {
                break;
            }
        }
    }
    let mut guest = machine.connect();
    guest.bring_up();
    assert_eq!(guest.request(&[], 16).len(), 16);
}
