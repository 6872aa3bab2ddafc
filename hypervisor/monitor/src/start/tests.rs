use super::*;
use crate::test_core::{Log, TINY, TestMachine, archive, means};
use std::string::ToString;

fn started(files: &[(&str, &[u8])]) -> (Arc<Log>, Result<Ready, StartError>) {
    let log = Arc::new(Log::default());
    let ready = make(&Archive::new(archive(files)), means(&log, TestMachine::leaked()));
    (log, ready)
}

fn refusal(files: &[(&str, &[u8])]) -> String {
    let (_, ready) = started(files);
    ready.err().unwrap().to_string()
}

#[test]
fn a_tiny_guest_begins_in_real_mode_with_its_image_in_place() {
    let manifest = b"guest a\nmemory 2\nvcpus 2\nkernel hello\n";
    let (log, ready) = started(&[("manifest", manifest), ("hello", TINY)]);
    let ready = ready.ok().unwrap();
    let state = *log.state.lock();
    assert_eq!(state.registers.rip, 0x7c00);
    assert_eq!(state.registers.general[4], 0x7c00, "RSP");
    assert_eq!(state.system.cr0 & 1, 0);
    assert_eq!(state.system.segments[1].attributes, 0x9b);
    assert_eq!(ready.vcpus[0].len(), 2);
    assert_eq!(ready.guests[0].wakes.processors(), [0, 0]);
}

#[test]
fn whatever_is_missing_is_named_with_what_there_is() {
    assert!(refusal(&[("root", b"")]).contains("no file \"manifest\"; its files are root"));
    let manifest = b"guest a\nmemory 2\nkernel gone\n".as_slice();
    let message = refusal(&[("manifest", manifest), ("hello", TINY)]);
    assert!(message.contains("no file \"gone\""), "{message}");
    assert!(message.contains("as kernel; its files are manifest, hello"), "{message}");
    let manifest = b"guest a\nmemory 2\nkernel manifest\n".as_slice();
    assert!(refusal(&[("manifest", manifest)]).contains("not a kernel"));
    let broken =
        make(&Archive::new(b"garbage"), means(&Arc::new(Log::default()), TestMachine::leaked()));
    assert!(broken.err().unwrap().to_string().contains("damaged"));
}

#[test]
fn memory_the_pool_does_not_have_is_refused() {
    let manifest = b"guest a\nmemory 10\nkernel hello\nguest b\nmemory 8\nkernel hello\n";
    let message = refusal(&[("manifest", manifest), ("hello", TINY)]);
    assert!(message.contains("guest b: 8 MiB of memory"), "{message}");
    assert!(message.contains("largest free piece of the pool has 6 MiB"), "{message}");
}

#[test]
fn vcpus_go_round_the_processors() {
    let manifest = b"guest a\nmemory 2\nvcpus 3\nkernel k\nguest b\nmemory 2\nvcpus 2\nkernel k\n";
    let log = Arc::new(Log::default());
    let mut means = means(&log, TestMachine::leaked());
    means.processors = 2;
    let files: [(&str, &[u8]); 2] = [("manifest", manifest), ("k", TINY)];
    let ready = make(&Archive::new(archive(&files)), means).ok().unwrap();
    assert_eq!(ready.guests[0].wakes.processors(), [0, 1, 0]);
    assert_eq!(ready.guests[1].wakes.processors(), [1, 0]);
    assert_eq!(ready.vcpus[0].len() + ready.vcpus[1].len(), 5);
}

#[test]
fn disks_and_cards_come_in_the_order_the_tables_tell() {
    let manifest = b"guest a\nmemory 2\nkernel k\ndisk d\nnet yes\n";
    let (_, ready) = started(&[("manifest", manifest), ("k", TINY), ("d", &[7; 1000])]);
    let ready = ready.ok().unwrap();
    let mut board = ready.guests[0].board.lock();
    // DeviceID of each (virtio 1.2, 4.2.2): console, block, network.
    let ids = [0, 1, 2, 3].map(|n| {
        let mut id = [0; 4];
        board.read_memory(MMIO_BASE + n * MMIO_SIZE + 8, &mut id);
        u32::from_le_bytes(id)
    });
    assert_eq!(ids, [3, 2, 1, u32::MAX]);
}

#[test]
fn a_disk_that_cannot_be_had_is_refused() {
    let manifest = b"guest a\nmemory 2\nkernel k\ndisk machine\n".as_slice();
    assert!(refusal(&[("manifest", manifest), ("k", TINY)]).contains("no virtio disk"));
    let manifest = b"guest a\nmemory 2\nkernel k\ndisk d\n".as_slice();
    let large = std::vec![0; (1 << 20) + 1];
    let message = refusal(&[("manifest", manifest), ("k", TINY), ("d", &large)]);
    assert!(message.contains("has 1 MiB left"), "{message}");
}

#[test]
fn a_solo5_unikernel_is_recognized_and_gets_a_tender() {
    let file = solo5::test_support::unikernel(2, &[("d", solo5::EntryKind::Block)], &[0xf4]);
    let manifest = b"guest u\nmemory 4\nkernel u\ndisk d\nappend a b\n";
    let files = [("manifest", manifest.as_slice()), ("u", &file), ("d", &[1; 512])];
    let (log, ready) = started(&files);
    let ready = ready.map_err(|error| error.to_string()).ok().unwrap();
    let state = *log.state.lock();
    assert_eq!(state.registers.rip, 0x10_0000);
    assert_eq!(state.registers.general[7], 0x1_0000, "RDI");
    assert_eq!(state.system.cr3, 0x2000);
    assert!(ready.guests[0].hvt.is_some());
    for (manifest, said) in [
        ("memory 4\nvcpus 2\nkernel u\ndisk d\n", "2 vcpus; a unikernel has 1"),
        ("memory 4\nkernel u\ninitrd d\n", "an initrd"),
        ("memory 4\nkernel u\n", "declares block device \"d\""),
        ("memory 2\nkernel u\ndisk d\nnet yes\n", "1 net devices were given"),
    ] {
        let manifest = std::format!("guest u\n{manifest}");
        let files = [("manifest", manifest.as_bytes()), files[1], files[2]];
        let message = refusal(&files);
        assert!(message.contains(said), "{message}");
    }
}
