//! The machine of a Solo5 hvt unikernel: RAM, one processor, and a tender (crate `solo5`) that
//! answers its hypercalls. No bus, no chipset, no interrupts.

mod board;
mod devices;
mod net;

use super::gate::Gate;
use super::memory::GuestRam;
use super::motherboard::part;
use super::processors::{Board, Halted, Processors};
use crate::{Machine, MachineError, QUIT_PATIENCE, Surroundings};
use board::TenderBoard;
use engine::{Engine, PartitionConfig};
use std::sync::Arc;
use std::time::Instant;
use units::{Bytes, GuestPhysical};
use vm_control::{LaunchSpec, Statistics};

/// See the module.
pub struct HvtMachine {
    engine: &'static str,
    board: Arc<TenderBoard>,
    processors: Processors,
}

impl HvtMachine {
    /// Builds the machine `spec` describes on `engine`, ready to start.
    ///
    /// # Errors
    /// The file is no unikernel, its devices are not those of `spec`, or a resource failed.
    pub fn new(
        engine: &dyn Engine,
        spec: &LaunchSpec,
        surroundings: Surroundings,
    ) -> Result<Self, MachineError> {
        let partition = engine.create_partition(&PartitionConfig { processors: 1 })?;
        let gate = Arc::new(Gate::new(1));
        let halted = Arc::new(Halted::default());
        let size = Bytes::mib(spec.definition.memory).0;
        let size = Bytes(size.next_multiple_of(partition.memory_granule().0));
        let ram =
            GuestRam::new(&*partition, &[(GuestPhysical(0), size)], spec.definition.huge_pages)?;
        ram.map_into(&*partition)?;
        let supported = partition.supported_cpuid()?;
        let parts = board::Parts {
            ram,
            supported,
            gate: Arc::clone(&gate),
            halted: Arc::clone(&halted),
            surroundings,
        };
        let board = Arc::new(TenderBoard::new(spec, parts)?);
        let shared: Arc<dyn Board> = Arc::clone(&board) as _;
        let processors = Processors::new(&*partition, 1, gate, &halted, &shared)?;
        Ok(Self { engine: engine.name(), board, processors })
    }
}

impl Machine for HvtMachine {
    fn engine(&self) -> &'static str {
        self.engine
    }

    fn start(&self) -> Result<(), MachineError> {
        self.board.clock.run();
        self.board.gate.open();
        Ok(())
    }

    fn pause(&self) -> Result<(), MachineError> {
        self.board.gate.close();
        if let Err(stuck) = self.board.gate.wait_still() {
            self.board.gate.open();
            return Err(part("pause")(&stuck));
        }
        self.board.clock.stop();
        Ok(())
    }

    fn resume(&self) -> Result<(), MachineError> {
        self.start()
    }

    fn reset(&self) -> Result<(), MachineError> {
        self.board.gate.request_reset();
        let reset = self.board.gate.wait_reset();
        reset.map_err(|stuck| part("reset")(&stuck))
    }

    fn press_power_button(&self) -> Result<(), MachineError> {
        Err(MachineError::Absent("power button: it runs a unikernel"))
    }

    fn quit(&self) -> Result<(), MachineError> {
        let deadline = Instant::now() + QUIT_PATIENCE;
        let stopped = self.processors.quit(deadline);
        self.board.end_cards();
        if stopped {
            return Ok(());
        }
        Err(MachineError::Part {
            part: "end of the VM",
            reason: format!(
                "the processor did not stop within {} s; a disk of the host does not answer it",
                QUIT_PATIENCE.as_secs()
            ),
        })
    }

    fn statistics(&self) -> Result<Statistics, MachineError> {
        Ok(Statistics {
            processors: self.processors.statistics(),
            devices: [("tender".to_owned(), self.board.counters())].into(),
            overhead: 0,
        })
    }

    fn inspect(&self) -> Result<serde_json::Value, MachineError> {
        Ok(self.board.inspect())
    }

    fn set_balloon(&self, _: Bytes) -> Result<(), MachineError> {
        Err(MachineError::Absent("balloon: it runs a unikernel"))
    }
}
