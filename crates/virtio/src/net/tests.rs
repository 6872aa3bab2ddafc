//! A driver sends and receives frames; at the other end of the cable is the test, the host's kernel
//! or passt.

use super::header::{DATA_VALID, NUM_BUFFERS, feature};
use super::{AddressError, HEADER_BYTES, Net, Stream, Tap};
use crate::Device;
use crate::test_support::{Buffer, Random, TestDriver, attack, skipped};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

const RX: u16 = 0;
const TX: u16 = 1;
const CONTROL: u16 = 2;
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// A card on a stream socket, and the socket's other end.
fn card() -> (Box<Net>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let backend = Box::new(Stream::new(ours.into(), 65520));
    (Box::new(Net::new("net0", MAC, backend).unwrap()), theirs)
}

fn started() -> (TestDriver, UnixStream) {
    let (card, peer) = card();
    (TestDriver::start(card), peer)
}

fn give_buffers(driver: &mut TestDriver, count: usize, size: usize) {
    for _ in 0..count {
        driver.add(RX, &[Buffer::In(size)]);
    }
    driver.kick(RX);
}

fn put(peer: &mut UnixStream, frame: &[u8]) {
    peer.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
    peer.write_all(frame).unwrap();
}

fn take(peer: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    peer.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 ^ seed).collect()
}

/// The next frame the guest gets, out of as many buffers as it takes.
fn receive(driver: &mut TestDriver) -> ([u8; HEADER_BYTES], Vec<u8>) {
    let first = driver.wait_used(RX);
    let mut bytes = first.data[..first.length as usize].to_vec();
    let header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().unwrap();
    let buffers = u16::from_le_bytes([header[NUM_BUFFERS], header[NUM_BUFFERS + 1]]);
    for _ in 1..buffers {
        // The driver sees all buffers of a frame at once, or none.
        let next = driver.ring(RX).take_used().expect("all at once");
        bytes.extend_from_slice(&next.data[..next.length as usize]);
    }
    (header, bytes.split_off(HEADER_BYTES))
}

fn send(driver: &mut TestDriver, frame: &[u8]) {
    driver.request(TX, &[Buffer::Out(&[0; HEADER_BYTES]), Buffer::Out(frame)]);
}

fn counter(driver: &mut TestDriver, name: &str) -> u64 {
    let counters = driver.device().counters();
    counters.iter().find(|(it, _)| *it == name).unwrap().1
}

fn status(driver: &mut TestDriver) -> u8 {
    let mut status = [0; 2];
    driver.device().read_config(6, &mut status);
    status[0]
}

#[test]
fn frames_cross_both_ways_unchanged() {
    let (mut driver, mut peer) = started();
    give_buffers(&mut driver, 4, 2000);
    send(&mut driver, &pattern(1, 60));
    assert_eq!(take(&mut peer), pattern(1, 60));
    put(&mut peer, &pattern(2, 1514));
    let (header, frame) = receive(&mut driver);
    assert_eq!((header[0], header[1]), (DATA_VALID, 0));
    assert_eq!(frame, pattern(2, 1514));
}

#[test]
fn a_driver_without_checksums_is_told_nothing_about_them() {
    let (card, mut peer) = card();
    let features = card.features() & !feature::GUEST_CSUM;
    let mut driver = TestDriver::start_with(card, features);
    give_buffers(&mut driver, 1, 2000);
    put(&mut peer, &pattern(2, 60));
    assert_eq!(receive(&mut driver).0[..NUM_BUFFERS], [0; NUM_BUFFERS]);
}

#[test]
fn the_configuration_shows_address_link_and_mtu() {
    let (card, _peer) = card();
    let mut config = [0; 14];
    card.read_config(0, &mut config);
    assert_eq!(config, [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 1, 0, 0xf0, 0xff, 0, 0]);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let group = Net::new("net0", [1, 0, 0x5e, 0, 0, 1], Box::new(Stream::new(ours.into(), 1500)));
    assert!(matches!(group, Err(AddressError { .. })));
}

