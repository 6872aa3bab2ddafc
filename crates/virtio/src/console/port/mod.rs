//! A named port (virtio 1.2, 5.3 with VIRTIO_CONSOLE_F_MULTIPORT): bytes between a program of the guest, which finds the
//! port by its name, and whoever connects to a socket of the host.
//!
//! It is port 1 of a device of its own. Port 0, which a driver without F_MULTIPORT takes for a console, leads nowhere:
//! no kernel prints into a conversation of programs. Each end learns whether somebody is at the other: the guest by
//! PORT_OPEN, and what the host says waits in its socket until the guest has opened the port.

mod control;
mod listening;
#[cfg(test)]
mod tests;
mod worker;

use super::Counters;
use super::lane::Lane;
use crate::{Device, DeviceId, RING_FEATURES, RestoreError, Session, StartError, Worker, config};
use control::Conversation;
use listening::Listening;
use std::io;
use std::os::unix::net::UnixListener;
use worker::PortWorker;

/// There are several ports, and queues on which they are talked about (virtio 1.2, 5.3.3).
const F_MULTIPORT: u32 = 1;
/// Entries per queue.
const QUEUE_SIZE: u16 = 64;
/// Ports that may be: 0, which is none, and ours.
const MOST_PORTS: u32 = 2;
/// Queues (virtio 1.2, 5.3.2): input and output of port 0, control to and from the driver, input and output of port 1.
const PORT_0_RECEIVE: u16 = 0;
const PORT_0_TRANSMIT: u16 = 1;
const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;
const RECEIVE: u16 = 4;
const TRANSMIT: u16 = 5;
const QUEUES: usize = 6;

const STATE_VERSION: u64 = 1;

/// The control half.
pub struct NamedPort {
    name: String,
    port: String,
    counters: Counters,
    /// With the worker while one runs.
    end: Option<Box<Listening>>,
    conversation: Conversation,
    /// Bytes already written of the request that was under way when the worker stopped.
    written: usize,
}

impl NamedPort {
    /// A device called `name` with a port that guests find as `port`, for those who connect to `listener`, one at a
    /// time.
    ///
    /// # Errors
    /// The listener cannot be made one that waits for nobody.
    pub fn new(name: &str, port: &str, listener: UnixListener) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            port: port.to_owned(),
            counters: Counters::default(),
            end: Some(Box::new(Listening::new(listener)?)),
            conversation: Conversation::default(),
            written: 0,
        })
    }
}

impl Device for NamedPort {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        RING_FEATURES | 1 << F_MULTIPORT
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    /// Columns, rows, greatest number of ports (virtio 1.2, 5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut fields = [0; 8];
        fields[4..].copy_from_slice(&MOST_PORTS.to_le_bytes());
        config::read(&fields, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        let mut queues = [const { None }; QUEUES];
        for queue in session.queues {
            if let Some(place) = queues.get_mut(usize::from(queue.index)) {
                *place = Some(queue);
            }
        }
        let mut take = |index: u16| queues.get_mut(usize::from(index)).and_then(Option::take);
        let (unused, nowhere) = (take(PORT_0_RECEIVE), take(PORT_0_TRANSMIT));
        let (to_driver, from_driver) = (take(CONTROL_RECEIVE), take(CONTROL_TRANSMIT));
        let written = std::mem::take(&mut self.written);
        let lanes = [take(RECEIVE), take(TRANSMIT)];
        Ok(vec![Box::new(PortWorker {
            name: self.name.clone(),
            port: self.port.clone(),
            lane: Lane::new(lanes, self.end.take(), written, self.counters.clone()),
            unused,
            nowhere,
            to_driver,
            from_driver,
            conversation: self.conversation,
            memory: session.memory,
            interrupts: session.interrupts,
        })])
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        for worker in workers {
            if let Ok(worker) = worker.into_any().downcast::<PortWorker>() {
                self.conversation = worker.conversation;
                self.end = worker.lane.end;
                self.written = worker.lane.written;
            }
        }
    }

    fn reset(&mut self) {
        self.conversation = Conversation::default();
        self.written = 0;
    }

    fn reset_queue(&mut self, index: u16) {
        if index == TRANSMIT {
            self.written = 0;
        }
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!({
            "version": STATE_VERSION,
            "written": self.written,
            "conversation": self.conversation.save(),
        })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), RestoreError> {
        let written = state["written"].as_u64().and_then(|n| usize::try_from(n).ok());
        let conversation = Conversation::restore(&state["conversation"]);
        match (state["version"].as_u64(), written, conversation) {
            (Some(STATE_VERSION), Some(written), Some(conversation)) => {
                (self.written, self.conversation) = (written, conversation);
                Ok(())
            }
            _ => Err(RestoreError {
                device: self.name.clone(),
                reason: format!(
                    "expected version {STATE_VERSION} with a count of bytes and a conversation, found {state}"
                ),
            }),
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("requests", self.counters.requests.get()),
            ("bytes-read", self.counters.to_guest.get()),
            ("bytes-written", self.counters.from_guest.get()),
            ("refused", self.counters.refused.get()),
        ]
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        vec![("port", self.port.clone())]
    }
}
