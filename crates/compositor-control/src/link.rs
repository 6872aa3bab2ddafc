//! The stream between both, and where it comes from. Everything here blocks; each direction is used by one
//! thread of its own.

use crate::LINE;
use crate::line::Message;
use passing::Passing;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// The conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The stream broke, or the other side takes nothing for longer than was allowed.
    #[error("the compositor's control stream broke: {0}")]
    Stream(#[from] io::Error),
    /// A line above [`LINE`].
    #[error("a control line is longer than {LINE} bytes")]
    Long,
    /// A line that is no message of this version.
    #[error("a control line is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A message came without its descriptor.
    #[error("a control message came without its descriptor")]
    NoDescriptor,
}

/// Where a compositor takes daemons: a listening socket.
#[derive(Debug)]
pub struct Listener(UnixListener);

impl Listener {
    /// The process's standard input, as the daemon starts a compositor.
    ///
    /// # Errors
    /// Standard input is no listening socket.
    pub fn from_standard_input() -> Result<Self, ControlError> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        if !rustix::net::sockopt::socket_acceptconn(&socket).map_err(io::Error::from)? {
            return Err(ControlError::Stream(io::Error::new(
                io::ErrorKind::InvalidInput,
                "standard input is no listening socket; macrohardd starts this program",
            )));
        }
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(false)?;
        Ok(Self(listener))
    }

    /// Over a socket that listens already (tests).
    #[must_use]
    pub fn new(listener: UnixListener) -> Self {
        Self(listener)
    }

    /// Waits for the next daemon. To be called again when the one before has gone.
    ///
    /// # Errors
    /// Those of accept(2).
    pub fn accept<S: Message, R: Message>(&self) -> Result<(Sender<S>, Receiver<R>), ControlError> {
        let (stream, _) = self.0.accept()?;
        Ok(link(stream)?)
    }
}

/// Both directions of `stream`.
///
/// # Errors
/// The stream has no second handle (too many open files).
pub fn link<S: Message, R: Message>(stream: UnixStream) -> io::Result<(Sender<S>, Receiver<R>)> {
    stream.set_nonblocking(false)?;
    let sender = Sender { stream: stream.try_clone()?, message: std::marker::PhantomData };
    let receiver = Receiver {
        stream: BufReader::new(Passing::new(stream)),
        message: std::marker::PhantomData,
    };
    Ok((sender, receiver))
}

/// Says messages of type `M`.
#[derive(Debug)]
pub struct Sender<M> {
    stream: UnixStream,
    message: std::marker::PhantomData<fn(M)>,
}

impl<M: Message> Sender<M> {
    /// Fails a later [`Sender::send`] when the other side takes nothing for so long.
    ///
    /// # Errors
    /// Those of setsockopt(2); a patience of zero.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(Some(patience))
    }

    /// Says `message`. After an error nothing more can be said: half a line may have gone out.
    ///
    /// # Errors
    /// The stream broke, or the message is longer than [`LINE`] (nothing of it went out then).
    pub fn send(&mut self, message: M) -> Result<(), ControlError> {
        let (line, descriptor) = message.apart();
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        if bytes.len() > LINE {
            return Err(ControlError::Long);
        }
        let beside = descriptor.as_ref().map(AsFd::as_fd);
        passing::send(&self.stream, &bytes, beside.as_slice())?;
        Ok(())
    }

    /// Ends the conversation for both directions: the [`Receiver`] of this side comes to its end, too.
    pub fn close(&self) {
        // It may have ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Hears messages of type `M`.
#[derive(Debug)]
pub struct Receiver<M> {
    stream: BufReader<Passing>,
    message: std::marker::PhantomData<fn() -> M>,
}

impl<M: Message> Receiver<M> {
    /// The next message; `None` when the other side has closed.
    ///
    /// # Errors
    /// See [`ControlError`]; nothing more can be heard after one.
    pub fn receive(&mut self) -> Result<Option<M>, ControlError> {
        let mut line = Vec::new();
        let limit = u64::try_from(LINE).unwrap_or(u64::MAX);
        self.stream.by_ref().take(limit).read_until(b'\n', &mut line)?;
        match line.last() {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) if line.len() >= LINE => return Err(ControlError::Long),
            // The other side died within a line.
            Some(_) => return Ok(None),
        }
        let line = serde_json::from_slice(&line)?;
        M::together(line, || self.stream.get_mut().take_descriptor())
            .ok_or(ControlError::NoDescriptor)
            .map(Some)
    }
}