#[test]
fn a_long_frame_is_spread_over_buffers_and_short_ones_are_not() {
    let (mut driver, mut peer) = started();
    give_buffers(&mut driver, 60, 1526);
    for length in [60, 60_000, 14, 1514, 1515] {
        put(&mut peer, &pattern(3, length));
        let (header, frame) = receive(&mut driver);
        assert!(frame == pattern(3, length), "{length}");
        let buffers = (HEADER_BYTES + length).div_ceil(1526) as u8;
        assert_eq!(header[NUM_BUFFERS], buffers);
    }
}

#[test]
fn a_frame_waits_until_the_driver_has_given_enough_buffers() {
    let (mut driver, mut peer) = started();
    give_buffers(&mut driver, 2, 1000);
    put(&mut peer, &pattern(4, 2500));
    put(&mut peer, &pattern(5, 100));
    send(&mut driver, &pattern(6, 60));
    take(&mut peer);
    assert_eq!(driver.ring(RX).take_used(), None);
    give_buffers(&mut driver, 1, 1000);
    assert!(receive(&mut driver).1 == pattern(4, 2500));
    give_buffers(&mut driver, 1, 1000);
    assert!(receive(&mut driver).1 == pattern(5, 100));
}

#[test]
fn without_merging_a_frame_too_long_for_its_buffer_is_dropped_alone() {
    let (card, mut peer) = card();
    let features = card.features() & !feature::MRG_RXBUF;
    let mut driver = TestDriver::start_with(card, features);
    give_buffers(&mut driver, 2, 1526);
    put(&mut peer, &pattern(7, 3000));
    put(&mut peer, &pattern(8, 200));
    let (header, frame) = receive(&mut driver);
    assert_eq!((header[NUM_BUFFERS], frame), (1, pattern(8, 200)));
    assert_eq!(counter(&mut driver, "dropped"), 1);
}

#[test]
fn a_full_cable_holds_frames_back_and_loses_none() {
    let (mut driver, mut peer) = started();
    for n in 0..100u8 {
        let frame = pattern(n, 40_000);
        driver.add(TX, &[Buffer::Out(&[0; HEADER_BYTES]), Buffer::Out(&frame)]);
    }
    driver.kick(TX);
    for n in 0..100 {
        assert!(take(&mut peer) == pattern(n, 40_000), "frame {n}");
        driver.wait_used(TX);
    }
    assert_eq!(counter(&mut driver, "frames-from-guest"), 100);
}

#[test]
fn a_bad_frame_is_dropped_and_the_next_one_goes() {
    let (mut driver, mut peer) = started();
    let mut segmented = [0; HEADER_BYTES];
    segmented[1] = 1;
    driver.request(TX, &[Buffer::Out(&segmented), Buffer::Out(&pattern(1, 60))]);
    driver.request(TX, &[Buffer::Out(&[0; 5])]);
    driver.request(TX, &[Buffer::Out(&[0; HEADER_BYTES + 13])]);
    driver.request(TX, &[Buffer::In(100)]);
    send(&mut driver, &pattern(9, 60));
    assert_eq!(take(&mut peer), pattern(9, 60));
    assert_eq!(counter(&mut driver, "refused"), 4);
}

#[test]
fn when_the_other_end_goes_the_link_goes_down_and_the_card_stays() {
    let (mut driver, peer) = started();
    give_buffers(&mut driver, 2, 2000);
    assert_eq!(status(&mut driver), 1);
    drop(peer);
    let interrupts = driver.interrupts();
    interrupts.wait("the change of status", |seen| seen.config == 1);
    assert_eq!(status(&mut driver), 0);
    send(&mut driver, &pattern(1, 60));
    driver.reset();
    assert_eq!(status(&mut driver), 0);
    send(&mut driver, &pattern(1, 60));
}

