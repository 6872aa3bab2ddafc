//! The host's end of a virtio console: a [`Console`] hub.

use crate::{Console, MachineError};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use virtio::console::ConsoleEnd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub(super) struct HubEnd {
    console: Arc<Console>,
    /// Readable when there is input; an event descriptor can always be written.
    input: Arc<EventFd>,
}

impl HubEnd {
    pub(super) fn new(console: Arc<Console>) -> Result<Self, MachineError> {
        let input = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
            .map_err(|e| MachineError::system("cannot make an event descriptor", e))?;
        let input = Arc::new(input);
        let wake = Arc::clone(&input);
        console.on_input(move || {
            // Full only after 2^64 - 2 signals.
            let _ = wake.write(1);
        });
        Ok(Self { console, input })
    }
}

impl ConsoleEnd for HubEnd {
    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut taken = self.console.take_input(bytes.len());
        if taken.is_empty() {
            // What comes after this signals anew; what came before it is taken below.
            let _ = self.input.read();
            taken = self.console.take_input(bytes.len());
        }
        if taken.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        bytes[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.console.output(bytes);
        Ok(bytes.len())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        crate::descriptor::borrow(&self.input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_received_once_and_then_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let console = Arc::new(Console::new(&dir.path().join("log")).unwrap());
        let mut end = HubEnd::new(Arc::clone(&console)).unwrap();
        let mut buffer = [0; 4];
        assert!(end.receive(&mut buffer).is_err());
        console.offer_input(b"typed");
        assert_eq!(end.receive(&mut buffer).unwrap(), 4);
        assert_eq!(end.receive(&mut buffer).unwrap(), 1);
        assert_eq!(end.receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(end.send(b"out").unwrap(), 3);
        assert_eq!(console.drain().output, b"out");
    }
}
