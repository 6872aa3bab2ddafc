//! A guest made of packets talks to real Unix sockets.

use super::packet::{
    CLOSED, HEADER_BYTES, HOST_CID, Header, NO_MORE_RECEIVE, NO_MORE_SEND, STREAM, operation,
};
use super::{Vsock, VsockError, hub};
use crate::test_support::{Buffer, Random, TestDriver, attack};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

const RX: u16 = 0;
const TX: u16 = 1;
const EVENT: u16 = 2;
const CID: u64 = 42;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

struct Guest {
    driver: TestDriver,
    directory: tempfile::TempDir,
}

impl Guest {
    /// A guest with as many receive buffers as fit, of 4 KiB each.
    fn new() -> Self {
        let mut guest = Self::without_buffers();
        guest.give_buffers(128);
        guest
    }

    fn without_buffers() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = Vsock::new("vsock0", CID, &directory.path().join("vsock.sock")).unwrap();
        Self {
            driver: TestDriver::start(Box::new(device)),
            directory,
        }
    }

    fn give_buffers(&mut self, count: usize) {
        for _ in 0..count {
            self.driver.add(RX, &[Buffer::In(HEADER_BYTES + 4096)]);
        }
        self.driver.kick(RX);
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.directory.path().join(format!("vsock.sock{suffix}"))
    }

    /// A host program that said which port it wants.
    fn program(&self, port: u32) -> UnixStream {
        let mut program = UnixStream::connect(self.path("")).unwrap();
        program.set_read_timeout(PATIENCE).unwrap();
        program.set_write_timeout(PATIENCE).unwrap();
        writeln!(program, "CONNECT {port}").unwrap();
        program
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let bytes = header.bytes();
        let mut buffers = vec![Buffer::Out(&bytes)];
        if !data.is_empty() {
            buffers.push(Buffer::Out(data));
        }
        self.driver.request(TX, &buffers);
    }

    /// The next packet, its buffer given back.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let used = self.driver.wait_used(RX);
        let header = Header::parse(used.data[..HEADER_BYTES].try_into().unwrap());
        assert_eq!(header.length as usize + HEADER_BYTES, used.length as usize);
        assert_eq!((header.destination_cid, header.kind), (CID, STREAM));
        self.give_buffers(1);
        (
            header,
            used.data[HEADER_BYTES..used.length as usize].to_vec(),
        )
    }

    fn expect(&mut self, operation: u16) -> Header {
        let (header, _) = self.receive();
        assert_eq!(header.operation, operation, "{header:?}");
        header
    }

    /// The host program is gone: the guest hears of both directions, one by one or at once.
    fn expect_closed(&mut self) {
        while self.expect(operation::SHUTDOWN).flags != CLOSED {}
    }

    /// Nothing is on its way: a reset asked for comes next.
    fn expect_silence(&mut self) {
        self.send(packet(9, 9, operation::CREDIT_UPDATE), &[]);
        let header = self.expect(operation::RESET);
        assert_eq!((header.source_port, header.destination_port), (9, 9));
    }

    /// A host program connected to guest port 7, and the host's port.
    fn connected(&mut self) -> (UnixStream, u32) {
        let mut program = self.program(7);
        let request = self.expect(operation::REQUEST);
        assert_eq!(request.destination_port, 7);
        let port = request.source_port;
        self.send(packet(7, port, operation::RESPONSE), &[]);
        assert_eq!(read_line(&mut program), format!("OK {port}\n"));
        (program, port)
    }

    fn counter(&mut self, name: &str) -> u64 {
        let counters = self.driver.device().counters();
        counters.iter().find(|(it, _)| *it == name).unwrap().1
    }
}

/// A packet from guest port `from` to host port `to`, with a credit of 64 KiB.
fn packet(from: u32, to: u32, operation: u16) -> Header {
    Header {
        source_cid: CID,
        destination_cid: HOST_CID,
        source_port: from,
        destination_port: to,
        kind: STREAM,
        operation,
        window: 64 * 1024,
        ..Header::default()
    }
}

fn data(from: u32, to: u32, length: usize) -> Header {
    Header {
        length: length as u32,
        ..packet(from, to, operation::DATA)
    }
}

