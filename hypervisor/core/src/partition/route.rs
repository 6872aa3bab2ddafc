//! Interrupt routing: from a message to the inboxes of the virtual CPUs it is for.

use super::Partition;
use crate::apic::{Delivery, Destination, FIRST_LEGAL_VECTOR, Message};
use crate::vcpu::{Vcpu, signal};

impl Partition {
    /// Delivers `message`, sent by vCPU `sender` or by a device. Gives back a bit for each vCPU that
    /// sleeps with root and must be run.
    pub fn route(&self, message: Message, sender: Option<u32>) -> u64 {
        let mut woken = 0;
        for vcpu in self.vcpus() {
            let own = sender == Some(vcpu.index);
            let addressed = match message.destination {
                Destination::Itself => own,
                Destination::AllButItself => !own && vcpu.reach().matches(Destination::All),
                other => vcpu.reach().matches(other),
            };
            // INIT and start-up IPIs to oneself by id do nothing useful and are dropped, as on a real
            // processor in operation.
            if !addressed || own && message.delivery == Delivery::StartUp {
                continue;
            }
            if deliver(vcpu, message) && vcpu.prod() {
                woken |= 1 << vcpu.index;
            }
            // One processor is enough; which one is the system's choice (SDM 3A 11.6.2.4).
            if message.delivery == Delivery::LowestPriority {
                break;
            }
        }
        woken
    }
}

/// Leaves it in the inbox; false when it is nothing a vCPU takes.
fn deliver(vcpu: &Vcpu, message: Message) -> bool {
    let inbox = &vcpu.inbox;
    match message.delivery {
        Delivery::Fixed | Delivery::LowestPriority => {
            if message.vector < FIRST_LEGAL_VECTOR {
                return false;
            }
            inbox.vector(message.vector, message.level);
        }
        Delivery::Nmi => inbox.signal(signal::NMI),
        Delivery::Init => inbox.signal(signal::INIT),
        Delivery::StartUp => inbox.startup(message.vector),
        // No system management mode; an 8259's vector comes through the run page.
        Delivery::Smi | Delivery::External => return false,
    }
    true
}
