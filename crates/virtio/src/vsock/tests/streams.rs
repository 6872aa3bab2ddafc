//! Bytes in both directions, and how a direction ends.

use super::*;

#[test]
fn a_host_program_reaches_a_guest_port_and_both_sides_talk() {
    let mut guest = Guest::new();
    let (mut program, port) = guest.connected();
    program.write_all(b"ping").unwrap();
    let (header, bytes) = guest.receive();
    assert_eq!((header.operation, bytes.as_slice()), (operation::DATA, &b"ping"[..]));
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
