//! A driver that finds the port and uses it, and programs of the host that come and go.

use super::*;
use crate::test_support::{Buffer, TestDriver, attack};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Control messages: port, event, value.
const READY: [u8; 8] = [0, 0, 0, 0, 0, 0, 1, 0];
const ADD: [u8; 8] = [1, 0, 0, 0, 1, 0, 1, 0];
const PORT_READY: [u8; 8] = [1, 0, 0, 0, 3, 0, 1, 0];
const OPEN: [u8; 8] = [1, 0, 0, 0, 6, 0, 1, 0];
const CLOSED: [u8; 8] = [1, 0, 0, 0, 6, 0, 0, 0];
const NAME: [u8; 8] = [1, 0, 0, 0, 7, 0, 1, 0];

struct Scene {
    driver: TestDriver,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn device() -> (Box<NamedPort>, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (Box::new(NamedPort::new("port0", "org.example.port", listener).unwrap()), path, folder)
}

impl Scene {
    /// With a driver that has found the port.
    fn new() -> Self {
        let (device, path, folder) = device();
        let mut scene = Self { driver: TestDriver::start(device), path, _folder: folder };
        scene.say(&READY);
        assert_eq!(scene.hear(), ADD);
        scene.say(&PORT_READY);
        assert_eq!(scene.hear(), [&NAME[..], b"org.example.port"].concat());
        scene
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    fn say(&mut self, message: &[u8]) {
        self.driver.request(CONTROL_TRANSMIT, &[Buffer::Out(message)]);
    }

    /// The next control message.
    fn hear(&mut self) -> Vec<u8> {
        let used = self.driver.request(CONTROL_RECEIVE, &[Buffer::In(64)]);
        used.data[..used.length as usize].to_vec()
    }

    fn refused(&mut self) -> u64 {
        self.driver.device().counters()[3].1
    }
}

#[test]
fn bytes_go_both_ways_once_both_ends_are_there() {
    let mut scene = Scene::new();
    let mut host = scene.connect();
    assert_eq!(scene.hear(), OPEN);
    // What comes before the guest has opened the port waits.
    host.write_all(b"early").unwrap();
    scene.driver.add(RECEIVE, &[Buffer::In(100)]);
    scene.driver.kick(RECEIVE);
    scene.say(&[0xff; 8]);
    assert_eq!(scene.refused(), 1);
    assert_eq!(scene.driver.ring(RECEIVE).take_used(), None);
    scene.say(&OPEN);
    let used = scene.driver.wait_used(RECEIVE);
    assert_eq!((used.length, &used.data[..5]), (5, &b"early"[..]));
    scene.driver.request(TRANSMIT, &[Buffer::Out(b"hello "), Buffer::Out(b"host")]);
    let mut said = [0; 10];
    host.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello host");
    let mut config = [0xff; 12];
    scene.driver.device().read_config(0, &mut config);
    assert_eq!(config, [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn one_who_goes_is_noticed_and_the_next_is_served() {
    let mut scene = Scene::new();
    let host = scene.connect();
    assert_eq!(scene.hear(), OPEN);
    scene.say(&OPEN);
    scene.driver.add(RECEIVE, &[Buffer::In(100)]);
    scene.driver.kick(RECEIVE);
    drop(host);
    assert_eq!(scene.hear(), CLOSED);
    // Nobody hears it, and the guest does not hang on that.
    scene.driver.request(TRANSMIT, &[Buffer::Out(&[b'x'; 100_000])]);
    let mut next = scene.connect();
    assert_eq!(scene.hear(), OPEN);
    next.write_all(b"anew").unwrap();
    assert_eq!(scene.driver.wait_used(RECEIVE).length, 4);
    // While one is there, another waits.
    let mut other = scene.connect();
    other.write_all(b"other").unwrap();
    scene.driver.add(RECEIVE, &[Buffer::In(100)]);
    scene.driver.kick(RECEIVE);
    drop(next);
    let used = scene.driver.wait_used(RECEIVE);
    assert_eq!(&used.data[..5], b"other");
}

#[test]
fn one_who_goes_in_the_middle_of_output_does_not_hold_the_guest_up() {
    let mut scene = Scene::new();
    let mut host = scene.connect();
    assert_eq!(scene.hear(), OPEN);
    scene.say(&OPEN);
    scene.driver.add(RECEIVE, &[Buffer::In(100)]);
    scene.driver.kick(RECEIVE);
    let much = vec![b'x'; 4 << 20];
    scene.driver.add(TRANSMIT, &[Buffer::Out(&much)]);
    scene.driver.kick(TRANSMIT);
    host.read_exact(&mut [0; 1000]).unwrap();
    drop(host);
    scene.driver.wait_used(TRANSMIT);
}

#[test]
fn a_pause_changes_nothing_and_a_reset_begins_anew() {
    let mut scene = Scene::new();
    let mut host = scene.connect();
    assert_eq!(scene.hear(), OPEN);
    scene.say(&OPEN);
    scene.driver.stop();
    let state = scene.driver.device().save();
    let (mut fresh, _, _folder) = device();
    fresh.restore(&state).unwrap();
    assert_eq!(fresh.save(), state);
    assert!(fresh.restore(&serde_json::json!({ "version": 1, "written": 0 })).is_err());
    scene.driver.resume();
    host.write_all(b"on").unwrap();
    assert_eq!(scene.driver.request(RECEIVE, &[Buffer::In(10)]).length, 2);
    scene.driver.reset();
    scene.say(&READY);
    assert_eq!(scene.hear(), ADD);
    scene.say(&PORT_READY);
    assert_eq!(&scene.hear()[..8], NAME);
    assert_eq!(scene.hear(), OPEN);
}

#[test]
fn a_driver_that_asks_and_takes_no_answer_has_nothing_kept_for_it() {
    let (device, _path, _folder) = device();
    let mut scene = Scene { driver: TestDriver::start(device), path: _path, _folder };
    for _ in 0..1000 {
        scene.say(&READY);
    }
    // An answer that does not fit is not given.
    let used = scene.driver.request(CONTROL_RECEIVE, &[Buffer::In(7)]);
    assert_eq!(used.length, 0);
    assert_eq!(scene.refused(), 1);
    assert_eq!(scene.hear(), ADD);
    scene.driver.add(CONTROL_RECEIVE, &[Buffer::In(64)]);
    scene.driver.kick(CONTROL_RECEIVE);
    scene.say(&[1]);
    assert_eq!(scene.refused(), 2);
    assert_eq!(scene.driver.ring(CONTROL_RECEIVE).take_used(), None);
}

#[test]
fn a_kernel_that_takes_it_for_a_console_prints_into_nothing() {
    let (device, path, _folder) = device();
    let mut host = UnixStream::connect(&path).unwrap();
    let mut driver = TestDriver::start_with(device, 0);
    driver.request(PORT_0_TRANSMIT, &[Buffer::Out(b"Linux version")]);
    host.set_nonblocking(true).unwrap();
    let error = host.read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_hostile_driver_harms_only_itself() {
    for seed in 0..4 {
        let (device, path, _folder) = device();
        let mut host = UnixStream::connect(path).unwrap();
        host.write_all(&[b'i'; 5000]).unwrap();
        host.set_nonblocking(true).unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while !matches!(host.read(&mut bytes), Ok(0)) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        attack(device, seed, |queue, random| match queue {
            CONTROL_TRANSMIT => random.pick(&[READY, PORT_READY, OPEN, CLOSED]).to_vec(),
            _ => vec![b'o'; random.below(100) as usize],
        });
        reader.join().unwrap();
    }
}
