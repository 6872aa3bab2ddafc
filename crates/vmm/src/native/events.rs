//! What the guest does to the machine as a whole: power off, reset, debug exit, triple fault.

use super::gate::Gate;
use crate::Surroundings;
use chipset::{MachineEvent, MachineEvents};
use std::sync::Arc;
use vm_control::Ending;

/// Acts on events from any thread, also under a device's lock.
pub(super) struct Events {
    surroundings: Surroundings,
    gate: Arc<Gate>,
}

impl Events {
    pub(super) fn new(surroundings: Surroundings, gate: Arc<Gate>) -> Self {
        Self { surroundings, gate }
    }

    /// Ends the VM and keeps the processors at the gate.
    pub(super) fn end(&self, ending: Ending) {
        self.surroundings.ending.end(ending);
        self.gate.close();
    }

    /// Ends the VM as `ending` where a reset is an end (`run`), else resets it.
    pub(super) fn reset_or(&self, ending: Ending) {
        if self.surroundings.end_on_reset {
            self.end(ending);
        } else {
            self.gate.request_reset();
        }
    }
}

impl MachineEvents for Events {
    fn raise(&self, event: MachineEvent) {
        tracing::info!(?event, "by the guest");
        match event {
            MachineEvent::PowerOff => self.end(Ending::PoweredOff),
            MachineEvent::Exit(code) => self.end(Ending::DebugExit { code }),
            MachineEvent::Reset => self.reset_or(Ending::Reset),
        }
    }
}
