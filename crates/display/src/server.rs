//! The VM process's end of the display socket: one thread for all viewers.

use crate::Seat;
use crate::message::{FromViewer, LONGEST};
use crate::packet::{self, Received};
use crate::screen::{Display, Shared};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{SocketFlags, accept_with};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Viewers at once: the compositor, and now and then one for a screenshot.
pub const MOST_VIEWERS: usize = 8;

/// Packets read from one viewer before the others get their turn.
const TURN: usize = 64;
/// Bytes that wait in a viewer's socket, as the system counts them: some pointer images. Beyond, only
/// the newest of each kind is kept.
const SEND_BUFFER: usize = 64 * 1024;
/// Messages are small and nothing recurses.
const STACK_BYTES: usize = 256 * 1024;

/// Serves a display to viewers until dropped.
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path` (a left-over socket there is replaced), tells viewers about `display` and
    /// hands what they say to `seat`.
    ///
    /// # Errors
    /// The socket cannot be made, or there is no thread.
    pub fn start(display: &Display, path: &Path, seat: Box<dyn Seat>) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = packet::listen_at(path)?;
        let shared = Arc::clone(display.shared());
        let serving = Serving { shared: shared.clone(), listener, seat, viewers: vec![], next: 0 };
        let thread = std::thread::Builder::new()
            .name("display".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || serving.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.end();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread.
            let _ = thread.join();
        }
    }
}

struct Serving {
    shared: Arc<Shared>,
    listener: OwnedFd,
    seat: Box<dyn Seat>,
    viewers: Vec<Connection>,
    next: u64,
}

struct Connection {
    id: u64,
    socket: OwnedFd,
    /// A packet the socket had no room for.
    unsent: Option<(Vec<u8>, Option<Arc<OwnedFd>>)>,
    held: Held,
}

/// Keys and buttons a viewer holds down.
#[derive(Default)]
struct Held {
    keys: BTreeSet<u16>,
    buttons: BTreeSet<u16>,
}

impl Held {
    fn note(&mut self, said: FromViewer) {
        let (set, code, pressed) = match said {
            FromViewer::Key { code, pressed } => (&mut self.keys, code, pressed),
            FromViewer::Button { code, pressed } => (&mut self.buttons, code, pressed),
            _ => return,
        };
        if pressed {
            set.insert(code);
        } else {
            set.remove(&code);
        }
    }

    /// The words that let go of all.
    fn releases(self) -> impl Iterator<Item = FromViewer> {
        let keys = self.keys.into_iter().map(|code| FromViewer::Key { code, pressed: false });
        let release = |code| FromViewer::Button { code, pressed: false };
        keys.chain(self.buttons.into_iter().map(release))
    }
}

impl Serving {
    fn run(mut self) {
        loop {
            let mut index = 0;
            while index < self.viewers.len() {
                if self.tell(index) {
                    index += 1;
                } else {
                    // What it said before it went counts.
                    self.hear(index);
                    self.drop_viewer(index);
                }
            }
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "display: cannot wait");
                    return;
                }
            };
            if ready.woken && self.shared.take_ring() {
                return;
            }
            for index in ready.viewers.into_iter().rev() {
                if !self.hear(index) {
                    self.drop_viewer(index);
                }
            }
            if ready.listener {
                self.accept();
            }
        }
    }

    fn wait(&self) -> Result<Ready, Errno> {
        let mut polled = vec![
            PollFd::new(self.shared.wake(), PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        for viewer in &self.viewers {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, viewer.unsent.is_some());
            polled.push(PollFd::new(&viewer.socket, flags));
        }
        loop {
            match poll(&mut polled, None) {
                Err(Errno::INTR) => {}
                result => {
                    result?;
                    break;
                }
            }
        }
        let input = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        let readable = |index: usize| polled[index].revents().intersects(input);
        Ok(Ready {
            woken: readable(0),
            listener: readable(1),
            viewers: (0..self.viewers.len()).filter(|index| readable(index + 2)).collect(),
        })
    }

    fn accept(&mut self) {
        match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(_) if self.viewers.len() == MOST_VIEWERS => {
                tracing::warn!("display: more than {MOST_VIEWERS} viewers, one was turned away");
            }
            Ok(socket) => {
                if let Err(error) = set_socket_send_buffer_size(&socket, SEND_BUFFER) {
                    tracing::debug!(%error, "display: a viewer has the system's usual buffer");
                }
                let id = self.next;
                self.next += 1;
                self.shared.add_viewer(id);
                self.viewers.push(Connection { id, socket, unsent: None, held: Held::default() });
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => tracing::warn!(%error, "display: cannot accept"),
        }
    }

    /// Tells a viewer what is new, as far as its socket has room; false when it is gone.
    fn tell(&mut self, index: usize) -> bool {
        let viewer = &mut self.viewers[index];
        loop {
            let (bytes, memory) = match viewer.unsent.take() {
                Some(unsent) => unsent,
                None => match self.shared.next(viewer.id) {
                    Some((message, memory)) => (message.encode(), memory),
                    None => return true,
                },
            };
            let descriptor = memory.as_ref().map(|memory| memory.as_fd());
            match packet::send(viewer.socket.as_fd(), &bytes, descriptor) {
                Ok(()) => {}
                Err(Errno::AGAIN) => {
                    viewer.unsent = Some((bytes, memory));
                    return true;
                }
                Err(error) => {
                    tracing::debug!(%error, "display: viewer gone");
                    return false;
                }
            }
        }
    }

    /// Hands on what a viewer says; false when it is gone or says what is not allowed.
    fn hear(&mut self, index: usize) -> bool {
        let viewer = &mut self.viewers[index];
        // One byte more than any message, so that a longer one shows.
        let mut buffer = [0; LONGEST + 1];
        for _ in 0..TURN {
            let (length, cut) = match packet::receive(viewer.socket.as_fd(), &mut buffer) {
                Ok(Received { length: 0, .. }) => return false,
                Ok(Received { length, descriptor, cut }) => (length, cut || descriptor.is_some()),
                Err(Errno::AGAIN) => return true,
                // It left without reading all, which is told once, before what it said.
                Err(Errno::CONNRESET) => continue,
                Err(error) => {
                    tracing::debug!(%error, "display: viewer gone");
                    return false;
                }
            };
            let said = match FromViewer::decode(&buffer[..length]) {
                Ok(said) if !cut => said,
                Ok(_) => {
                    tracing::warn!("display: a viewer sent what nobody asked for; it is cut off");
                    return false;
                }
                Err(error) => {
                    tracing::warn!(%error, "display: a viewer is cut off");
                    return false;
                }
            };
            if let FromViewer::Acknowledge { serial } = said {
                self.shared.acknowledge(viewer.id, serial);
            } else {
                viewer.held.note(said);
                self.seat.take(said);
            }
        }
        true
    }

    fn drop_viewer(&mut self, index: usize) {
        let viewer = self.viewers.swap_remove(index);
        self.shared.remove_viewer(viewer.id);
        for release in viewer.held.releases() {
            self.seat.take(release);
        }
    }
}

struct Ready {
    woken: bool,
    listener: bool,
    viewers: Vec<usize>,
}
