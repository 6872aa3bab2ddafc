//! What a device may ask of the whole machine. The VMM decides what follows (`on_reboot` policy,
//! exit code of `run`).

use alloc::sync::Arc;

/// Something only the machine as a whole can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest turned the machine off (ACPI S5).
    PowerOff,
    /// The guest asked for a machine reset (port 0xcf9, port 0x92, keyboard controller).
    Reset,
    /// The guest ended itself with a code (debug-exit port 0xf4, hypercall port 0xec).
    Exit(u8),
}

/// Takes machine events. Called under the raising device's lock, on a vCPU's thread: record the
/// event and return; the vCPU's loop acts on it after the access.
pub trait MachineEvents: Send + Sync {
    /// `event` happened.
    fn raise(&self, event: MachineEvent);
}

impl<E: MachineEvents + ?Sized> MachineEvents for Arc<E> {
    fn raise(&self, event: MachineEvent) {
        (**self).raise(event);
    }
}

/// Machine events handed to a closure.
pub struct EventFn<F>(pub F);

impl<F: Fn(MachineEvent) + Send + Sync> MachineEvents for EventFn<F> {
    fn raise(&self, event: MachineEvent) {
        (self.0)(event);
    }
}
