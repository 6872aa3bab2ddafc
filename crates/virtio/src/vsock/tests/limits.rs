//! Guests and programs that are slow, silent, wrong or hostile.

use super::*;

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
    for wrong in ["HELLO\n", "CONNECT \n", "CONNECT 4294967296\n", "CONNECT -1\n", endless] {
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
    let mut silent: Vec<_> =
        (0..hub::MAX_HALF_OPEN).map(|_| UnixStream::connect(guest.path("")).unwrap()).collect();
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
    let listener = crate::vsock::host::Listener::bind(&path).unwrap();
    let ports = std::sync::Arc::new(crate::vsock::host::Beside(PathBuf::new()));
    let mut hub = hub::Hub::new(listener, ports, CID, crate::vsock::Counters::default()).unwrap();
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
fn a_guest_that_tells_its_credit_by_itself_is_asked_only_when_it_falls_silent() {
    let mut guest = Guest::new();
    let (mut program, port) = guest.connected();
    guest.send(packet(7, port, operation::CREDIT_UPDATE), &[]);
    program.write_all(&pattern(100_000)).unwrap();
    let mut taken = 0;
    let mut take_until_asked = |guest: &mut Guest| loop {
        let (header, bytes) = guest.receive();
        taken += bytes.len();
        match header.operation {
            operation::DATA if taken < 100_000 => {}
            operation::DATA | operation::CREDIT_REQUEST => return taken,
            other => panic!("{other}"),
        }
    };
    // With little room left, more is waited for; then it is asked, and gets what it has room for.
    let taken = take_until_asked(&mut guest);
    assert!((48 << 10..64 << 10).contains(&taken), "{taken}");
    let mut update = packet(7, port, operation::CREDIT_UPDATE);
    guest.send(update, &[]);
    assert_eq!(take_until_asked(&mut guest), 64 << 10);
    update.forwarded = 64 << 10;
    guest.send(update, &[]);
    assert_eq!(take_until_asked(&mut guest), 100_000);
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
    let device = Vsock::new("vsock0", CID, &path, None).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(Vsock::new("vsock0", CID, &path, None), Err(VsockError::Socket { .. })));
    drop(device);
    assert!(!path.exists());

    std::fs::write(&path, "a file").unwrap();
    assert!(Vsock::new("vsock0", CID, &path, None).is_err());
    assert!(path.exists());

    let long = directory.path().join("x".repeat(100));
    assert!(matches!(Vsock::new("vsock0", CID, &long, None), Err(VsockError::PathTooLong { .. })));
    assert!(matches!(Vsock::new("vsock0", 2, &path, None), Err(VsockError::Cid(2))));
}

/// A packet that gets far: mostly the right addresses, few ports, any operation.
fn plausible(random: &mut Random) -> Vec<u8> {
    let length = random.pick(&[0, 0, 1, 20, 5000]);
    let header = Header {
        source_cid: if random.one_in(20) { random.next() } else { CID },
        destination_cid: if random.one_in(20) { random.next() } else { HOST_CID },
        source_port: random.below(3) as u32,
        destination_port: random.pick(&[1, 1, 2, 1 << 30]),
        length: if random.one_in(10) { random.next() as u32 } else { length },
        kind: if random.one_in(20) { random.next() as u16 } else { STREAM },
        operation: random.below(9) as u16,
        flags: if random.one_in(3) { random.next() as u32 } else { 0 },
        window: random.pick(&[0, 1, 64 << 10, u32::MAX]),
        forwarded: if random.one_in(10) { random.next() as u32 } else { 0 },
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
        let device = Vsock::new("vsock0", CID, &path, None).unwrap();
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
