//! A guest made of packets talks to real Unix sockets.

mod limits;
mod streams;

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
        let device = Vsock::new("vsock0", CID, &directory.path().join("vsock.sock"), None).unwrap();
        Self { driver: TestDriver::start(Box::new(device)), directory }
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
        (header, used.data[HEADER_BYTES..used.length as usize].to_vec())
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
    Header { length: length as u32, ..packet(from, to, operation::DATA) }
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
