//! How fast a vhost-user disk answers: 4 KiB random reads and 1 MiB sequential reads, one JSON line
//! each. The same front-end measures our own disk and QEMU's, so that the two compare:
//!
//! ```text
//! disk_speed serve IMAGE raw|qcow2 SOCKET     our disk, until killed
//! disk_speed measure SOCKET                   whatever serves there
//! qemu-storage-daemon --blockdev driver=file,node-name=f,filename=IMAGE \
//!     --export vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=SOCKET
//! ```

use disk::{Format, OpenOptions};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use std::error::Error;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserVirtioFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio::GuestMemory;
use virtio::block::{Block, BlockOptions, RateLimit};
use virtio::test_support::{Random, Ring};
use virtio::vhost_user::Server;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const MEMORY: usize = 64 << 20;
const HEADERS: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const VERSION_1: u64 = 1 << 32;
const RING: u16 = 128;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", image, "raw", socket] => serve(image, Format::Raw, socket),
        ["serve", image, "qcow2", socket] => serve(image, Format::Qcow2, socket),
        ["measure", socket] => measure(socket),
        _ => Err("usage: disk_speed serve IMAGE raw|qcow2 SOCKET | measure SOCKET".into()),
    }
}

fn serve(image: &str, format: Format, socket: &str) -> Result<()> {
    let image = Arc::new(
        OpenOptions { read_only: true, ..OpenOptions::new(format) }.open(Path::new(image))?,
    );
    let (name, serial) = ("disk".to_owned(), "disk".to_owned());
    let block =
        Block::new(BlockOptions { name, image, serial, queues: 1, limit: RateLimit::default() });
    let _server = Server::start(Box::new(block), UnixListener::bind(socket)?)?;
    loop {
        std::thread::park();
    }
}

struct Guest {
    /// Keeps the connection.
    _frontend: Frontend,
    memory: GuestMemory,
    ring: Ring,
    call: EventFd,
    sectors: u64,
}

fn connect(socket: &str) -> Result<Guest> {
    let mut frontend = Frontend::connect(socket, 1)?;
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC)?);
    file.set_len(MEMORY as u64)?;
    let place = Some(FileOffset::new(file, 0));
    let memory = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY, place)])?;
    let region = memory.iter().next().ok_or("no memory")?;
    let region = VhostUserMemoryRegionInfo::from_guest_region(region)?;
    let memory = GuestMemory::new(memory);
    let ring = Ring::new(&memory, 0, 0x1000, RING, 0);

    frontend.set_owner()?;
    let offered = frontend.get_features()?;
    let protocol = frontend.get_protocol_features()?;
    let wanted = vhost::vhost_user::VhostUserProtocolFeatures::CONFIG
        | vhost::vhost_user::VhostUserProtocolFeatures::REPLY_ACK;
    frontend.set_protocol_features(protocol & wanted)?;
    frontend
        .set_features(offered & (VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()))?;
    let flags = vhost::vhost_user::message::VhostUserConfigFlags::WRITABLE;
    let (_, config) = frontend.get_config(0, 8, flags, &[0; 8])?;
    let sectors = u64::from_le_bytes(config[..8].try_into()?);
    frontend.set_mem_table(&[region])?;
    frontend.set_vring_num(0, RING)?;
    frontend.set_vring_base(0, 0)?;
    let user = region.userspace_addr;
    frontend.set_vring_addr(
        0,
        &VringConfigData {
            queue_max_size: RING,
            queue_size: RING,
            flags: 0,
            desc_table_addr: user + ring.descriptors(),
            used_ring_addr: user + ring.used_ring(),
            avail_ring_addr: user + ring.available_ring(),
            log_addr: None,
        },
    )?;
    let call = EventFd::new(EFD_NONBLOCK)?;
    frontend.set_vring_call(0, &call)?;
    frontend.set_vring_kick(0, ring.doorbell())?;
    frontend.set_vring_enable(0, true)?;
    Ok(Guest { _frontend: frontend, memory, ring, call, sectors })
}

/// Keeps `depth` reads of `bytes` in flight until `count` are done; seconds.
fn run(
    guest: &mut Guest,
    depth: u64,
    count: u64,
    bytes: u64,
    mut sector: impl FnMut(u64) -> u64,
) -> Result<f64> {
    let memory = guest.memory.memory();
    let mut slots: Vec<u64> = (0..depth).collect();
    let mut owner = vec![0; usize::from(RING)];
    let (mut begun, mut done) = (0, 0);
    let start = Instant::now();
    while done < count {
        let mut added = false;
        while begun < count
            && let Some(slot) = slots.pop()
        {
            let header = HEADERS + slot * 64;
            memory.write_obj(0_u64, GuestAddress(header))?;
            memory.write_obj(sector(begun), GuestAddress(header + 8))?;
            let status = header + 32;
            memory.write_obj(0xff_u8, GuestAddress(status))?;
            let data = DATA + slot * bytes;
            let parts =
                [(header, 16, false), (data, u32::try_from(bytes)?, true), (status, 1, true)];
            owner[usize::from(guest.ring.add(&parts))] = slot;
            begun += 1;
            added = true;
        }
        if added && guest.ring.wants_kicks() {
            guest.ring.kick();
        }
        let mut took = false;
        while let Some((head, _)) = guest.ring.take_used_head() {
            let slot = owner[usize::from(head)];
            let status: u8 = memory.read_obj(GuestAddress(HEADERS + slot * 64 + 32))?;
            if status != 0 {
                return Err(format!("a read failed with status {status}").into());
            }
            slots.push(slot);
            done += 1;
            took = true;
        }
        if !took {
            // SAFETY: the eventfd is open as long as `guest` lives.
            let call = unsafe { BorrowedFd::borrow_raw(guest.call.as_raw_fd()) };
            poll(&mut [PollFd::from_borrowed_fd(call, PollFlags::IN)], None)?;
            let _ = guest.call.read();
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

fn measure(socket: &str) -> Result<()> {
    let mut guest = connect(socket)?;
    let sectors = guest.sectors;
    let mut random = Random::new(1);
    for depth in [1, 32] {
        let count = 30_000 * depth.min(4);
        let seconds = run(&mut guest, depth, count, 4096, |_| random.below(sectors / 8) * 8)?;
        println!(
            "{{\"what\":\"4 KiB random read\",\"depth\":{depth},\"per-second\":{:.0}}}",
            count as f64 / seconds
        );
    }
    let count = sectors / 2048;
    for depth in [1, 8] {
        let seconds = run(&mut guest, depth, 2 * count, 1 << 20, |n| n % count * 2048)?;
        println!(
            "{{\"what\":\"1 MiB sequential read\",\"depth\":{depth},\"mib-per-second\":{:.0}}}",
            2.0 * count as f64 / seconds
        );
    }
    Ok(())
}
