//! The native machine: our own devices and an [`engine::Engine`] for the processors.
//!
//! [`NativeMachine`] holds the threads; `motherboard` everything the guest can reach; `gate` is
//! where processors stop and start. `hvt` is another machine around the same processors and gate: one
//! without devices, for unikernels.

mod adapters;
mod boot;
pub mod bus;
mod chipset;
mod clock;
mod configuration;
mod console_end;
mod devices;
mod events;
mod expansion;
mod flash;
mod gate;
mod hvt;
mod lines;
pub mod memory;
mod motherboard;
mod power;
mod processors;
mod start_state;
#[cfg(test)]
mod tests;
mod timers;
mod window_memory;

pub use hvt::HvtMachine;

use crate::{FilePart, Machine, MachineError, QUIT_PATIENCE, Surroundings};
use engine::{Engine, PartitionConfig};
use gate::Gate;
use motherboard::Motherboard;
use processors::{Board, Processors, ended_by};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use units::Bytes;
use vm_control::{LaunchSpec, Statistics};
use window_memory::WindowMemory;

/// RAM the balloon leaves to the guest.
const LEAST_RAM: Bytes = Bytes::mib(64);

/// A folder over virtio-fs is served by a process that maps the guest's memory.
fn check_shares(engine: &dyn Engine, spec: &LaunchSpec) -> Result<(), MachineError> {
    let by_process = |share: &definition::Share| share.kind == definition::ShareKind::VirtioFs;
    match spec.definition.shares.iter().position(by_process) {
        Some(index) if !engine.capabilities().memory_has_length => {
            crate::service::check_virtiofsd_maps_devices().map_err(|reason| {
                MachineError::Definition {
                    field: format!("share[{index}].kind").into(),
                    value: "virtio-fs".to_owned(),
                    reason: format!(
                        "engine {} needs {reason}; allowed: 9p, and folders shared while the VM runs",
                        engine.name()
                    ),
                }
            })
        }
        _ => Ok(()),
    }
}

/// See the module.
pub struct NativeMachine {
    engine: &'static str,
    board: Arc<Motherboard>,
    processors: Processors,
    timers: Mutex<Option<JoinHandle<()>>>,
}

impl NativeMachine {
    /// Builds the machine `spec` describes on `engine`, ready to start.
    ///
    /// # Errors
    /// The definition asks for what cannot be built, or a resource failed.
    pub fn new(
        engine: &dyn Engine,
        spec: &LaunchSpec,
        surroundings: Surroundings,
    ) -> Result<Self, MachineError> {
        check_shares(engine, spec)?;
        let processors = spec.definition.cpus;
        let partition = engine.create_partition(&PartitionConfig { processors })?;
        let gate = Arc::new(Gate::new(processors as usize));
        let board = Arc::new(Motherboard::new(
            spec,
            Arc::clone(&partition),
            Arc::clone(&gate),
            surroundings,
        )?);
        board.load()?;
        let shared: Arc<dyn Board> = Arc::clone(&board) as _;
        let timers = spawn_timers(&board)?;
        let processors = Processors::new(&*partition, processors, gate, &board.halted, &shared)?;
        Ok(Self { engine: engine.name(), board, processors, timers: Mutex::new(Some(timers)) })
    }
}

fn spawn_timers(board: &Arc<Motherboard>) -> Result<JoinHandle<()>, MachineError> {
    let timers = Arc::clone(&board.timers);
    let devices = board.chipset.timed();
    let console = Arc::clone(&board.surroundings.console);
    let wake = Arc::clone(&board.timers);
    console.on_input(move || wake.wake());
    let chores = vec![board.chipset.input_chore(console)];
    let board = Arc::clone(board);
    std::thread::Builder::new()
        .name("chipset".to_owned())
        .stack_size(128 << 10)
        .spawn(move || indispensable(&*board, "chipset", || timers.run(&devices, &chores)))
        .map_err(|e| MachineError::system("cannot start the chipset thread", e))
}

/// Does the work of a thread without which the guest would hang: its panic ends the VM.
fn indispensable(board: &dyn Board, thread: &str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        board.failed(format!("the {thread} thread panicked; see the log"));
    }
}

impl Machine for NativeMachine {
    fn engine(&self) -> &'static str {
        self.engine
    }

    fn start(&self) -> Result<(), MachineError> {
        self.board.timers.clock().run();
        self.board.timers.wake();
        self.board.gate.open();
        Ok(())
    }

    fn pause(&self) -> Result<(), MachineError> {
        self.board.gate.close();
        if let Err(stuck) = self.board.gate.wait_still() {
            self.board.gate.open();
            return Err(motherboard::part("pause")(&stuck));
        }
        self.board.devices.pause();
        self.board.timers.clock().stop();
        Ok(())
    }

    fn resume(&self) -> Result<(), MachineError> {
        self.board.devices.resume();
        self.start()
    }

    fn reset(&self) -> Result<(), MachineError> {
        self.board.gate.request_reset();
        self.board.gate.wait_reset().map_err(|stuck| motherboard::part("reset")(&stuck))
    }

    fn press_power_button(&self) -> Result<(), MachineError> {
        let mut power =
            self.board.chipset.power.device.lock().unwrap_or_else(PoisonError::into_inner);
        if !power.press_power_button() {
            tracing::info!("power button pressed; the guest does not listen to it yet");
        }
        Ok(())
    }

    fn quit(&self) -> Result<(), MachineError> {
        let deadline = Instant::now() + QUIT_PATIENCE;
        // A processor may be stuck with a device; the others' data are brought to safety first.
        let mut stuck = Vec::new();
        let (stopped, late) =
            (self.processors.quit(deadline - QUIT_PATIENCE / 2), self.board.devices.end(deadline));
        stuck.extend(late);
        if !stopped && stuck.is_empty() {
            stuck.push("a processor".to_owned());
        }
        self.board.devices.end_services();
        self.board.timers.quit();
        let thread = self.timers.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && !ended_by(thread, deadline)
        {
            stuck.push("the chipset".to_owned());
        }
        if stuck.is_empty() {
            return Ok(());
        }
        Err(MachineError::Part {
            part: "end of the VM",
            reason: format!(
                "not stopped within {} s: {}. The host does not answer it; what it had not \
                 written is lost",
                QUIT_PATIENCE.as_secs(),
                stuck.join(", ")
            ),
        })
    }

    fn statistics(&self) -> Result<Statistics, MachineError> {
        Ok(Statistics {
            processors: self.processors.statistics(),
            devices: self.board.counters(),
            overhead: 0,
        })
    }

    fn inspect(&self) -> Result<serde_json::Value, MachineError> {
        Ok(self.board.inspect())
    }

    fn window_memory(&self) -> Option<FilePart<'_>> {
        self.board.window_memory.as_ref().and_then(WindowMemory::file)
    }

    fn set_balloon(&self, target: Bytes) -> Result<(), MachineError> {
        // What a guest kernel needs to go on.
        let most = Bytes(self.board.ram.size().0.saturating_sub(LEAST_RAM.0));
        if target > most {
            return Err(MachineError::Definition {
                field: "balloon target".into(),
                value: target.to_string(),
                reason: format!("at most {most}: {LEAST_RAM} stay with the guest"),
            });
        }
        self.board.devices.set_balloon(target).map_err(|e| motherboard::part("balloon")(&e))
    }
}