fn read_line(program: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        program.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

#[test]
fn a_host_program_reaches_a_guest_port_and_both_sides_talk() {
    let mut guest = Guest::new();
    let (mut program, port) = guest.connected();
    program.write_all(b"ping").unwrap();
    let (header, bytes) = guest.receive();
    assert_eq!(
        (header.operation, bytes.as_slice()),
        (operation::DATA, &b"ping"[..])
    );
    guest.send(data(7, port, 4), b"pong");
    let mut answer = [0; 4];
    program.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong");
}

#[test]
fn bytes_sent_right_behind_the_greeting_are_not_lost() {
    let mut guest = Guest::new();
    let mut program = UnixStream::connect(guest.path("")).unwrap();
    program.write_all(b"CONNECT 7\nearly").unwrap();
    let port = guest.expect(operation::REQUEST).source_port;
    guest.expect_silence();
    guest.send(packet(7, port, operation::RESPONSE), &[]);
    assert_eq!(guest.receive().1, b"early");
}

#[test]
fn a_guest_program_reaches_a_host_socket_named_after_the_port() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(guest.path("_1234")).unwrap();
    guest.send(packet(5, 1234, operation::REQUEST), &[]);
    let response = guest.expect(operation::RESPONSE);
    assert_eq!((response.source_port, response.destination_port), (1234, 5));
    assert!(response.window >= 16 * 1024);
    let (mut program, _) = listener.accept().unwrap();
    guest.send(data(5, 1234, 5), b"hello");
    let mut bytes = [0; 5];
    program.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn a_port_nobody_listens_on_is_reset_in_both_directions() {
    let mut guest = Guest::new();
    guest.send(packet(5, 1, operation::REQUEST), &[]);
    guest.expect(operation::RESET);

    let mut program = guest.program(7);
    let port = guest.expect(operation::REQUEST).source_port;
    guest.send(packet(7, port, operation::RESET), &[]);
    assert_eq!(program.read(&mut [0; 1]).unwrap(), 0, "closed");
}

#[test]
fn a_flood_from_the_host_never_exceeds_the_guests_credit() {
    let mut guest = Guest::new();
    let (mut program, port) = guest.connected();
    let sent = pattern(3 << 20);
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        program.write_all(&copy).unwrap();
        program
    });
    let mut received = Vec::new();
    let mut told = 0;
    while received.len() < sent.len() {
        let (header, bytes) = guest.receive();
        match header.operation {
            operation::DATA => received.extend_from_slice(&bytes),
            operation => assert_eq!(operation, operation::CREDIT_REQUEST),
        }
        assert!(received.len() - told <= 64 * 1024, "more than the credit");
        if received.len() - told > 60 * 1024 {
            told = received.len();
            let mut update = packet(7, port, operation::CREDIT_UPDATE);
            update.forwarded = told as u32;
            guest.send(update, &[]);
        }
    }
    assert!(received == sent);
    drop(writer.join().unwrap());
}

#[test]
fn a_program_that_does_not_read_holds_back_only_its_own_connection() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(guest.path("_1")).unwrap();
    guest.send(packet(5, 1, operation::REQUEST), &[]);
    let window = guest.expect(operation::RESPONSE).window as usize;
    let (mut slow, _) = listener.accept().unwrap();

    // More than the socket takes, less than it and the window take together.
    let bytes = pattern(16 * 1024);
    let mut forwarded = 0;
    let mut sent = 0;
    while sent - forwarded + bytes.len() <= window {
        guest.send(data(5, 1, bytes.len()), &bytes);
        sent += bytes.len();
        while let Some(used) = guest.driver.ring(RX).take_used() {
            let update = Header::parse(used.data[..HEADER_BYTES].try_into().unwrap());
            assert_eq!(update.operation, operation::CREDIT_UPDATE);
            forwarded = update.forwarded as usize;
        }
    }
    let (mut program, port) = guest.connected();
    guest.send(data(7, port, 2), b"ok");
    let mut answer = [0; 2];
    program.read_exact(&mut answer).unwrap();

    let mut all = vec![0; sent];
    slow.read_exact(&mut all).unwrap();
    assert!(all.chunks(bytes.len()).all(|chunk| chunk == bytes));
    while forwarded < sent {
        forwarded = guest.expect(operation::CREDIT_UPDATE).forwarded as usize;
    }

    drop(program);
    guest.expect_closed();
    // One byte beyond the promise ends the connection.
    let large = vec![0; window + 1];
    guest.send(data(5, 1, large.len()), &large);
    assert_eq!(guest.expect(operation::RESET).source_port, 1);
    assert_eq!(slow.read(&mut [0]).unwrap(), 0);
}

