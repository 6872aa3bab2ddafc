//! What a machine is to the process around it, and the order in which its steps may be taken.
//!
//! A machine is built from a [`vm_control::LaunchSpec`] and [`Surroundings`], then driven through
//! [`LifeCycle`]. It ends itself (power off, debug exit, failure) by filling the [`EndingSlot`].

use crate::Console;
use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use units::Bytes;
use virtio::vsock::HostPorts;
use vm_control::{Ending, Phase, Statistics};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Why a machine could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The step is impossible in the present phase.
    #[error("the VM cannot be {asked}: it is {found}")]
    Transition {
        /// What was asked, as a participle: `paused`.
        asked: &'static str,
        /// Where the VM stands.
        found: &'static str,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// The definition cannot be built into a machine.
    #[error("{field} = {value}: {reason}")]
    Definition {
        /// The field of the definition.
        field: Cow<'static, str>,
        /// What it holds.
        value: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A file or socket of the VM.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried, e.g. `cannot open kernel`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
    /// A system call on nothing the user named.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
    /// A process that serves the VM (QEMU, passt, virtiofsd) failed.
    #[error("{program}: {reason}")]
    Child {
        /// The program.
        program: &'static str,
        /// What it did and what to do.
        reason: String,
    },
    /// The machine has no such part.
    #[error("this VM has no {0}")]
    Absent(&'static str),
    /// Anything a device or loader found wrong.
    #[error("{part}: {reason}")]
    Part {
        /// Which part of the machine.
        part: &'static str,
        /// What it said.
        reason: String,
    },
}

impl MachineError {
    /// A failed system call.
    pub fn system(what: &'static str, source: std::io::Error) -> Self {
        Self::System { what, source }
    }

    /// A failed file operation.
    pub fn file(what: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File { what, path: path.into(), source }
    }
}

/// What a machine gets from the process that holds it.
#[derive(Clone)]
pub struct Surroundings {
    /// The first serial console.
    pub console: Arc<Console>,
    /// The virtio console (`hvc0`).
    pub virtio_console: Arc<Console>,
    /// Filled when the machine ends by itself.
    pub ending: Arc<EndingSlot>,
    /// A reset by the guest ends the machine ([`Ending::Reset`]) instead of restarting it (`run`).
    pub end_on_reset: bool,
    /// How the guest reaches programs of the host over vsock; by the device's own connections where
    /// nobody makes them for it.
    pub host_ports: Option<Arc<dyn HostPorts>>,
}

/// A part of a file that keeps its size.
#[derive(Clone, Copy, Debug)]
pub struct FilePart<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// Where the part begins.
    pub offset: u64,
    /// How long it is.
    pub length: Bytes,
}

/// One VM. Only [`LifeCycle`] calls the steps, in an order that makes sense; each returns when it
/// is done. All calls may come from any thread, but steps come one at a time; only [`Self::quit`]
/// comes also while a step is under way that the host keeps from ending.
pub trait Machine: Send + Sync {
    /// The engine's name, as in `--engine`.
    fn engine(&self) -> &'static str;

    /// Lets the guest run for the first time. Called once.
    ///
    /// # Errors
    /// A resource failed; the machine will be dropped.
    fn start(&self) -> Result<(), MachineError>;

    /// Stops processors, devices and the machine's time. On return nothing changes guest memory.
    ///
    /// # Errors
    /// The machine did not stop; it still counts as running.
    fn pause(&self) -> Result<(), MachineError>;

    /// Goes on after [`Self::pause`].
    ///
    /// # Errors
    /// The machine did not go on; it still counts as paused.
    fn resume(&self) -> Result<(), MachineError>;

    /// The reset button. The machine is running or paused, and is the same afterwards.
    ///
    /// # Errors
    /// The machine cannot go on and is to be ended.
    fn reset(&self) -> Result<(), MachineError>;

    /// Presses the power button; what happens is up to the guest.
    ///
    /// # Errors
    /// The machine has none.
    fn press_power_button(&self) -> Result<(), MachineError>;

    /// Ends the VM: stops every thread and process of it and gives its resources back. Called once,
    /// from any phase, also after the machine ended by itself; nothing but drop follows.
    ///
    /// # Errors
    /// The host keeps a part, which the error names, from ending in time ([`QUIT_PATIENCE`]). The
    /// rest has ended.
    fn quit(&self) -> Result<(), MachineError>;

    /// Counters. [`Statistics::overhead`] is about the machine's other processes; the process that
    /// holds it adds its own.
    ///
    /// # Errors
    /// They cannot be read now.
    fn statistics(&self) -> Result<Statistics, MachineError>;

    /// The live state of every device, for a person.
    ///
    /// # Errors
    /// It cannot be read now.
    fn inspect(&self) -> Result<serde_json::Value, MachineError>;

    /// The memory in which the guest draws its windows.
    fn window_memory(&self) -> Option<FilePart<'_>> {
        None
    }

    /// Asks the guest to give back so much of its RAM.
    ///
    /// # Errors
    /// No balloon, or the target is out of range.
    fn set_balloon(&self, target: Bytes) -> Result<(), MachineError>;
}

