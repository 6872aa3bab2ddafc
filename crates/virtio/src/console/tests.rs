//! A driver talks, and a socket at the other end listens.

use super::*;
use crate::test_support::{Buffer, TestDriver, attack};

fn pair() -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    (near, far)
}

fn console(end: UnixStream) -> Box<Console> {
    Box::new(Console::new("console0", Box::new(end)))
}

#[test]
fn what_the_guest_says_comes_out_in_order() {
    let (mut host, end) = pair();
    let mut driver = TestDriver::start(console(end));
    driver.add(TRANSMIT, &[Buffer::Out(b"Hello, "), Buffer::Out(b"world")]);
    driver.add(TRANSMIT, &[Buffer::Out(b"!\n")]);
    driver.kick(TRANSMIT);
    driver.wait_used(TRANSMIT);
    driver.wait_used(TRANSMIT);
    let mut said = [0; 14];
    host.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"Hello, world!\n");
}

#[test]
fn input_waits_until_the_guest_has_room() {
    let (mut host, end) = pair();
    let mut driver = TestDriver::start(console(end));
    host.write_all(b"typed before").unwrap();
    let used = driver.request(RECEIVE, &[Buffer::In(5)]);
    assert_eq!((used.length, &used.data[..]), (5, &b"typed"[..]));
    let used = driver.request(RECEIVE, &[Buffer::In(3), Buffer::In(100)]);
    assert_eq!((used.length, &used.data[..7]), (7, &b" before"[..]));
    driver.add(RECEIVE, &[Buffer::In(100)]);
    driver.kick(RECEIVE);
    host.write_all(b"and after").unwrap();
    assert_eq!(driver.wait_used(RECEIVE).length, 9);
    assert_eq!(driver.device().counters()[1], ("bytes-read", 21));
}

#[test]
fn a_slow_reader_gets_every_byte_once_across_a_pause() {
    let (mut host, end) = pair();
    let mut driver = TestDriver::start(console(end));
    let text: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 7) as u8).collect();
    for part in text.chunks(1 << 18) {
        driver.add(TRANSMIT, &[Buffer::Out(part)]);
    }
    driver.kick(TRANSMIT);
    let mut said = Vec::new();
    let mut bytes = vec![0; 50_000];
    while said.len() < text.len() {
        let count = host.read(&mut bytes).unwrap();
        said.extend_from_slice(&bytes[..count]);
        driver.stop();
        driver.resume();
    }
    assert!(said == text);
    for _ in 0..4 {
        driver.wait_used(TRANSMIT);
    }
}

#[test]
fn what_is_half_said_when_saved_is_said_to_the_end_by_another_console() {
    let (mut host, end) = pair();
    let mut driver = TestDriver::start(console(end));
    let text: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 7) as u8).collect();
    driver.add(TRANSMIT, &[Buffer::Out(&text)]);
    driver.kick(TRANSMIT);
    let mut said = vec![0; 1000];
    host.read_exact(&mut said).unwrap();
    driver.stop();
    let state = driver.device().save();
    host.set_nonblocking(true).unwrap();
    let mut bytes = vec![0; 1 << 20];
    while let Ok(count) = host.read(&mut bytes) {
        said.extend_from_slice(&bytes[..count]);
    }
    let mut fresh = console(pair().1);
    fresh.restore(&state).unwrap();
    assert_eq!(fresh.written, said.len());
    assert!(fresh.restore(&serde_json::json!({ "version": 2, "written": 0 })).is_err());
    assert!(text.starts_with(&said) && said.len() < text.len());
}

#[test]
fn what_was_half_said_on_a_queue_that_is_reset_is_forgotten() {
    let (ours, _theirs) = pair();
    let mut console = console(ours);
    console.written = 7;
    console.reset_queue(RECEIVE);
    assert_eq!(console.written, 7);
    console.reset_queue(TRANSMIT);
    assert_eq!(console.written, 0);
}

#[test]
fn nobody_at_the_other_end_does_not_hold_the_guest_up() {
    let (host, end) = pair();
    let mut driver = TestDriver::start(console(end));
    driver.add(RECEIVE, &[Buffer::In(100)]);
    driver.kick(RECEIVE);
    drop(host);
    for _ in 0..3 {
        driver.request(TRANSMIT, &[Buffer::Out(&[b'x'; 10_000])]);
    }
    assert_eq!(driver.ring(RECEIVE).take_used(), None);
}

#[test]
fn a_new_size_is_in_the_configuration_and_the_driver_hears_of_it() {
    let (_host, end) = pair();
    let console = console(end);
    let size = console.size();
    size.set(80, 25);
    let mut driver = TestDriver::start(console);
    size.set(132, 50);
    size.set(132, 50);
    assert_eq!(driver.interrupts().seen().config, 1);
    let mut config = [0xff; 8];
    driver.device().read_config(0, &mut config);
    assert_eq!(config, [132, 0, 50, 0, 0, 0, 0, 0]);
}

#[test]
fn a_hostile_driver_harms_only_itself() {
    for seed in 0..4 {
        let (mut host, end) = pair();
        host.write_all(&[b'i'; 5000]).unwrap();
        host.set_nonblocking(true).unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while !matches!(host.read(&mut bytes), Ok(0)) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        attack(console(end), seed, |_, random| vec![b'o'; random.below(100) as usize]);
        reader.join().unwrap();
    }
}