#[test]
fn each_direction_closes_on_its_own() {
    let mut guest = Guest::new();
    let (mut program, port) = guest.connected();
    program.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.expect(operation::SHUTDOWN).flags, NO_MORE_SEND);
    guest.send(data(7, port, 5), b"still");
    let mut bytes = [0; 5];
    program.read_exact(&mut bytes).unwrap();
    drop(program);
    assert_eq!(guest.expect(operation::SHUTDOWN).flags, CLOSED);
    guest.send(packet(7, port, operation::RESET), &[]);
    guest.expect_silence();

    let (mut program, port) = guest.connected();
    let mut shutdown = packet(7, port, operation::SHUTDOWN);
    shutdown.flags = NO_MORE_SEND;
    guest.send(shutdown, &[]);
    assert_eq!(program.read(&mut [0]).unwrap(), 0, "end of file");
    program.write_all(b"still").unwrap();
    assert_eq!(guest.receive().1, b"still");
    drop(program);
    guest.expect_closed();
}

#[test]
fn what_a_program_wrote_before_it_left_still_reaches_the_guest() {
    let mut guest = Guest::new();
    let (mut program, port) = guest.connected();
    program.write_all(&pattern(10_000)).unwrap();
    drop(program);
    let mut received = Vec::new();
    let mut flags = 0;
    while flags != CLOSED {
        let (header, bytes) = guest.receive();
        match header.operation {
            operation::SHUTDOWN => flags = header.flags,
            operation => assert_eq!(operation, operation::DATA),
        }
        received.extend(bytes);
    }
    assert!(received == pattern(10_000));
    let mut shutdown = packet(7, port, operation::SHUTDOWN);
    shutdown.flags = CLOSED;
    guest.send(shutdown, &[]);
    guest.expect(operation::RESET);
}

#[test]
fn what_the_guest_sent_before_it_closed_still_reaches_the_program() {
    let mut guest = Guest::new();
    let (mut program, port) = guest.connected();
    let bytes = pattern(64 * 1024);
    // More than a Unix socket takes: the rest is kept for the program.
    for _ in 0..4 {
        guest.send(data(7, port, bytes.len()), &bytes);
    }
    let mut shutdown = packet(7, port, operation::SHUTDOWN);
    shutdown.flags = CLOSED;
    guest.send(shutdown, &[]);
    while guest.receive().0.operation != operation::RESET {}
    let mut all = Vec::new();
    program.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 4 * bytes.len());
    assert!(all.chunks(bytes.len()).all(|chunk| chunk == bytes));
}

#[test]
fn a_guest_that_takes_nothing_gets_no_more_sent_to_it() {
    let mut guest = Guest::new();
    let (mut program, port) = guest.connected();
    let mut shutdown = packet(7, port, operation::SHUTDOWN);
    shutdown.flags = NO_MORE_RECEIVE;
    guest.send(shutdown, &[]);
    let error = program.write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    guest.expect_silence();
}

#[test]
fn a_greeting_that_is_none_is_hung_up_on() {
    let mut guest = Guest::new();
    let endless = "CONNECT 00000000000000000000000000000000000001\n";
    for wrong in [
        "HELLO\n",
        "CONNECT \n",
        "CONNECT 4294967296\n",
        "CONNECT -1\n",
        endless,
    ] {
        let mut program = UnixStream::connect(guest.path("")).unwrap();
        program.set_read_timeout(PATIENCE).unwrap();
        program.write_all(wrong.as_bytes()).unwrap();
        // Closed with bytes unread, which a program sees as a reset, or as an end.
        match program.read(&mut [0]) {
            Ok(count) => assert_eq!(count, 0, "{wrong:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{wrong:?}"),
        }
    }
    guest.expect_silence();
    assert_eq!(guest.counter("connections"), 0);
}

