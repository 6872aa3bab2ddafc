//! A socket before a compositor's, where wlr-data-control has the name of ext-data-control. Both are the
//! same on the wire but for the manager's name and version: so the standard protocol is tested on a
//! compositor that has only its draft.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

const DRAFT: &str = "zwlr_data_control_manager_v1";
const STANDARD: &str = "ext_data_control_manager_v1";
/// wl_display, and its request get_registry.
const DISPLAY: (u32, u32) = (1, 1);

/// What both directions know: the registry's id, and the manager's name in it.
#[derive(Default)]
struct Known {
    registry: AtomicU32,
    manager: AtomicU32,
}

/// Listens beside the compositor, for as long as the process runs.
pub fn before(compositor: &Path) -> PathBuf {
    let socket = compositor.with_file_name("renamed-0");
    let listener = UnixListener::bind(&socket).unwrap();
    let compositor = compositor.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = UnixStream::connect(&compositor).unwrap();
            let known = Arc::new(Known::default());
            let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let of_client = Arc::clone(&known);
            std::thread::spawn(move || {
                pass(&client, &server, |message| request(&of_client, message))
            });
            std::thread::spawn(move || pass(&ends.1, &ends.0, |message| event(&known, message)));
        }
    });
    socket
}

/// Passes whole messages with the descriptors that came, until one end closes.
fn pass(from: &UnixStream, mut to: &UnixStream, change: impl Fn(Vec<u32>) -> Vec<u32>) {
    let mut bytes = Vec::new();
    let mut descriptors: VecDeque<OwnedFd> = VecDeque::new();
    loop {
        let mut piece = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut came = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let read = recvmsg(from, &mut [IoSliceMut::new(&mut piece)], &mut came, flags);
        let read = read.map_or(0, |read| read.bytes);
        if read == 0 {
            let _ = to.shutdown(std::net::Shutdown::Both);
            return;
        }
        for message in came.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        bytes.extend(&piece[..read]);
        let mut out = Vec::new();
        while let Some(length) = bytes.get(6..8).map(|size| u16::from_ne_bytes([size[0], size[1]]))
            && bytes.len() >= usize::from(length)
        {
            let message: Vec<u8> = bytes.drain(..usize::from(length)).collect();
            let words = message.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word));
            out.extend(change(words.collect()).into_iter().flat_map(u32::to_ne_bytes));
        }
        if out.is_empty() {
            continue;
        }
        let given: Vec<OwnedFd> = descriptors.drain(..).collect();
        let borrowed: Vec<_> = given.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !borrowed.is_empty() {
            assert!(rights.push(SendAncillaryMessage::ScmRights(&borrowed)));
        }
        let sent = sendmsg(to, &[IoSlice::new(&out)], &mut rights, SendFlags::NOSIGNAL);
        let Ok(sent) = sent else {
            return;
        };
        if to.write_all(&out[sent..]).is_err() {
            return;
        }
    }
}

fn request(known: &Known, message: Vec<u32>) -> Vec<u32> {
    let (object, opcode) = (message[0], message[1] & 0xffff);
    if (object, opcode) == DISPLAY {
        known.registry.store(message[2], Ordering::SeqCst);
    }
    // wl_registry.bind: name, interface, version, id.
    let bind = object == known.registry.load(Ordering::SeqCst) && opcode == 0;
    if bind && message[2] == known.manager.load(Ordering::SeqCst) {
        let id = message[message.len() - 1];
        return registry_message(object, message[2], DRAFT, &[2, id]);
    }
    message
}

fn event(known: &Known, message: Vec<u32>) -> Vec<u32> {
    let (object, opcode) = (message[0], message[1] & 0xffff);
    // wl_registry.global: name, interface, version.
    if object == known.registry.load(Ordering::SeqCst) && opcode == 0 {
        let interface: Vec<u8> =
            message[4..message.len() - 1].iter().flat_map(|word| word.to_ne_bytes()).collect();
        if interface.starts_with(DRAFT.as_bytes()) {
            known.manager.store(message[2], Ordering::SeqCst);
            return registry_message(object, message[2], STANDARD, &[1]);
        }
    }
    message
}

/// One with opcode 0.
fn registry_message(registry: u32, name: u32, interface: &str, rest: &[u32]) -> Vec<u32> {
    let mut text = interface.as_bytes().to_vec();
    text.push(0);
    let length = u32::try_from(text.len()).unwrap();
    text.resize(text.len().next_multiple_of(4), 0);
    let mut message = vec![registry, 0, name, length];
    message.extend(text.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)));
    message.extend(rest);
    message[1] = u32::try_from(message.len() * 4).unwrap() << 16;
    message
}
