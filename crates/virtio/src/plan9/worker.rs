//! Takes requests from the queue, one after the other.

use super::Counters;
use crate::scatter::{Buffers, Readable, Writable};
use crate::{GuestMemory, Interrupts, Queue, QueueState, Source, Worker, WorkerError};
use disk::{ReadBuffers, WriteBuffers};
use plan9::message::{
    DATA_HEADER, ERROR_BYTES, HEADER_BYTES, WRITE_HEADER, error, kind, read_header,
};
use plan9::{Data, Guard};
use rustix::io::Errno;
use std::any::Any;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

pub(super) struct Plan9Worker {
    pub(super) name: String,
    pub(super) guard: Guard,
    pub(super) counters: Counters,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) queue: Queue,
}

impl Plan9Worker {
    fn serve(&mut self) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        self.queue.disable_kicks(&memory)?;
        // A ring full at a time, so that the stop signal is looked at.
        for _ in 0..self.queue.ring.size() {
            let Some(chain) = self.queue.pop(&memory)? else {
                if self.queue.enable_kicks(&memory)? {
                    continue;
                }
                return Ok(());
            };
            let head = chain.head_index();
            let buffers = Buffers::of(chain, &memory)?;
            let written = self.request(buffers.readable, buffers.writable);
            self.queue.add_used(&memory, head, written)?;
            // Each on its own: the next one may take the host's disk a while.
            self.queue.notify(&memory, self.interrupts.as_ref())?;
        }
        // Full eventfd counters wake as well.
        let _ = self.queue.kick.write(1);
        Ok(())
    }

    /// Answers one request; how many bytes the answer has.
    fn request(&mut self, mut request: Readable<'_>, mut space: Writable<'_>) -> u32 {
        self.counters.requests.add(1);
        let mut start = [0; HEADER_BYTES];
        if request.copy_to(&mut start) < HEADER_BYTES || space.len() < ERROR_BYTES {
            self.counters.refused.add(1);
            return 0;
        }
        let tag = u16::from_le_bytes([start[5], start[6]]);
        let size = u32::from_le_bytes([start[0], start[1], start[2], start[3]]) as usize;
        let most = self.guard.msize().min(request.len());
        if !(HEADER_BYTES..=most).contains(&size) {
            self.counters.refused.add(1);
            return space.copy_from(&error(tag, Errno::INVAL.raw_os_error())) as u32;
        }
        request.truncate(size);
        // Written bytes go straight to the server; all else is copied first and then judged.
        let fixed = match start[4] {
            kind::WRITE => size.min(WRITE_HEADER),
            _ => size,
        };
        let mut head = vec![0; fixed];
        request.copy_to(&mut head);
        request.skip(fixed);
        self.counters.from_guest.add(request.len() as u64);
        // The guest may have changed it since: what counts is what the size was checked against.
        head[..HEADER_BYTES].copy_from_slice(&start);
        let room = space.len();
        let mut answer = Answer { left: space.split_to(room), written: 0 };
        space.append(&answer.left);
        let data = Bytes(request);
        match self.guard.handle(&mut head, data, &mut answer, room) {
            Ok(refused) => {
                self.counters.refused.add(u64::from(refused));
                self.counters.left_out.add(self.guard.take_left_out());
                self.counters.to_guest.add(answer.written as u64);
                // Not truncated: no more than the largest message.
                answer.written as u32
            }
            Err(error_) => {
                // The answer did not fit, or the request ended too soon.
                tracing::debug!(device = self.name, error = %error_, "request failed");
                self.counters.refused.add(1);
                space.copy_from(&error(tag, Errno::IO.raw_os_error())) as u32
            }
        }
    }
}

/// Guest bytes, each read once.
struct Bytes<'m>(Readable<'m>);

impl Read for Bytes<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = self.0.copy_to(target);
        self.0.skip(count);
        Ok(count)
    }
}

impl Data for Bytes<'_> {
    fn left(&self) -> usize {
        self.0.len()
    }

    fn write_to(&mut self, file: BorrowedFd<'_>, offset: u64, count: usize) -> io::Result<usize> {
        self.0.drain_to(file, offset, count)
    }
}

/// Space of the guest, filled from its start.
struct Answer<'m> {
    left: Writable<'m>,
    written: usize,
}

impl Write for Answer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.left.copy_from(bytes);
        self.left.skip(count);
        self.written += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl plan9::Answer for Answer<'_> {
    fn put_file(
        &mut self,
        tag: u16,
        file: BorrowedFd<'_>,
        offset: u64,
        count: usize,
    ) -> io::Result<usize> {
        if self.left.len() < DATA_HEADER {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let header = self.left.split_to(DATA_HEADER);
        // Into the guest's own buffers. What an error leaves in them, none of its answer speaks of.
        let read = match self.left.fill_from(file, offset, count, false) {
            Ok(read) => read,
            Err(error) => {
                let behind = std::mem::replace(&mut self.left, header);
                self.left.append(&behind);
                return Err(error);
            }
        };
        header.copy_from(&read_header(tag, read));
        self.written += DATA_HEADER + read;
        Ok(read)
    }
}

impl Worker for Plan9Worker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        vec![Source {
            descriptor: self.queue.kick.as_raw_fd(),
            readable: true,
            writable: false,
            token: 0,
        }]
    }

    fn ready(&mut self, _token: u32) -> Result<(), WorkerError> {
        self.queue.take_kick();
        self.serve()
    }

    fn stop(&mut self) -> Vec<QueueState> {
        vec![self.queue.state()]
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
