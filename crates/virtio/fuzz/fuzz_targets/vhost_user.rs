//! Bytes on a vhost-user socket. Run: `cargo +nightly fuzz run vhost_user` in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use virtio::rng::Rng;
use virtio::vhost_user::Server;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = Server::start(Box::new(Rng::new("rng0")), listener).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    // The server may hang up at any byte.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    drop(server);
});
