//! virtio-input (virtio 1.2, 5.8): a keyboard with lamps, and an absolute pointer with a wheel.
//!
//! What happens on the host comes in through an [`InputHandle`] from any thread, becomes groups of
//! events, and waits until the guest has buffers for them. A group is given whole or not at all;
//! what a guest takes too slowly is dropped and counted, but never the release of a key it saw
//! pressed.

mod backlog;
mod codes;
mod description;
#[cfg(test)]
mod tests;
mod worker;

use crate::device::Counter;
use crate::{Device, DeviceId, RING_FEATURES, RestoreError, Session, StartError, Worker, config};
use backlog::{Backlog, Happening, Taken};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use worker::InputWorker;

/// Entries of each queue, as many as Linux's driver has events in flight.
const QUEUE_SIZE: u16 = 64;

/// Takes the lamps the guest wants lit: bit 0 Num Lock, 1 Caps Lock, 2 Scroll Lock.
pub type Lamps = Box<dyn FnMut(u32) + Send>;

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Keyboard,
    Pointer,
}

#[derive(Clone, Default)]
struct Counters {
    events: Counter,
    dropped: Counter,
    refused: Counter,
}

/// What control half, worker and [`InputHandle`] share.
struct Shared {
    kind: Kind,
    backlog: Mutex<Backlog>,
    /// Rung when the backlog has more.
    happened: EventFd,
    /// A driver is there to hear of it.
    driven: AtomicBool,
    lamps: AtomicU32,
    counters: Counters,
}

impl Shared {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lamps after this one was lit or not.
    fn light(&self, lamp: u16, lit: bool) -> u32 {
        let bit = 1 << lamp;
        let change = |lamps: u32| if lit { lamps | bit } else { lamps & !bit };
        // One worker at a time changes them.
        let lamps = change(self.lamps.load(Ordering::Relaxed));
        self.lamps.store(lamps, Ordering::Relaxed);
        lamps
    }
}

/// Brings what happens on the host to a device in the machine's hands.
#[derive(Clone)]
pub struct InputHandle(Arc<Shared>);

impl InputHandle {
    /// A key of the keyboard or a button of the pointer went down or up (`KEY_*`, `BTN_*` of
    /// linux/input-event-codes.h). One the device has not is dropped.
    pub fn key(&self, code: u16, pressed: bool) {
        self.take(Happening::Key { code, pressed });
    }

    /// The pointer is there: 0 to 32767 from left to right and from top to bottom.
    pub fn point(&self, x: u16, y: u16) {
        let most = codes::ABS_MOST;
        self.take(Happening::Moved { x: x.min(most), y: y.min(most) });
    }

    /// The wheel turned, in 1/120 of a detent; away from the person and to the right are positive.
    pub fn wheel(&self, vertical: i32, horizontal: i32) {
        self.take(Happening::Wheel { vertical, horizontal });
    }

    fn take(&self, happening: Happening) {
        let shared = &self.0;
        let mut backlog = shared.backlog();
        // Typed at a guest without a driver, it must not come later. Looked at under the lock, so
        // that nothing slips in behind a reset.
        let taken = if shared.driven.load(Ordering::SeqCst) {
            backlog.take(shared.kind, happening)
        } else {
            Taken::Dropped
        };
        drop(backlog);
        match taken {
            // An eventfd write fails only when the counter is full, and then the signal stands.
            Taken::Yes => drop(shared.happened.write(1)),
            Taken::Nothing => {}
            Taken::Dropped => shared.counters.dropped.add(1),
        }
    }
}

/// The device.
pub struct Input {
    name: String,
    shared: Arc<Shared>,
    counters: Counters,
    /// What the driver asked for: `select` and `subsel` (5.8.4).
    selected: (u8, u8),
    /// Here while no worker has it.
    lamps: Option<Lamps>,
}

impl Input {
    /// A keyboard that shows its lamps by `lamps`.
    ///
    /// # Errors
    /// The kernel gives no eventfd.
    pub fn keyboard(name: &str, lamps: Lamps) -> std::io::Result<(Self, InputHandle)> {
        Self::new(name, Kind::Keyboard, Some(lamps))
    }

    /// A pointer with absolute coordinates, eight buttons and a wheel for both directions.
    ///
    /// # Errors
    /// The kernel gives no eventfd.
    pub fn pointer(name: &str) -> std::io::Result<(Self, InputHandle)> {
        Self::new(name, Kind::Pointer, None)
    }

    fn new(name: &str, kind: Kind, lamps: Option<Lamps>) -> std::io::Result<(Self, InputHandle)> {
        let counters = Counters::default();
        let shared = Arc::new(Shared {
            kind,
            backlog: Mutex::default(),
            happened: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            driven: AtomicBool::new(false),
            lamps: AtomicU32::new(0),
            counters: counters.clone(),
        });
        let handle = InputHandle(shared.clone());
        let name = name.to_owned();
        Ok((Self { name, shared, counters, selected: (0, 0), lamps }, handle))
    }
}

impl Device for Input {
    fn id(&self) -> DeviceId {
        DeviceId::Input
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (select, of) = self.selected;
        config::read(&description::space(self.shared.kind, select, of), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // Byte by byte, or with all the rest as vhost-user front-ends do.
        let byte = |at: u64| {
            let place = at.checked_sub(offset).and_then(|place| usize::try_from(place).ok());
            data.get(place?).copied()
        };
        self.selected.0 = byte(0).unwrap_or(self.selected.0);
        self.selected.1 = byte(1).unwrap_or(self.selected.1);
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        self.shared.driven.store(true, Ordering::SeqCst);
        Ok(vec![Box::new(InputWorker {
            name: self.name.clone(),
            shared: self.shared.clone(),
            counters: self.counters.clone(),
            lamps: self.lamps.take(),
            memory: session.memory,
            interrupts: session.interrupts,
            queues: session.queues,
        })])
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        for worker in workers {
            if let Ok(worker) = worker.into_any().downcast::<InputWorker>() {
                self.lamps = worker.lamps;
            }
        }
    }

    fn reset(&mut self) {
        self.selected = (0, 0);
        let mut backlog = self.shared.backlog();
        self.shared.driven.store(false, Ordering::SeqCst);
        self.counters.dropped.add(backlog.clear());
        drop(backlog);
        self.shared.lamps.store(0, Ordering::Relaxed);
        if let Some(lamps) = &mut self.lamps {
            lamps(0);
        }
    }

    /// What was selected; events on their way are not part of it: nobody holds a key down across
    /// a snapshot.
    fn save(&self) -> serde_json::Value {
        let lamps = self.shared.lamps.load(Ordering::Relaxed);
        serde_json::json!({ "selected": [self.selected.0, self.selected.1], "lamps": lamps })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), RestoreError> {
        let refuse = |reason: String| RestoreError { device: self.name.clone(), reason };
        let part = |name: &str| state.get(name).cloned().unwrap_or_default();
        let selected: (u8, u8) =
            serde_json::from_value(part("selected")).map_err(|e| refuse(e.to_string()))?;
        let lamps: u32 =
            serde_json::from_value(part("lamps")).map_err(|e| refuse(e.to_string()))?;
        if lamps > 7 {
            return Err(refuse(format!("lamps {lamps}, there are three")));
        }
        self.selected = selected;
        self.shared.lamps.store(lamps, Ordering::Relaxed);
        if let Some(show) = &mut self.lamps {
            show(lamps);
        }
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![("events", c.events.get()), ("dropped", c.dropped.get()), ("refused", c.refused.get())]
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        vec![("waiting-groups", self.shared.backlog().len().to_string())]
    }
}
