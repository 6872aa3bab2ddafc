//! The host's end of a port: a socket, and the one who is connected to it.

use crate::console::ConsoleEnd;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// See the module. Others who connect wait until the one who is there goes.
pub(super) struct Listening {
    listener: UnixListener,
    client: Option<UnixStream>,
}

impl Listening {
    pub(super) fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, client: None })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    /// Takes the next who connects, unless somebody is there.
    pub(super) fn accept(&mut self) {
        if self.client.is_none()
            && let Ok((client, _)) = self.listener.accept()
            && client.set_nonblocking(true).is_ok()
        {
            self.client = Some(client);
        }
    }

    /// Does something with the client, who has gone when it fails.
    fn with_client(
        &mut self,
        work: impl FnOnce(&mut UnixStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let client = self.client.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let done = work(client);
        match &done {
            Ok(1..) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Ok(0) | Err(_) => self.client = None,
        }
        done
    }
}

impl ConsoleEnd for Listening {
    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match self.with_client(|client| client.read(bytes)) {
            Ok(count @ 1..) => Ok(count),
            // Others may come.
            Ok(0) | Err(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.with_client(|client| client.write(bytes)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            done => done,
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.client {
            Some(client) => client.as_fd(),
            None => self.listener.as_fd(),
        }
    }
}
