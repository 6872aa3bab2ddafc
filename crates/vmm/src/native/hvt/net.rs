//! A network card of a unikernel: a back end of virtio's, and a thread that takes frames from it, so
//! that a guest in a poll wakes when one comes.

use crate::MachineError;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use solo5::Net;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use virtio::net::{Backend, Frame, HEADER_BYTES, Next};
use virtio::scatter::{Readable, Writable};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Frames kept for a guest that does not take them; more are lost.
const INBOX: usize = 256;
/// What a card tells the guest unless its back end says more or less.
const MTU: u16 = 1500;

struct Shared {
    backend: Mutex<Box<dyn Backend>>,
    inbox: Mutex<VecDeque<Vec<u8>>>,
    state: Mutex<State>,
    /// Makes the thread look at `state`.
    call: EventFd,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// The back end has kept the end of a frame back.
    pending: bool,
    /// The other end is gone.
    down: bool,
    end: bool,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The guest's side of a card.
pub(super) struct Card {
    shared: Arc<Shared>,
    mac: [u8; 6],
    mtu: u16,
}

/// The thread of a card.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Card {
    /// A card whose cable ends at `backend`; `wake` is called when a frame came.
    pub(super) fn start(
        backend: Box<dyn Backend>,
        mac: [u8; 6],
        wake: impl Fn() + Send + 'static,
    ) -> Result<(Self, Receiver), MachineError> {
        let failed = |e| MachineError::system("cannot make a network card", e);
        let descriptor = backend.descriptor().try_clone_to_owned().map_err(failed)?;
        let mtu = backend.mtu().unwrap_or(MTU);
        let shared = Arc::new(Shared {
            backend: Mutex::new(backend),
            inbox: Mutex::default(),
            state: Mutex::default(),
            call: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(failed)?,
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("net".to_owned())
            .stack_size(128 << 10)
            .spawn(move || own.serve(&descriptor, &wake))
            .map_err(failed)?;
        let receiver = Receiver { shared: Arc::clone(&shared), thread: Mutex::new(Some(thread)) };
        Ok((Self { shared, mac, mtu }, receiver))
    }
}

impl Receiver {
    /// Ends the thread and waits for it.
    pub(super) fn end(&self) {
        lock(&self.shared.state).end = true;
        self.shared.ring();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn ring(&self) {
        // Full means that it is readable already.
        let _ = self.call.write(1);
    }

    fn down(&self, error: &dyn std::fmt::Display) {
        let mut state = lock(&self.state);
        if !std::mem::replace(&mut state.down, true) {
            tracing::warn!("network card: {error}");
        }
    }

    fn serve(&self, descriptor: &OwnedFd, wake: &dyn Fn()) {
        loop {
            let state = *lock(&self.state);
            if state.end {
                return;
            }
            let mut wanted = PollFlags::empty();
            if !state.down {
                wanted |= PollFlags::IN;
                if state.pending {
                    wanted |= PollFlags::OUT;
                }
            }
            let call = crate::descriptor::borrow(&self.call);
            let mut polled = vec![PollFd::new(&call, PollFlags::IN)];
            if !state.down {
                polled.push(PollFd::from_borrowed_fd(descriptor.as_fd(), wanted));
            }
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return self.down(&error),
            }
            // Nothing to read is no error: the descriptor may be what woke us.
            let _ = self.call.read();
            if state.pending {
                self.transmit(&[]);
            }
            if !state.down && self.collect() {
                wake();
            }
        }
    }

    /// Takes what came; true when there was a frame.
    fn collect(&self) -> bool {
        let mut any = false;
        loop {
            let frame = match receive(&mut **lock(&self.backend)) {
                Ok(Some(frame)) => frame,
                Ok(None) => return any,
                Err(error) => {
                    self.down(&error);
                    return any;
                }
            };
            let mut inbox = lock(&self.inbox);
            if inbox.len() < INBOX {
                inbox.push_back(frame);
                any = true;
            }
        }
    }

    fn transmit(&self, frames: &[Frame<'_>]) {
        let sent = lock(&self.backend).send(frames);
        match sent {
            Ok(sent) => {
                let mut state = lock(&self.state);
                if std::mem::replace(&mut state.pending, sent.pending) != sent.pending {
                    drop(state);
                    self.ring();
                }
            }
            Err(error) => self.down(&error),
        }
    }
}

/// The next frame, without its header.
fn receive(backend: &mut dyn Backend) -> Result<Option<Vec<u8>>, virtio::net::LinkDown> {
    let size = match backend.next()? {
        Next::Nothing => return Ok(None),
        Next::Frame(size) | Next::Unknown(size) => size.max(HEADER_BYTES),
    };
    let mut bytes = vec![0; size];
    let mut rest = Vec::new();
    let count = {
        let mut room = Writable::new();
        room.push_bytes(&mut bytes);
        backend.receive(&mut room, &mut rest)?
    };
    if count <= HEADER_BYTES {
        return Ok(None);
    }
    bytes.truncate(count);
    bytes.append(&mut rest);
    Ok(Some(bytes.split_off(HEADER_BYTES)))
}

impl Net for Card {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn send(&mut self, frame: &[u8]) {
        let mut data = Readable::new();
        data.push_bytes(frame);
        let header = [0; HEADER_BYTES];
        if !lock(&self.shared.state).down {
            self.shared.transmit(&[Frame { header, data }]);
        }
    }

    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        let frame = lock(&self.shared.inbox).pop_front()?;
        let count = frame.len().min(into.len());
        into[..count].copy_from_slice(&frame[..count]);
        Some(count)
    }

    fn ready(&mut self) -> bool {
        !lock(&self.shared.inbox).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Receiver as Woken, channel};
    use std::time::Duration;
    use virtio::net::Stream;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A card, what woke its guest, and the other end of its cable.
    fn card() -> (Card, Receiver, Woken<()>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (wake, woken) = channel();
        let backend = Box::new(Stream::new(ours.into(), 1500));
        let started = Card::start(backend, [2; 6], move || {
            let _ = wake.send(());
        });
        let (card, thread) = started.unwrap();
        (card, thread, woken, theirs)
    }

    fn framed(frame: &[u8]) -> Vec<u8> {
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(frame);
        bytes
    }

    #[test]
    fn a_frame_wakes_the_guest_and_is_kept_for_it() {
        let (mut card, thread, woken, mut cable) = card();
        let mut room = [0; 1514];
        assert!(!card.ready());
        assert_eq!(card.receive(&mut room), None);
        cable.write_all(&framed(&[7; 60])).unwrap();
        woken.recv_timeout(PATIENCE).unwrap();
        assert!(card.ready());
        assert_eq!(card.receive(&mut room), Some(60));
        assert_eq!(room[..60], [7; 60]);
        thread.end();
    }

    #[test]
    fn a_frame_goes_out_whole() {
        let (mut card, thread, _woken, mut cable) = card();
        card.send(&[9; 1514]);
        let mut got = vec![0; 4 + 1514];
        cable.set_read_timeout(Some(PATIENCE)).unwrap();
        cable.read_exact(&mut got).unwrap();
        assert_eq!(got, framed(&[9; 1514]));
        thread.end();
    }

    #[test]
    fn frames_nobody_takes_are_lost_and_not_kept_for_ever() {
        let (mut card, thread, woken, mut cable) = card();
        let mut room = [0; 1514];
        for _ in 0..INBOX + 50 {
            cable.write_all(&framed(&[1; 60])).unwrap();
        }
        let mut waiting = INBOX;
        while lock(&card.shared.inbox).len() < waiting {
            woken.recv_timeout(PATIENCE).unwrap();
        }
        drop(cable);
        thread.end();
        while card.receive(&mut room).is_some() {
            waiting -= 1;
        }
        assert_eq!(waiting, 0);
        card.send(&[1; 60]);
    }
}
