//! The console device (virtio 1.2, 5.3): one port, receive queue 0 and transmit queue 1.

use super::{Broken, Chain, Device, DeviceKind, Session};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use chipset::ByteSink;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Typed text kept for a driver that does not take it.
const INPUT_MOST: usize = 4096;
/// The most text of one request that is printed.
const OUTPUT_MOST: u64 = 64 << 10;
/// Bytes moved at once.
const PIECE: usize = 256;

/// The device.
pub struct VirtioConsole {
    sink: Box<dyn ByteSink>,
    input: VecDeque<u8>,
    /// The guest speaks through it, so what is typed is meant for it.
    used: bool,
    chain: Chain,
}

impl VirtioConsole {
    /// A console that prints to `sink`.
    #[must_use]
    pub fn new(sink: Box<dyn ByteSink>) -> Self {
        Self { sink, input: VecDeque::new(), used: false, chain: Chain::default() }
    }
}

impl Device for VirtioConsole {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> usize {
        2
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn ring(&mut self, index: usize, session: &mut Session<'_>) -> Result<(), Broken> {
        if index != TRANSMIT {
            return self.poll(session);
        }
        let mut chain = core::mem::take(&mut self.chain);
        while session.pop(TRANSMIT, &mut chain)? {
            let mut piece = [0; PIECE];
            let mut done = 0;
            while done < OUTPUT_MOST {
                let count = chain.read(session.ram, done, &mut piece);
                if count == 0 {
                    break;
                }
                self.sink.write(&piece[..count]);
                done += count as u64;
            }
            self.used |= done > 0;
            session.give_back(TRANSMIT, &chain, 0)?;
        }
        self.chain = chain;
        Ok(())
    }

    fn poll(&mut self, session: &mut Session<'_>) -> Result<(), Broken> {
        let mut chain = core::mem::take(&mut self.chain);
        while !self.input.is_empty() && session.pop(RECEIVE, &mut chain)? {
            let (bytes, _) = self.input.as_slices();
            let written = chain.write(session.ram, 0, bytes);
            self.input.drain(..written);
            session.give_back(RECEIVE, &chain, written as u32)?;
        }
        self.chain = chain;
        Ok(())
    }

    fn typed(&mut self, bytes: &[u8]) -> bool {
        if self.used {
            let room = INPUT_MOST.saturating_sub(self.input.len());
            self.input.extend(bytes.iter().take(room));
        }
        self.used
    }

    fn reset(&mut self) {
        self.input.clear();
        self.used = false;
    }
}
