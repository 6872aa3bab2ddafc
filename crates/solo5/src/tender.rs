//! Answers to hypercalls.

use crate::abi::{Answer, Call, HALT_COOKIE_SIZE};
use crate::attach::{Device, Devices};
use crate::bytes::{long, word};
use crate::memory::GuestMemory;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use units::GuestPhysical;

/// Bytes moved at once between a device and guest memory.
const PIECE: usize = 16 << 10;
/// The longest frame of a card: its MTU, a header and a VLAN tag (IEEE 802.1Q, G.2).
const FRAME_EXTRA: u64 = 18;
/// The shortest: its header.
const FRAME_LEAST: u64 = 14;

/// Where a unikernel's text goes.
pub trait Console: Send {
    /// Prints.
    fn write(&mut self, bytes: &[u8]);
}

/// The unikernel's time.
pub trait Clock: Send {
    /// Nanoseconds since 1970, UTC.
    fn wall(&self) -> u64;

    /// Nanoseconds of a clock that never goes back.
    fn now(&self) -> u64;
}

/// A disk.
pub trait Block: Send {
    /// Its size in bytes.
    fn capacity(&self) -> u64;

    /// Bytes of a block: a power of two, 512 at least.
    fn block_size(&self) -> u16 {
        512
    }

    /// Fills `into` from `offset` on, whole blocks that lie inside; false when that failed.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool;

    /// Writes `bytes` at `offset`, whole blocks that lie inside; false when that failed.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool;
}

/// A network card.
pub trait Net: Send {
    /// Its hardware address.
    fn mac(&self) -> [u8; 6];

    /// The largest packet it carries.
    fn mtu(&self) -> u16;

    /// Sends a frame, or loses it.
    fn send(&mut self, frame: &[u8]);

    /// A frame that came, cut off where `into` ends: its length there.
    fn receive(&mut self, into: &mut [u8]) -> Option<usize>;

    /// Whether a frame waits.
    fn ready(&mut self) -> bool;
}

/// What follows a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest goes on.
    Done,
    /// The guest is not to run until [`Tender::poll`] says so.
    Wait(Wait),
    /// The guest ended itself.
    Halt {
        /// Its status; 0 is success.
        status: i32,
    },
}

/// A poll that is not answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pointer: GuestPhysical,
    /// When it is over at the latest, by [`Clock::now`].
    pub until: u64,
}

/// A guest broke the interface; it cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// No call has this number.
    #[error("hypercall {0}, which does not exist")]
    UnknownCall(u16),
    /// A pointer out of its memory.
    #[error("hypercall {call}: {length:#x} bytes at {address} are not all in the guest's memory")]
    Pointer {
        /// The call.
        call: Call,
        /// Where it points.
        address: GuestPhysical,
        /// How much it says is there.
        length: u64,
    },
}

/// Answers the hypercalls of one unikernel.
pub struct Tender {
    devices: Devices,
    console: Box<dyn Console>,
    clock: Box<dyn Clock>,
    buffer: Vec<u8>,
}

impl Tender {
    /// A tender with these devices.
    #[must_use]
    pub fn new(devices: Devices, console: Box<dyn Console>, clock: Box<dyn Clock>) -> Self {
        Self { devices, console, clock, buffer: vec![0; PIECE] }
    }

    /// Its devices.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Answers call `number`, whose structure is at `pointer`.
    ///
    /// # Errors
    /// The guest broke the interface.
    pub fn call(
        &mut self,
        memory: &dyn GuestMemory,
        number: u16,
        pointer: GuestPhysical,
    ) -> Result<Outcome, Violation> {
        let call = Call::from_number(number).ok_or(Violation::UnknownCall(number))?;
        let mut space = [0; 40];
        let structure = &mut space[..call.size()];
        let at = |address, length| Violation::Pointer { call, address, length };
        if !memory.read(pointer, structure) {
            return Err(at(pointer, call.size() as u64));
        }
        let guest = Guest { memory, call };
        let answer = |offset: u64, answer: Answer| {
            guest.write(pointer, offset, &(answer as i32).to_le_bytes())
        };
        let (first, second) = (long(structure, 0), long(structure, 8));
        match call {
            Call::Walltime => guest.write(pointer, 0, &self.clock.wall().to_le_bytes())?,
            Call::Puts => self.puts(&guest, GuestPhysical(first), second)?,
            Call::Poll => {
                let until = self.clock.now().saturating_add(first);
                let wait = Wait { pointer, until };
                return match self.poll(memory, &wait)? {
                    true => Ok(Outcome::Done),
                    false => Ok(Outcome::Wait(wait)),
                };
            }
            Call::BlockWrite | Call::BlockRead => {
                let data = GuestPhysical(long(structure, 16));
                let done = self.block(&guest, first, second, data, long(structure, 24))?;
                answer(32, done)?;
            }
            Call::NetWrite => {
                let done = self.send(&guest, first, second, long(structure, 16))?;
                answer(24, done)?;
            }
            Call::NetRead => {
                let data = GuestPhysical(second);
                let (done, length) = self.receive(&guest, first, data, long(structure, 16))?;
                if done == Answer::Ok {
                    guest.write(pointer, 16, &length.to_le_bytes())?;
                }
                answer(24, done)?;
            }
            Call::Halt => {
                if first != 0 {
                    guest.check(GuestPhysical(first), HALT_COOKIE_SIZE)?;
                }
                let status = i32::from_le_bytes(word(structure, 8).to_le_bytes());
                return Ok(Outcome::Halt { status });
            }
        }
        Ok(Outcome::Done)
    }