#[test]
fn a_length_no_frame_has_takes_the_link_down() {
    for length in [0, 13, 65554, u32::MAX] {
        let (driver, mut peer) = started();
        peer.write_all(&length.to_be_bytes()).unwrap();
        driver.interrupts().wait("the link to go", |seen| seen.config == 1);
    }
}

#[test]
fn commands_are_carried_out_or_refused() {
    let (mut driver, _peer) = started();
    let mut command = |bytes: &[u8]| {
        let used = driver.request(CONTROL, &[Buffer::Out(bytes), Buffer::In(1)]);
        assert_eq!(used.length, 1);
        used.data[0]
    };
    assert_eq!(command(&[0, 0, 1]), 0, "promiscuous");
    assert_eq!(command(&[0, 1, 1]), 0, "all multicast");
    assert_eq!(command(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), 0, "offloads that were agreed");
    assert_eq!(command(&[5, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), 1, "offloads that were not");
    assert_eq!(command(&[5, 0, 2]), 1, "offloads cut short");
    assert_eq!(command(&[4, 0, 2, 0]), 1, "more queues");
    assert_eq!(command(&[]), 1, "nothing");
}

#[test]
fn a_pause_between_two_halves_of_a_frame_loses_nothing() {
    let (mut driver, mut peer) = started();
    give_buffers(&mut driver, 4, 2000);
    let frame = pattern(4, 1000);
    peer.write_all(&1000u32.to_be_bytes()).unwrap();
    peer.write_all(&frame[..300]).unwrap();
    send(&mut driver, &pattern(1, 60));
    driver.stop();
    peer.write_all(&frame[300..]).unwrap();
    driver.resume();
    assert!(receive(&mut driver).1 == frame);
    assert_eq!(take(&mut peer), pattern(1, 60));
}

/// A frame of random length behind a header that is wrong now and then.
fn plausible(queue: u16, random: &mut Random) -> Vec<u8> {
    if queue == CONTROL {
        let mut bytes = vec![random.below(7) as u8, random.below(3) as u8];
        bytes.extend(random.next().to_le_bytes());
        return bytes;
    }
    let mut bytes = vec![0; HEADER_BYTES + 14 + random.below(200) as usize];
    if random.one_in(2) {
        random.fill(&mut bytes[..HEADER_BYTES]);
    }
    bytes
}

#[test]
fn a_malicious_driver_breaks_nothing() {
    for seed in 0..4 {
        let (card, mut peer) = card();
        peer.set_nonblocking(true).unwrap();
        let mut sink = vec![0; 1 << 16];
        attack(card, seed, |queue, random| {
            // The cable is busy both ways, without ever waiting.
            let frame = pattern(0, 14 + random.below(3000) as usize);
            let whole = [&(frame.len() as u32).to_be_bytes()[..], &frame].concat();
            let _ = peer.read(&mut sink);
            let mut rest = &whole[..];
            while let Ok(count) = peer.write(rest) {
                rest = &rest[count..];
                if rest.is_empty() {
                    break;
                }
                let _ = peer.read(&mut sink);
            }
            plausible(queue, random)
        });
    }
}

/// A tap interface with the host at 10.213.`n`.1, removed with the value.
struct Interface(String);

impl Interface {
    fn new(n: u8, mtu: u16) -> Option<(Self, Tap)> {
        let name = format!("mhtest{n}-{}", std::process::id() % 10_000);
        let tap = match Tap::open(&name) {
            Ok(tap) => tap,
            Err(error) => {
                skipped(&error);
                return None;
            }
        };
        let interface = Self(name);
        interface.ip(&["addr", "add", &format!("10.213.{n}.1/24"), "dev"]);
        interface.ip(&["link", "set", "mtu", &mtu.to_string(), "up", "dev"]);
        Some((interface, tap))
    }

    fn ip(&self, arguments: &[&str]) {
        let status = Command::new("ip").args(arguments).arg(&self.0).status();
        assert!(status.unwrap().success(), "ip {arguments:?}");
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Who has `target`? (RFC 826)
fn arp_request(source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC].concat();
    frame.extend(source.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// The hardware address in an answer to [`arp_request`].
fn arp_answer(frame: &[u8], target: Ipv4Addr) -> Option<[u8; 6]> {
    let is_answer = frame.get(12..14)? == [8, 6] && frame.get(20..22)? == [0, 2];
    (is_answer && frame.get(28..32)? == target.octets()).then(|| frame[22..28].try_into().unwrap())
}

/// An echo request (RFC 792) of `length` bytes.
fn echo(to: [u8; 6], source: Ipv4Addr, target: Ipv4Addr, length: usize) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 1];
    icmp.extend(pattern(0, length));
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((20 + icmp.len() as u16).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 1, 0, 0]);
    ip.extend(source.octets());
    ip.extend(target.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&to[..], &MAC, &[8, 0], &ip, &icmp].concat()
}

/// Waits for the frame `wanted` accepts among whatever else the network says.
fn wait_for<T>(driver: &mut TestDriver, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
    loop {
        let (header, frame) = receive(driver);
        for _ in 0..header[NUM_BUFFERS] {
            driver.add(RX, &[Buffer::In(600)]);
        }
        driver.kick(RX);
        if let Some(found) = wanted(&frame) {
            return found;
        }
    }
}

#[test]
fn the_hosts_kernel_answers_over_a_tap_also_with_frames_longer_than_expected() {
    let Some((_interface, tap)) = Interface::new(1, 9000) else {
        return;
    };
    let card = Box::new(Net::new("net0", MAC, Box::new(tap)).unwrap());
    let mut driver = TestDriver::start(card);
    give_buffers(&mut driver, 200, 600);
    let (guest, host) = (Ipv4Addr::new(10, 213, 1, 2), Ipv4Addr::new(10, 213, 1, 1));
    send(&mut driver, &arp_request(guest, host));
    let to = wait_for(&mut driver, |frame| arp_answer(frame, host));
    for length in [56, 1400, 8000, 1400] {
        send(&mut driver, &echo(to, guest, host, length));
        let payload = wait_for(&mut driver, |frame| {
            (frame.get(12..14)? == [8, 0] && frame[23] == 1 && frame[34] == 0)
                .then(|| frame[42..].to_vec())
        });
        assert!(payload == pattern(0, length), "{length}");
    }
    // A pause and a new start find the interface as it was.
    driver.stop();
    driver.resume();
    send(&mut driver, &arp_request(guest, host));
    wait_for(&mut driver, |frame| arp_answer(frame, host));
}

#[test]
fn the_kernel_survives_a_malicious_driver_on_a_tap() {
    let Some((_interface, tap)) = Interface::new(2, 1500) else {
        return;
    };
    let card = Box::new(Net::new("net0", MAC, Box::new(tap)).unwrap());
    attack(card, 7, plausible);
}

#[test]
fn passt_answers_and_its_end_takes_the_link_down() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    // As its standard input the socket needs no number of its own.
    let started = Command::new("passt")
        .args(["--foreground", "--quiet", "--fd", "0"])
        .stdin(OwnedFd::from(theirs))
        .spawn();
    let mut passt = match started {
        Ok(passt) => passt,
        Err(error) => {
            skipped(&error);
            return;
        }
    };
    let stream = Stream::new(ours.into(), 65520);
    let mut driver = TestDriver::start(Box::new(Net::new("net0", MAC, Box::new(stream)).unwrap()));
    give_buffers(&mut driver, 200, 600);
    let (guest, gateway) = (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2));
    send(&mut driver, &arp_request(guest, gateway));
    wait_for(&mut driver, |frame| arp_answer(frame, gateway));
    passt.kill().unwrap();
    passt.wait().unwrap();
    let interrupts = driver.interrupts();
    interrupts.wait("the link to go", |seen| seen.config == 1);
    assert_eq!(status(&mut driver), 0);
    send(&mut driver, &pattern(1, 60));
}