#[test]
fn programs_beyond_the_half_open_limit_wait_until_one_is_done() {
    let mut guest = Guest::new();
    let mut silent: Vec<_> = (0..hub::MAX_HALF_OPEN)
        .map(|_| UnixStream::connect(guest.path("")).unwrap())
        .collect();
    let mut program = guest.program(7);
    guest.expect_silence();
    silent.pop();
    let port = guest.expect(operation::REQUEST).source_port;
    guest.send(packet(7, port, operation::RESPONSE), &[]);
    assert_eq!(read_line(&mut program), format!("OK {port}\n"));
}

#[test]
fn a_half_open_connection_expires() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock.sock");
    let listener = super::host::Listener::bind(&path).unwrap();
    let mut hub = hub::Hub::new(listener, CID, super::Counters::default()).unwrap();
    let mut silent = UnixStream::connect(&path).unwrap();
    silent.set_read_timeout(PATIENCE).unwrap();
    hub.take_events().unwrap();
    hub.accept();
    assert_eq!(hub.open(), 1);
    let deadline = hub.deadline().unwrap();
    hub.expire(deadline - Duration::from_millis(1));
    assert_eq!(hub.open(), 1);
    hub.expire(deadline);
    assert_eq!((hub.open(), hub.deadline()), (0, None));
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_guest_gets_a_reset_for_what_makes_no_sense_and_silence_for_others_packets() {
    let mut guest = Guest::new();
    let mut strange = packet(5, 1, operation::REQUEST);
    strange.kind = 2;
    let bytes = strange.bytes();
    guest.driver.request(TX, &[Buffer::Out(&bytes)]);
    let used = guest.driver.wait_used(RX);
    let reset = Header::parse(used.data[..HEADER_BYTES].try_into().unwrap());
    assert_eq!((reset.kind, reset.operation), (2, operation::RESET));

    let mut elsewhere = packet(5, 1, operation::REQUEST);
    elsewhere.destination_cid = 99;
    guest.send(elsewhere, &[]);
    assert_eq!(guest.expect(operation::RESET).source_cid, 99);

    let mut forged = packet(5, 1, operation::REQUEST);
    forged.source_cid = CID + 1;
    guest.send(forged, &[]);
    guest.expect_silence();

    for lie in [u32::MAX, 6] {
        let (_program, port) = guest.connected();
        let mut header = data(7, port, 5);
        header.length = lie;
        guest.send(header, b"12345");
        assert_eq!(guest.expect(operation::RESET).source_port, port);
    }
    let (_program, port) = guest.connected();
    let mut header = packet(7, port, operation::CREDIT_UPDATE);
    header.forwarded = 1;
    guest.send(header, &[]);
    assert_eq!(guest.expect(operation::RESET).source_port, port);
    assert_eq!(guest.counter("refused"), 6);
}

#[test]
fn resets_wait_for_buffers_and_the_guests_packets_wait_with_them() {
    let mut guest = Guest::without_buffers();
    let bytes = packet(5, 1, operation::DATA).bytes();
    for _ in 0..200 {
        guest.driver.add(TX, &[Buffer::Out(&bytes)]);
    }
    guest.driver.kick(TX);
    for _ in 0..64 {
        guest.driver.wait_used(TX);
    }
    assert_eq!(guest.driver.ring(TX).take_used(), None);
    guest.give_buffers(100);
    for _ in 0..200 {
        guest.expect(operation::RESET);
    }
}

#[test]
fn a_flood_on_one_connection_leaves_room_for_the_others() {
    let mut guest = Guest::new();
    let (mut flood, flooded) = guest.connected();
    let others: Vec<_> = (0..100).map(|_| guest.connected()).collect();
    let mut update = packet(7, flooded, operation::CREDIT_UPDATE);
    update.window = 16 << 20;
    guest.send(update, &[]);
    let writer = std::thread::spawn(move || {
        let bytes = pattern(8 << 20);
        flood.write_all(&bytes).unwrap();
    });
    for (other, _) in &others {
        (&*other).write_all(b"x").unwrap();
    }
    let mut heard = 0;
    let mut flood_bytes = 0;
    while heard < others.len() || flood_bytes < 8 << 20 {
        let (header, bytes) = guest.receive();
        if header.operation == operation::DATA {
            if header.source_port == flooded {
                flood_bytes += bytes.len();
            } else {
                heard += 1;
            }
        }
    }
    writer.join().unwrap();
}