    /// Answers a poll if a frame waits or its time is over; false when neither is so.
    ///
    /// # Errors
    /// The guest broke the interface.
    pub fn poll(&mut self, memory: &dyn GuestMemory, wait: &Wait) -> Result<bool, Violation> {
        let mut ready = 0u64;
        for (handle, device) in self.devices.0.iter_mut().enumerate() {
            if let Device::Net(net) = device
                && net.ready()
            {
                ready |= 1 << handle;
            }
        }
        if ready == 0 && self.clock.now() < wait.until {
            return Ok(false);
        }
        let guest = Guest { memory, call: Call::Poll };
        let mut answer = [0; 12];
        answer[..8].copy_from_slice(&ready.to_le_bytes());
        answer[8..].copy_from_slice(&ready.count_ones().to_le_bytes());
        guest.write(wait.pointer, 8, &answer)?;
        Ok(true)
    }

    fn device(&mut self, handle: u64) -> Option<&mut Device> {
        self.devices.0.get_mut(usize::try_from(handle).ok()?)
    }

    fn puts(
        &mut self,
        guest: &Guest<'_>,
        data: GuestPhysical,
        length: u64,
    ) -> Result<(), Violation> {
        guest.check(data, length)?;
        for (at, count) in pieces(length) {
            let piece = &mut self.buffer[..count];
            guest.read(data, at, piece)?;
            self.console.write(piece);
        }
        Ok(())
    }

    fn block(
        &mut self,
        guest: &Guest<'_>,
        handle: u64,
        offset: u64,
        data: GuestPhysical,
        length: u64,
    ) -> Result<Answer, Violation> {
        let mut buffer = core::mem::take(&mut self.buffer);
        let done = match self.device(handle) {
            Some(Device::Block(block)) => {
                transfer(&mut **block, guest, &mut buffer, offset, data, length)
            }
            _ => Ok(Answer::Invalid),
        };
        self.buffer = buffer;
        done
    }

    fn send(
        &mut self,
        guest: &Guest<'_>,
        handle: u64,
        data: u64,
        length: u64,
    ) -> Result<Answer, Violation> {
        let Some(Device::Net(net)) = self.device(handle) else {
            return Ok(Answer::Invalid);
        };
        if !(FRAME_LEAST..=longest(&**net)).contains(&length) {
            return Ok(Answer::Invalid);
        }
        let data = GuestPhysical(data);
        guest.check(data, length)?;
        // At most 65,553 bytes.
        let mut frame = vec![0; length as usize];
        guest.read(data, 0, &mut frame)?;
        net.send(&frame);
        Ok(Answer::Ok)
    }

    fn receive(
        &mut self,
        guest: &Guest<'_>,
        handle: u64,
        data: GuestPhysical,
        length: u64,
    ) -> Result<(Answer, u64), Violation> {
        let Some(Device::Net(net)) = self.device(handle) else {
            return Ok((Answer::Invalid, 0));
        };
        guest.check(data, length)?;
        let room = length.min(longest(&**net)) as usize;
        let mut frame = vec![0; room];
        let Some(count) = net.receive(&mut frame) else {
            return Ok((Answer::Again, 0));
        };
        frame.truncate(count);
        guest.write(data, 0, &frame)?;
        Ok((Answer::Ok, frame.len() as u64))
    }
}

fn longest(net: &dyn Net) -> u64 {
    u64::from(net.mtu()) + FRAME_EXTRA
}

/// Offset and length of each piece of `length` bytes.
fn pieces(length: u64) -> impl Iterator<Item = (u64, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let count = (length - done).min(PIECE as u64);
        let piece = (done, count as usize);
        done += count;
        (count > 0).then_some(piece)
    })
}

fn transfer(
    block: &mut dyn Block,
    guest: &Guest<'_>,
    buffer: &mut [u8],
    offset: u64,
    data: GuestPhysical,
    length: u64,
) -> Result<Answer, Violation> {
    let size = u64::from(block.block_size());
    let inside = offset < block.capacity()
        && offset.checked_add(length).is_some_and(|end| end <= block.capacity());
    if !inside || !offset.is_multiple_of(size) || !length.is_multiple_of(size) {
        return Ok(Answer::Invalid);
    }
    guest.check(data, length)?;
    for (at, count) in pieces(length) {
        let piece = &mut buffer[..count];
        let done = if guest.call == Call::BlockRead {
            let done = block.read(offset + at, piece);
            if done {
                guest.write(data, at, piece)?;
            }
            done
        } else {
            guest.read(data, at, piece)?;
            block.write(offset + at, piece)
        };
        if !done {
            return Ok(Answer::Unspecified);
        }
    }
    Ok(Answer::Ok)
}

/// Guest memory during a call.
struct Guest<'m> {
    memory: &'m dyn GuestMemory,
    call: Call,
}

impl Guest<'_> {
    fn violation(&self, address: GuestPhysical, length: u64) -> Violation {
        Violation::Pointer { call: self.call, address, length }
    }

    /// Refuses a range that is not all memory. Nothing of no length is everywhere.
    fn check(&self, address: GuestPhysical, length: u64) -> Result<(), Violation> {
        if length == 0 || self.memory.holds(address, length) {
            Ok(())
        } else {
            Err(self.violation(address, length))
        }
    }

    fn read(&self, base: GuestPhysical, offset: u64, into: &mut [u8]) -> Result<(), Violation> {
        let length = into.len() as u64;
        match base.checked_add(offset) {
            Some(address) if into.is_empty() || self.memory.read(address, into) => Ok(()),
            _ => Err(self.violation(base, length)),
        }
    }

    fn write(&self, base: GuestPhysical, offset: u64, bytes: &[u8]) -> Result<(), Violation> {
        match base.checked_add(offset) {
            Some(address) if bytes.is_empty() || self.memory.write(address, bytes) => Ok(()),
            _ => Err(self.violation(base, bytes.len() as u64)),
        }
    }
}
