//! The viewer's end of the display socket. The VM process is not trusted: it runs a hostile guest.

use crate::message::{LONGEST, VERSION};
use crate::packet::{self, Received};
use crate::{
    CursorImage, Damage, FrameError, FrameView, FromViewer, MessageError, Picture, Size, ToViewer,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The display cannot be reached or read.
#[derive(Debug, thiserror::Error)]
pub enum ViewerError {
    /// Nobody listens there.
    #[error("cannot connect to the display at {}: {error}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: Errno,
    },
    /// The socket failed.
    #[error("cannot {tried} the display: {error}")]
    Socket {
        /// What was tried.
        tried: &'static str,
        /// What the system said.
        error: Errno,
    },
    /// The VM process has closed the connection.
    #[error("the VM has ended, or cut this viewer off")]
    Closed,
    /// It does not read at present; the message was not sent.
    #[error("the VM does not take input at present")]
    Busy,
    /// It sent what is no message.
    #[error("the VM process broke the protocol: {0}")]
    Message(#[from] MessageError),
    /// Its memory cannot be used.
    #[error("the VM process broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// A message in the wrong place.
    #[error("the VM process broke the protocol: {found}")]
    Order {
        /// What was found.
        found: String,
    },
    /// Nothing came in time.
    #[error("the VM has shown nothing within {waited:?}")]
    Nothing {
        /// How long was waited.
        waited: Duration,
    },
}

/// What happened on the display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The picture has this size from now on; `None` shows nothing.
    Configured(Option<Size>),
    /// Parts of the picture changed; say [`Viewer::acknowledge`] when they are read.
    Damaged(Damage),
    /// The pointer's looks; `None` hides it.
    Cursor(Option<CursorImage>),
    /// Where the guest has put the pointer.
    CursorPosition {
        /// Column of the hot spot.
        x: i32,
        /// Row of the hot spot.
        y: i32,
    },
    /// The keyboard's lamps, as in [`ToViewer::Leds`].
    Leds(u32),
}

/// A connection to a VM's display.
pub struct Viewer {
    socket: OwnedFd,
    greeted: bool,
    serial: u32,
    frame: Option<FrameView>,
}

impl AsFd for Viewer {
    /// Readable when [`Viewer::event`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Viewer {
    /// Connects to who listens at `path`.
    ///
    /// # Errors
    /// Nobody does.
    pub fn connect(path: &Path) -> Result<Self, ViewerError> {
        let socket = packet::connect_to(path)
            .map_err(|error| ViewerError::Connect { path: path.to_owned(), error })?;
        Ok(Self { socket, greeted: false, serial: 0, frame: None })
    }

    /// Over a connection that somebody else has made: a socket of the kind that [`Self::connect`] makes.
    #[must_use]
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket, greeted: false, serial: 0, frame: None }
    }

    /// What the display shows now.
    #[must_use]
    pub fn frame(&self) -> Option<&FrameView> {
        self.frame.as_ref()
    }

    /// The next event; `None` when there is none at present.
    ///
    /// # Errors
    /// The connection is closed, or the VM process broke the protocol: give the viewer up.
    pub fn event(&mut self) -> Result<Option<Event>, ViewerError> {
        let mut buffer = vec![0; LONGEST + 1];
        loop {
            let received = match packet::receive(self.socket.as_fd(), &mut buffer) {
                Ok(Received { length: 0, .. }) | Err(Errno::CONNRESET) => {
                    return Err(ViewerError::Closed);
                }
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(ViewerError::Socket { tried: "read", error }),
            };
            let Received { length, descriptor, cut } = received;
            let message = ToViewer::decode(&buffer[..length])?;
            if cut {
                return Err(order("a packet too long or with too many descriptors"));
            }
            if let Some(event) = self.take(message, descriptor)? {
                return Ok(Some(event));
            }
        }
    }

    /// Waits for the next event; `None` when none came before the deadline.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn wait(&mut self, deadline: Instant) -> Result<Option<Event>, ViewerError> {
        loop {
            if let Some(event) = self.event()? {
                return Ok(Some(event));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(ViewerError::Socket { tried: "wait for", error }),
            }
        }
    }

    fn take(
        &mut self,
        message: ToViewer,
        descriptor: Option<OwnedFd>,
    ) -> Result<Option<Event>, ViewerError> {
        if let ToViewer::Hello { version } = message {
            if self.greeted || version != VERSION {
                return Err(order(format!("hello of version {version}, {VERSION} is spoken here")));
            }
            self.greeted = true;
            return Ok(None);
        }
        if !self.greeted {
            return Err(order("no hello first"));
        }
        let with_memory = matches!(message, ToViewer::Configure { size: Some(_), .. });
        if with_memory != descriptor.is_some() {
            return Err(order("a frame without memory, or memory without a frame"));
        }
        Ok(Some(match message {
            ToViewer::Hello { .. } => return Ok(None),
            ToViewer::Configure { serial, size, stride } => {
                self.serial = serial;
                self.frame = match (size, &descriptor) {
                    (Some(size), Some(memory)) => Some(FrameView::new(memory, size, stride)?),
                    _ => None,
                };
                Event::Configured(size)
            }
            ToViewer::Damage { serial, damage } => {
                let whole = self.frame.as_ref().map(|frame| frame.size().whole());
                let inside = |part: &crate::Rectangle| whole.is_some_and(|w| part.is_inside(&w));
                if serial != self.serial || !damage.rectangles().iter().all(inside) {
                    return Err(order("damage outside the frame"));
                }
                Event::Damaged(damage)
            }
            ToViewer::Cursor(image) => Event::Cursor(image),
            ToViewer::CursorPosition { x, y } => Event::CursorPosition { x, y },
            ToViewer::Leds(bits) => Event::Leds(bits),
        }))
    }

    /// The damage has been read; more may come.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn acknowledge(&self) -> Result<(), ViewerError> {
        self.send(FromViewer::Acknowledge { serial: self.serial })
    }

    /// Says something to the VM.
    ///
    /// # Errors
    /// The VM process has closed the connection, or does not read at present.
    pub fn send(&self, say: FromViewer) -> Result<(), ViewerError> {
        match packet::send(self.socket.as_fd(), &say.encode(), None) {
            Ok(()) => Ok(()),
            Err(Errno::AGAIN) => Err(ViewerError::Busy),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(ViewerError::Closed),
            Err(error) => Err(ViewerError::Socket { tried: "write to", error }),
        }
    }

    /// What the VM at `path` shows now, waiting so long for it to show something.
    ///
    /// # Errors
    /// It cannot be reached, breaks the protocol, or shows nothing.
    pub fn screenshot(path: &Path, patience: Duration) -> Result<Picture, ViewerError> {
        let mut viewer = Self::connect(path)?;
        let deadline = Instant::now() + patience;
        while let Some(event) = viewer.wait(deadline)? {
            if matches!(event, Event::Damaged(_))
                && let Some(frame) = viewer.frame()
            {
                return Ok(Picture::of(frame));
            }
        }
        Err(ViewerError::Nothing { waited: patience })
    }
}

fn order(found: impl Into<String>) -> ViewerError {
    ViewerError::Order { found: found.into() }
}