#[test]
fn a_pause_keeps_connections_and_a_reset_ends_them() {
    let mut guest = Guest::new();
    let (mut program, port) = guest.connected();
    guest.driver.stop();
    program.write_all(b"while away").unwrap();
    guest.driver.resume();
    assert_eq!(guest.receive().1, b"while away");
    guest.send(data(7, port, 2), b"ok");
    let mut answer = [0; 2];
    program.read_exact(&mut answer).unwrap();

    guest.driver.reset();
    assert_eq!(program.read(&mut [0]).unwrap(), 0);
    guest.give_buffers(8);
    guest.connected();
}

#[test]
fn a_restored_device_tells_the_guest_that_its_connections_are_gone() {
    let mut guest = Guest::new();
    guest.driver.stop();
    let saved = guest.driver.device().save();
    guest.driver.device().restore(&saved).unwrap();
    guest.driver.resume();
    let used = guest.driver.request(EVENT, &[Buffer::In(8)]);
    assert_eq!((used.length, &used.data[..4]), (4, &[0; 4][..]));
    let other = serde_json::json!({ "guest-cid": 43 });
    assert!(guest.driver.device().restore(&other).is_err());
}

#[test]
fn a_receive_buffer_without_room_for_data_is_the_drivers_fault() {
    let mut guest = Guest::without_buffers();
    guest.driver.add(RX, &[Buffer::In(HEADER_BYTES)]);
    guest.driver.kick(RX);
    let bytes = packet(5, 1, operation::DATA).bytes();
    guest.driver.add(TX, &[Buffer::Out(&bytes)]);
    guest.driver.kick(TX);
    let interrupts = guest.driver.interrupts();
    interrupts.wait("the device to give up", |seen| seen.needs_reset);
}

#[test]
fn the_socket_replaces_a_dead_one_and_spares_a_living_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock.sock");
    drop(UnixListener::bind(&path).unwrap());
    let device = Vsock::new("vsock0", CID, &path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(
        Vsock::new("vsock0", CID, &path),
        Err(VsockError::Socket { .. })
    ));
    drop(device);
    assert!(!path.exists());

    std::fs::write(&path, "a file").unwrap();
    assert!(Vsock::new("vsock0", CID, &path).is_err());
    assert!(path.exists());

    let long = directory.path().join("x".repeat(100));
    assert!(matches!(
        Vsock::new("vsock0", CID, &long),
        Err(VsockError::PathTooLong { .. })
    ));
    assert!(matches!(
        Vsock::new("vsock0", 2, &path),
        Err(VsockError::Cid(2))
    ));
}

/// A packet that gets far: mostly the right addresses, few ports, any operation.
fn plausible(random: &mut Random) -> Vec<u8> {
    let length = random.pick(&[0, 0, 1, 20, 5000]);
    let header = Header {
        source_cid: if random.one_in(20) {
            random.next()
        } else {
            CID
        },
        destination_cid: if random.one_in(20) {
            random.next()
        } else {
            HOST_CID
        },
        source_port: random.below(3) as u32,
        destination_port: random.pick(&[1, 1, 2, 1 << 30]),
        length: if random.one_in(10) {
            random.next() as u32
        } else {
            length
        },
        kind: if random.one_in(20) {
            random.next() as u16
        } else {
            STREAM
        },
        operation: random.below(9) as u16,
        flags: if random.one_in(3) {
            random.next() as u32
        } else {
            0
        },
        window: random.pick(&[0, 1, 64 << 10, u32::MAX]),
        forwarded: if random.one_in(10) {
            random.next() as u32
        } else {
            0
        },
    };
    let mut bytes = header.bytes().to_vec();
    bytes.resize(HEADER_BYTES + length as usize, 0x55);
    bytes
}

#[test]
fn a_malicious_driver_breaks_nothing() {
    for seed in 0..4 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock.sock");
        let device = Vsock::new("vsock0", CID, &path).unwrap();
        // A program that floods and one that never reads, so that data flows both ways.
        let listener = UnixListener::bind(directory.path().join("vsock.sock_1")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut programs = Vec::new();
        attack(Box::new(device), seed, |_, random| {
            while let Ok((mut program, _)) = listener.accept() {
                program.set_nonblocking(true).unwrap();
                let _ = program.write(&[0xaa; 100_000]);
                programs.push(program);
                if programs.len() > 20 {
                    programs.clear();
                }
            }
            plausible(random)
        });
    }
}