/// How long the parts of a VM may take to end: a slow disk flushes what the guest wrote. Whoever
/// waits for a VM process waits longer.
pub const QUIT_PATIENCE: Duration = Duration::from_secs(10);

/// Where a machine leaves its ending; the first one counts. The process waits on the descriptor.
pub struct EndingSlot {
    ending: Mutex<Option<Ending>>,
    event: EventFd,
}

impl EndingSlot {
    /// An empty slot.
    ///
    /// # Errors
    /// No event descriptor could be made.
    pub fn new() -> Result<Self, MachineError> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
            .map_err(|e| MachineError::system("cannot make an event descriptor", e))?;
        Ok(Self { ending: Mutex::new(None), event })
    }

    /// Ends the VM; does nothing when it has already ended.
    pub fn end(&self, ending: Ending) {
        let mut slot = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(ending);
            // The counter of an event descriptor written once cannot overflow.
            let _ = self.event.write(1);
        }
    }

    /// How the VM ended, if it has.
    #[must_use]
    pub fn get(&self) -> Option<Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl AsFd for EndingSlot {
    /// Readable once the VM has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        crate::descriptor::borrow(&self.event)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Built,
    Running,
    Paused,
    Ended,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Built => "not started yet",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ended => "ended",
        }
    }
}

/// Takes a machine through its life: refuses impossible steps, never runs two at once. A step may
/// take long where the host is slow; the phase is known meanwhile.
pub struct LifeCycle {
    machine: Box<dyn Machine>,
    /// Held for a moment.
    state: Mutex<State>,
    /// Held during a step.
    step: Mutex<()>,
    ending: Arc<EndingSlot>,
}

impl LifeCycle {
    /// For a machine just built.
    #[must_use]
    pub fn new(machine: Box<dyn Machine>, ending: Arc<EndingSlot>) -> Self {
        Self { machine, state: Mutex::new(State::Built), step: Mutex::new(()), ending }
    }

    fn step(
        &self,
        asked: &'static str,
        from: &[State],
        to: impl FnOnce(State) -> State,
        action: impl FnOnce(&dyn Machine) -> Result<(), MachineError>,
    ) -> Result<(), MachineError> {
        let _one_at_a_time = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let found = if self.ending.get().is_some() { State::Ended } else { *self.state() };
        if !from.contains(&found) {
            return Err(MachineError::Transition { asked, found: found.name() });
        }
        action(&*self.machine)?;
        let mut state = self.state();
        // It may have been ended meanwhile.
        if *state != State::Ended {
            *state = to(found);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the guest for the first time.
    ///
    /// # Errors
    /// Already started, or [`Machine::start`] failed.
    pub fn start(&self) -> Result<(), MachineError> {
        self.step("started", &[State::Built], |_| State::Running, |m| m.start())
    }

    /// Pauses a running machine.
    ///
    /// # Errors
    /// Not running, or [`Machine::pause`] failed.
    pub fn pause(&self) -> Result<(), MachineError> {
        self.step("paused", &[State::Running], |_| State::Paused, |m| m.pause())
    }

    /// Resumes a paused machine.
    ///
    /// # Errors
    /// Not paused, or [`Machine::resume`] failed.
    pub fn resume(&self) -> Result<(), MachineError> {
        self.step("resumed", &[State::Paused], |_| State::Running, |m| m.resume())
    }

    /// Resets a running or paused machine, which stays running or paused.
    ///
    /// # Errors
    /// Neither, or [`Machine::reset`] failed.
    pub fn reset(&self) -> Result<(), MachineError> {
        self.step("reset", &[State::Running, State::Paused], |same| same, |m| m.reset())
    }

    /// Presses the power button of a running machine.
    ///
    /// # Errors
    /// Not running (a paused guest would not notice), or [`Machine::press_power_button`] failed.
    pub fn press_power_button(&self) -> Result<(), MachineError> {
        self.step("asked to power off", &[State::Running], |same| same, |m| m.press_power_button())
    }

    /// Sets the balloon of a running machine.
    ///
    /// # Errors
    /// Not running, or [`Machine::set_balloon`] failed.
    pub fn set_balloon(&self, target: Bytes) -> Result<(), MachineError> {
        self.step(
            "given a balloon target",
            &[State::Running],
            |same| same,
            |m| m.set_balloon(target),
        )
    }

    /// Ends the machine, also while a step is under way; only the first call does anything.
    ///
    /// # Errors
    /// As [`Machine::quit`].
    pub fn quit(&self) -> Result<(), MachineError> {
        let before = std::mem::replace(&mut *self.state(), State::Ended);
        if before == State::Ended {
            return Ok(());
        }
        self.machine.quit()
    }

    /// The phase as the control protocol names it.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match *self.state() {
            State::Built => Phase::Starting,
            State::Running | State::Ended => Phase::Running,
            State::Paused => Phase::Paused,
        }
    }

