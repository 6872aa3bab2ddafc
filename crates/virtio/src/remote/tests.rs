//! The front-end here drives the back-end of [`crate::vhost_user`] in a thread of the same process.

use super::{RemoteDevice, RemoteOptions};
use crate::rng::Rng;
use crate::test_support::{Buffer, TestDriver, attack};
use crate::vhost_user::Server;
use crate::vsock::Vsock;
use crate::{Device, DeviceId};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn attached(device: Box<dyn Device>, folder: &TempDir) -> (Server, Box<RemoteDevice>) {
    let path = folder.path().join("device.sock");
    let (id, queue_sizes) = (device.id(), device.queue_sizes());
    let server = Server::start(device, UnixListener::bind(&path).unwrap()).unwrap();
    let options =
        RemoteOptions { id, name: "remote0".to_owned(), queue_sizes, config: vec![1, 2, 3] };
    let remote = RemoteDevice::attach(options, UnixStream::connect(&path).unwrap()).unwrap();
    (server, Box::new(remote))
}

#[test]
fn a_device_in_another_process_answers_like_one_here() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, remote) = attached(Box::new(Rng::new("rng0")), &folder);
    assert_eq!(remote.id(), DeviceId::Rng);
    let mut driver = TestDriver::start(remote);
    for _ in 0..300 {
        let used = driver.request(0, &[Buffer::In(64)]);
        assert_eq!(used.length, 64);
        assert_ne!(used.data, [0; 64]);
    }
    driver.stop();
    driver.resume();
    assert_eq!(driver.request(0, &[Buffer::In(16)]).length, 16);
    driver.reset();
    assert_eq!(driver.request(0, &[Buffer::In(16)]).length, 16);
    let mut config = [9; 4];
    driver.device().read_config(0, &mut config);
    assert_eq!(config, [1, 2, 3, 0]);
}

#[test]
fn interrupts_go_past_this_process_where_there_is_a_way() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, remote) = attached(Box::new(Rng::new("rng0")), &folder);
    let (mut driver, interrupt) = TestDriver::start_direct(remote);
    for _ in 0..3 {
        driver.add(0, &[Buffer::In(16)]);
        driver.kick(0);
        let came = Instant::now() + Duration::from_secs(20);
        while interrupt.read().is_err() {
            assert!(Instant::now() < came, "no interrupt");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(driver.wait_used(0).length, 16);
    }
    driver.stop();
    driver.resume();
    assert!(driver.interrupts().seen().queues.is_empty(), "some came through the device");
}

#[test]
fn vsock_works_through_vhost_user() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vsock.sock");
    let vsock = Vsock::new("vsock0", 3, &path, None).unwrap();
    let (_server, remote) = attached(Box::new(vsock), &folder);
    let mut driver = TestDriver::start(remote);
    driver.add(0, &[Buffer::In(4096)]);
    driver.kick(0);
    let mut program = UnixStream::connect(&path).unwrap();
    program.write_all(b"CONNECT 80\n").unwrap();
    let request = driver.wait_used(0).data;
    assert_eq!((request[20], request[30]), (80, 1), "a request for port 80");
    // The same header with the ends swapped, as a response (virtio 1.2, 5.10.6).
    let mut response = request[..44].to_vec();
    response[0..8].copy_from_slice(&request[8..16]);
    response[8..16].copy_from_slice(&request[0..8]);
    response[16..20].copy_from_slice(&request[20..24]);
    response[20..24].copy_from_slice(&request[16..20]);
    response[30] = 2;
    driver.request(1, &[Buffer::Out(&response)]);
    let mut line = [0; 14];
    program.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"OK 1073741824\n");
}

#[test]
fn when_the_process_goes_the_device_asks_for_a_reset() {
    let folder = tempfile::tempdir().unwrap();
    let (server, remote) = attached(Box::new(Rng::new("rng0")), &folder);
    let driver = TestDriver::start(remote);
    drop(server);
    let interrupts = driver.interrupts();
    interrupts.wait("the device to give up", |seen| seen.needs_reset);
}

#[test]
fn a_process_that_hangs_up_or_is_none_is_an_error() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let options = RemoteOptions {
        id: DeviceId::Rng,
        name: "remote0".to_owned(),
        queue_sizes: vec![8],
        config: Vec::new(),
    };
    assert!(RemoteDevice::attach(options, ours).is_err());
}

#[test]
fn a_malicious_driver_breaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, remote) = attached(Box::new(Rng::new("rng0")), &folder);
    attack(remote, 1, |_, _| vec![0; 16]);
}
