//! Where interrupts of devices go: ISA lines to the router, the router's outputs and MSIs to the
//! engine.

use super::gate::Gate;
use super::processors::Halted;
use chipset::{InterruptRouter, IoApicSink, Line, PinRoutes};
use engine::{InterruptFd, Msi, Partition};
use pci::{MsiLine, MsiMessage, MsiSink};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The 8259 pair's output to the bootstrap processor (virtual wire).
pub(super) struct ExternalInterrupt {
    asserted: AtomicBool,
    gate: Arc<Gate>,
    halted: Arc<Halted>,
}

impl ExternalInterrupt {
    pub(super) fn new(gate: Arc<Gate>, halted: Arc<Halted>) -> Self {
        Self { asserted: AtomicBool::new(false), gate, halted }
    }

    pub(super) fn asserted(&self) -> bool {
        self.asserted.load(Ordering::Acquire)
    }
}

impl Line for ExternalInterrupt {
    fn set(&self, high: bool) {
        if !self.asserted.swap(high, Ordering::AcqRel) && high {
            self.gate.kick(0);
            self.halted.notify();
        }
    }
}

/// Delivers messages through the engine.
pub(super) struct MessageSink {
    partition: Arc<dyn Partition>,
    halted: Arc<Halted>,
}

impl MessageSink {
    pub(super) fn new(partition: Arc<dyn Partition>, halted: Arc<Halted>) -> Self {
        Self { partition, halted }
    }

    fn inject(&self, address: u64, data: u32) {
        // A message no APIC takes is lost, as on real hardware; the guest wrote it.
        if let Err(error) = self.partition.inject(Msi { address, data }) {
            tracing::debug!(address, data, %error, "message lost");
        }
        self.halted.notify();
    }
}

impl MsiSink for MessageSink {
    fn send(&self, message: MsiMessage) {
        self.inject(message.address, message.data);
    }

    fn line(&self) -> Option<Box<dyn MsiLine>> {
        match self.partition.interrupt_fd() {
            Ok(interrupt) => Some(Box::new(DirectLine(interrupt?))),
            Err(error) => {
                tracing::debug!(%error, "no descriptor for an interrupt");
                None
            }
        }
    }
}

/// Interrupts that reach the engine past this process. An engine that has them wakes halted processors itself.
struct DirectLine(Box<dyn InterruptFd>);

impl MsiLine for DirectLine {
    fn descriptor(&self) -> Option<OwnedFd> {
        self.0.descriptor().inspect_err(|error| tracing::debug!(%error, "no descriptor")).ok()
    }

    fn set(&self, message: Option<MsiMessage>) {
        let message = message.map(|MsiMessage { address, data }| Msi { address, data });
        // As for a message that is sent: the guest wrote it.
        if let Err(error) = self.0.set(message) {
            tracing::debug!(?message, %error, "an interrupt's descriptor is not routed");
        }
    }

    fn waits(&self) -> bool {
        self.0.waits()
    }
}

impl IoApicSink for MessageSink {
    fn deliver(&self, address: u64, data: u32) {
        self.inject(address, data);
    }

    fn routes_changed(&self, routes: &PinRoutes) {
        let routes = routes.map(|route| route.map(|(address, data)| Msi { address, data }));
        if let Err(error) = self.partition.set_line_routes(&routes) {
            tracing::debug!(%error, "interrupt routes refused");
        }
    }
}

/// The router as everyone shares it.
pub(super) type SharedRouter = Arc<Mutex<InterruptRouter>>;

/// One ISA interrupt.
pub(super) struct IsaLine {
    pub(super) router: SharedRouter,
    pub(super) irq: u8,
}

impl Line for IsaLine {
    fn set(&self, high: bool) {
        self.router.lock().unwrap_or_else(PoisonError::into_inner).set_isa(self.irq, high);
    }
}