    /// The machine, for questions that change nothing.
    #[must_use]
    pub fn machine(&self) -> &dyn Machine {
        &*self.machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

    #[derive(Default)]
    struct Recorder {
        quits: Arc<AtomicUsize>,
        refuse: bool,
        /// Pausing does not end while this is true.
        stuck: Arc<AtomicBool>,
        pausing: Arc<AtomicBool>,
    }

    impl Machine for Recorder {
        fn engine(&self) -> &'static str {
            "none"
        }
        fn start(&self) -> Result<(), MachineError> {
            Ok(())
        }
        fn pause(&self) -> Result<(), MachineError> {
            if self.refuse {
                return Err(MachineError::Absent("brake"));
            }
            self.pausing.store(true, Relaxed);
            while self.stuck.load(Relaxed) {
                std::thread::yield_now();
            }
            Ok(())
        }
        fn resume(&self) -> Result<(), MachineError> {
            Ok(())
        }
        fn reset(&self) -> Result<(), MachineError> {
            Ok(())
        }
        fn press_power_button(&self) -> Result<(), MachineError> {
            Ok(())
        }
        fn quit(&self) -> Result<(), MachineError> {
            self.quits.fetch_add(1, Relaxed);
            self.stuck.store(false, Relaxed);
            Ok(())
        }
        fn statistics(&self) -> Result<Statistics, MachineError> {
            Ok(Statistics::default())
        }
        fn inspect(&self) -> Result<serde_json::Value, MachineError> {
            Ok(serde_json::Value::Null)
        }
        fn set_balloon(&self, _: Bytes) -> Result<(), MachineError> {
            Err(MachineError::Absent("balloon"))
        }
    }

    fn life(machine: Recorder) -> (LifeCycle, Arc<EndingSlot>) {
        let ending = Arc::new(EndingSlot::new().unwrap());
        (LifeCycle::new(Box::new(machine), Arc::clone(&ending)), ending)
    }

    #[test]
    fn impossible_steps_are_refused_with_the_phase_found() {
        let (life, _) = life(Recorder::default());
        assert_eq!(
            life.pause().unwrap_err().to_string(),
            "the VM cannot be paused: it is not started yet"
        );
        life.start().unwrap();
        assert!(life.start().is_err());
        assert!(life.resume().is_err());
        life.pause().unwrap();
        assert_eq!(life.phase(), Phase::Paused);
        life.reset().unwrap();
        assert_eq!(life.phase(), Phase::Paused);
        assert!(life.press_power_button().is_err());
        life.resume().unwrap();
        assert_eq!(life.phase(), Phase::Running);
    }

    #[test]
    fn a_step_that_fails_leaves_the_phase() {
        let (life, _) = life(Recorder { refuse: true, ..Recorder::default() });
        life.start().unwrap();
        assert!(life.pause().is_err());
        assert_eq!(life.phase(), Phase::Running);
    }

    #[test]
    fn after_the_guest_ended_nothing_but_one_quit_happens() {
        let quits = Arc::new(AtomicUsize::new(0));
        let (life, ending) = life(Recorder { quits: Arc::clone(&quits), ..Recorder::default() });
        life.start().unwrap();
        ending.end(Ending::PoweredOff);
        ending.end(Ending::Stopped);
        assert_eq!(ending.get(), Some(Ending::PoweredOff));
        assert_eq!(life.reset().unwrap_err().to_string(), "the VM cannot be reset: it is ended");
        life.quit().unwrap();
        life.quit().unwrap();
        assert_eq!(quits.load(Relaxed), 1);
    }

    #[test]
    fn while_a_step_is_stuck_the_phase_is_known_and_the_machine_can_be_ended() {
        let machine = Recorder::default();
        let (quits, stuck) = (Arc::clone(&machine.quits), Arc::clone(&machine.stuck));
        let pausing = Arc::clone(&machine.pausing);
        let (life, _) = life(machine);
        life.start().unwrap();
        stuck.store(true, Relaxed);
        std::thread::scope(|scope| {
            let pause = scope.spawn(|| life.pause());
            while !pausing.load(Relaxed) {
                std::thread::yield_now();
            }
            assert_eq!(life.phase(), Phase::Running);
            life.quit().unwrap();
            pause.join().unwrap().unwrap();
        });
        assert_eq!(quits.load(Relaxed), 1);
        // What the step left behind does not bring it back.
        assert!(life.resume().is_err());
    }
}
