//! What the VM's display has said: some of it at a time, and of each kind only what counts in the end. A guest
//! that changes size, cursor or lamps without end costs the loop one batch between two pictures.

use display::{CursorImage, Event, Rectangle, Size, Viewer, ViewerError};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Most events that are taken together.
pub(super) const TURN: usize = 32;

/// The connection; dropped, both ends of it close, whoever else holds a descriptor of it.
pub(super) struct Connection {
    pub(super) viewer: Viewer,
    /// To the thread that waits at the socket: all that it woke for was taken.
    taken: SyncSender<()>,
}

impl Connection {
    /// Gives the connection, and where the thread that waits at its socket hears that it is to wait again.
    pub(super) fn over(socket: OwnedFd) -> (Self, Receiver<()>) {
        let (taken, wait) = sync_channel(1);
        (Self { viewer: Viewer::over(socket), taken }, wait)
    }

    /// What came may be told of again.
    pub(super) fn taken(&self) {
        // It was told before, or has ended with its socket.
        let _ = self.taken.try_send(());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The thread holds a descriptor too and waits at it. The VM process may have closed before.
        let _ = rustix::net::shutdown(self.viewer.as_fd(), rustix::net::Shutdown::Both);
    }
}

/// What is new.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The last size.
    pub(super) configured: Option<Option<Size>>,
    /// Of the frame with that size, in order; to be acknowledged, if there is any.
    pub(super) damaged: Vec<Rectangle>,
    /// The last cursor.
    pub(super) cursor: Option<Option<CursorImage>>,
    /// It is over after this.
    pub(super) end: Option<ViewerError>,
}

/// Takes at most [`TURN`] events.
pub(super) fn gather(viewer: &mut Viewer) -> News {
    let mut news = News::default();
    for _ in 0..TURN {
        match viewer.event() {
            Ok(Some(Event::Configured(size))) => {
                news.configured = Some(size);
                // Of a frame that is not there any more.
                news.damaged.clear();
            }
            Ok(Some(Event::Damaged(damage))) => {
                news.damaged.extend_from_slice(damage.rectangles());
            }
            Ok(Some(Event::Cursor(image))) => news.cursor = Some(image),
            // The pointer is the host's; lamps follow the host's keys.
            Ok(Some(Event::CursorPosition { .. } | Event::Leds(_))) => {}
            Ok(None) => break,
            Err(error) => {
                news.end = Some(error);
                break;
            }
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use super::{Connection, TURN, gather};
    use display::{CursorImage, Size, ToViewer, ViewerError};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    use std::os::fd::{AsFd, OwnedFd};

    fn pair() -> (Connection, OwnedFd) {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (connection, _) = Connection::over(ours);
        let hello = ToViewer::Hello { version: display::message::VERSION };
        say(&theirs, &hello);
        (connection, theirs)
    }

    fn say(vm: &OwnedFd, message: &ToViewer) {
        rustix::net::send(vm, &message.encode(), SendFlags::NOSIGNAL).unwrap();
    }

    fn cursor(side: u32) -> CursorImage {
        let size = Size::new(side, 1).unwrap();
        CursorImage { size, hot_x: 0, hot_y: 0, pixels: vec![1; 4 * side as usize] }
    }

    #[test]
    fn a_display_that_says_much_gives_one_batch_with_the_last_of_each_kind_and_then_the_next() {
        let (mut connection, vm) = pair();
        for serial in 1..=10 {
            say(&vm, &ToViewer::Cursor(Some(cursor(serial))));
            say(&vm, &ToViewer::Configure { serial, size: None, stride: 0 });
            say(&vm, &ToViewer::Leds(serial & 7));
        }
        say(&vm, &ToViewer::Cursor(None));
        say(&vm, &ToViewer::Leds(1));
        for side in 1..=4 {
            say(&vm, &ToViewer::Cursor(Some(cursor(side))));
        }
        // Exactly one batch up to here is 32 events.
        let first = gather(&mut connection.viewer);
        assert_eq!(TURN, 32);
        assert_eq!((first.configured, first.cursor), (Some(None), Some(None)));
        let second = gather(&mut connection.viewer);
        assert_eq!((second.configured, second.cursor), (None, Some(Some(cursor(4)))));
        let none = gather(&mut connection.viewer);
        assert!(none.configured.is_none() && none.cursor.is_none() && none.end.is_none());
        drop(vm);
        assert!(matches!(gather(&mut connection.viewer).end, Some(ViewerError::Closed)));
    }

    #[test]
    fn a_connection_that_is_replaced_closes_also_where_a_thread_waits_at_it() {
        let (connection, vm) = pair();
        let held = connection.viewer.as_fd().try_clone_to_owned().unwrap();
        drop(connection);
        let mut byte = [0; 1];
        let flags = RecvFlags::DONTWAIT;
        assert_eq!(rustix::net::recv(&vm, &mut byte, flags).map(|(_, length)| length), Ok(0));
        drop(held);
    }
}
