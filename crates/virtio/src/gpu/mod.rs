//! virtio-gpu (virtio 1.2, 5.7), its 2D part: one scanout, pictures in host memory or blobs in the
//! guest's, a pointer image, and a size the host may ask for at any time.
//!
//! Pixels go to a [`Scanout`]. Every command is done when it is answered, so that a fence is
//! signalled with its answer. Host memory for resources has a quota; every rectangle, offset and
//! length is checked before use, and a command that breaks a rule is refused, counted, and changes
//! nothing.

mod commands;
mod edid;
mod protocol;
mod resource;
mod save;
#[cfg(test)]
mod tests;
mod worker;

use crate::device::Counter;
use crate::{Device, DeviceId, RING_FEATURES, RestoreError, Session, StartError, Worker, config};
use commands::State;
use display::{Scanout, Size};
use protocol::{EVENT_DISPLAY, F_EDID, F_RESOURCE_BLOB};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use worker::GpuWorker;

/// Entries of the control queue; drivers send three or four commands for each picture.
const CONTROL_QUEUE: u16 = 256;
/// Entries of the cursor queue.
const CURSOR_QUEUE: u16 = 64;

/// What the host wants the guest to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// In pixels.
    pub size: Size,
    /// Width of the visible area in millimetres, 0 when not known.
    pub width_mm: u16,
    /// Its height.
    pub height_mm: u16,
}

impl Mode {
    /// A size on a monitor of 96 dots per inch.
    #[must_use]
    pub fn new(size: Size) -> Self {
        Self { size, width_mm: 0, height_mm: 0 }
    }
}

/// What control half, worker and [`GpuControl`] share.
struct Shared {
    mode: Mutex<Mode>,
    /// `events_read` (5.7.4).
    events: AtomicU32,
    mode_changed: EventFd,
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Steers a graphics device while it is in the machine's hands.
#[derive(Clone)]
pub struct GpuControl(Arc<Shared>);

impl GpuControl {
    /// Asks the guest to show this from now on.
    pub fn set_mode(&self, mode: Mode) {
        let mut wanted = self.0.mode.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *wanted, mode) == mode {
            return;
        }
        drop(wanted);
        self.0.events.fetch_or(EVENT_DISPLAY, Ordering::SeqCst);
        // An eventfd write fails only when the counter is full, and then the signal stands anyway.
        let _ = self.0.mode_changed.write(1);
    }

    /// What the guest was asked for.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.0.mode()
    }
}

#[derive(Clone, Default)]
struct Counters {
    requests: Counter,
    flushes: Counter,
    transferred: Counter,
    refused: Counter,
}

/// The device.
pub struct Gpu {
    name: String,
    shared: Arc<Shared>,
    counters: Counters,
    /// Here while no worker has it.
    state: Option<State>,
}

impl Gpu {
    /// A device that shows on `screen` and asks the guest for `mode` at first.
    ///
    /// # Errors
    /// The kernel gives no eventfd.
    pub fn new(
        name: &str,
        mode: Mode,
        screen: Box<dyn Scanout>,
    ) -> std::io::Result<(Self, GpuControl)> {
        let shared = Arc::new(Shared {
            mode: Mutex::new(mode),
            events: AtomicU32::new(0),
            mode_changed: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        });
        let counters = Counters::default();
        let gpu = Self {
            name: name.to_owned(),
            shared: shared.clone(),
            state: Some(State::new(screen, counters.clone())),
            counters,
        };
        Ok((gpu, GpuControl(shared)))
    }
}

impl Device for Gpu {
    fn id(&self) -> DeviceId {
        DeviceId::Gpu
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        RING_FEATURES | F_EDID | F_RESOURCE_BLOB
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![CONTROL_QUEUE, CURSOR_QUEUE]
    }

    /// 5.7.4: `events_read`, `events_clear`, `num_scanouts`, `num_capsets`.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let events = self.shared.events.load(Ordering::SeqCst);
        config::read(&protocol::bytes(&[events, 0, 1, 0]), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // `events_clear`, written alone, or with all the rest as vhost-user front-ends do.
        let start = 4_u64.checked_sub(offset).and_then(|start| usize::try_from(start).ok());
        let word = start.and_then(|start| data.get(start..)?.first_chunk::<4>());
        if let Some(word) = word {
            self.shared.events.fetch_and(!u32::from_le_bytes(*word), Ordering::SeqCst);
        }
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        let mut state = self.state.take().ok_or_else(|| StartError {
            device: "gpu",
            reason: "its last worker died with the screen".to_owned(),
        })?;
        state.features = session.features;
        // After a restore the screen is black.
        if let Some(shown) = state.shown {
            state.paint(shown.resource, shown.area, &session.memory.memory());
        }
        Ok(vec![Box::new(GpuWorker {
            name: self.name.clone(),
            shared: self.shared.clone(),
            state,
            memory: session.memory,
            interrupts: session.interrupts,
            queues: session.queues,
        })])
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        for worker in workers {
            if let Ok(worker) = worker.into_any().downcast::<GpuWorker>() {
                self.state = Some(worker.state);
            }
        }
    }

    fn reset(&mut self) {
        self.shared.events.store(0, Ordering::SeqCst);
        if let Some(state) = &mut self.state {
            state.reset();
        }
    }

    fn save(&self) -> serde_json::Value {
        save::save(self)
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), RestoreError> {
        save::restore(self, state)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("requests", c.requests.get()),
            ("flushes", c.flushes.get()),
            ("bytes-transferred", c.transferred.get()),
            ("refused", c.refused.get()),
        ]
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let Size { width, height } = self.shared.mode().size;
        vec![("wanted-size", format!("{width} x {height}"))]
    }
}
