//! The states of a VM and what may be asked in each: the one place that knows.
//!
//! A state is never stored. It is observed ([`observe`]) from facts that survive any crash: whether
//! a process holds the VM's lock, what that process answers, and the record of how the last run
//! ended.

use std::fmt;
use vm_control::{Ending, ExitRecord, Phase};

/// Where a VM stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VmState {
    /// Defined, never started.
    Created,
    /// Its process sets up; no guest instruction has run.
    Starting,
    /// The guest runs.
    Running,
    /// The guest stands still, its memory kept.
    Paused,
    /// The guest was asked to power off.
    Stopping,
    /// The last run ended in order.
    Stopped,
    /// The last run ended by a failure of the guest or of the VM process.
    Crashed,
}

/// What a person may ask of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start it.
    Start,
    /// Press its power button.
    Stop,
    /// End it now.
    ForceStop,
    /// Stop its processors.
    Pause,
    /// Let them run on.
    Resume,
    /// Press its reset button.
    Reset,
    /// Speak to its console, read its counters.
    Attach,
    /// Forget it.
    Delete,
}

/// An action that is impossible in the present state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VM \"{name}\" is {state}: cannot {action}")]
pub struct Refusal {
    /// The VM.
    pub name: String,
    /// Where it stands.
    pub state: VmState,
    /// What was asked.
    pub action: Action,
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop | Self::ForceStop => "stop",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Attach => "attach to it",
            Self::Delete => "delete",
        })
    }
}

impl VmState {
    /// A process runs for the VM.
    #[must_use]
    pub fn is_active(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Paused | Self::Stopping => true,
            Self::Created | Self::Stopped | Self::Crashed => false,
        }
    }

    /// Whether `action` is possible.
    #[must_use]
    pub fn allows(self, action: Action) -> bool {
        match action {
            Action::Start | Action::Delete => !self.is_active(),
            Action::ForceStop | Action::Attach => self.is_active(),
            Action::Stop => matches!(self, Self::Running | Self::Stopping),
            Action::Pause => self == Self::Running,
            Action::Resume => self == Self::Paused,
            Action::Reset => matches!(self, Self::Running | Self::Paused | Self::Stopping),
        }
    }

    /// Refuses an impossible action on VM `name`.
    ///
    /// # Errors
    /// The action is impossible in this state.
    pub fn check(self, name: &str, action: Action) -> Result<(), Refusal> {
        if self.allows(action) {
            return Ok(());
        }
        Err(Refusal { name: name.to_owned(), state: self, action })
    }
}

impl Refusal {
    /// What the person can do instead.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match (self.state, self.action) {
            (VmState::Created | VmState::Stopped | VmState::Crashed, _) => "start it first",
            (_, Action::Delete) => "stop it first",
            (VmState::Paused, Action::Stop) => {
                "resume it first, so that the guest sees its power button, or use --force"
            }
            (VmState::Paused, Action::Start) => "resume it instead",
            (VmState::Paused, _) => "resume it first",
            (VmState::Starting, _) => "wait until it runs",
            (VmState::Stopping, Action::Start) => "wait until it has stopped",
            (VmState::Stopping, _) => "wait until it has stopped, or use stop --force",
            (VmState::Running, Action::Resume) => "only a paused VM can be resumed",
            (VmState::Running, _) => "nothing to do",
        }
    }
}

/// What can be seen of a VM from outside.
#[derive(Clone, Copy, Debug)]
pub enum Facts<'a> {
    /// A process holds the VM's lock.
    Process {
        /// What it answered; `None` when its control socket does not answer.
        phase: Option<Phase>,
        /// It answered before, so silence does not mean that it is starting.
        answered_before: bool,
        /// Someone waits for its polite end.
        stop_asked: bool,
    },
    /// No process.
    NoProcess {
        /// It was started at least once.
        started_before: bool,
        /// How the last run ended.
        record: Option<&'a ExitRecord>,
    },
}

/// The state that `facts` amount to.
#[must_use]
pub fn observe(facts: Facts<'_>) -> VmState {
    match facts {
        Facts::Process { phase: Some(Phase::Starting), .. }
        | Facts::Process { phase: None, answered_before: false, .. } => VmState::Starting,
        Facts::Process { phase: Some(Phase::Paused), .. } => VmState::Paused,
        Facts::Process { stop_asked: true, .. } => VmState::Stopping,
        Facts::Process { .. } => VmState::Running,
        Facts::NoProcess { started_before: false, .. } => VmState::Created,
        Facts::NoProcess { record: None, .. } => VmState::Crashed,
        Facts::NoProcess { record: Some(record), .. } => match record.ending {
            Ending::PoweredOff
            | Ending::DebugExit { .. }
            | Ending::Stopped
            | Ending::Reset
            | Ending::TimedOut => VmState::Stopped,
            Ending::TripleFault | Ending::Failed { .. } => VmState::Crashed,
        },
    }
}

/// How a run ended, in words.
#[must_use]
pub fn describe(record: Option<&ExitRecord>) -> String {
    let Some(record) = record else {
        return "the VM process left no record: it was killed, or the host went down".to_owned();
    };
    match &record.ending {
        Ending::PoweredOff => "the guest powered off".to_owned(),
        Ending::DebugExit { code } => format!("the guest ended with exit code {code}"),
        Ending::Stopped => "stopped from outside".to_owned(),
        Ending::Reset => "the guest reset the machine".to_owned(),
        Ending::TimedOut => "the time given to it ran out".to_owned(),
        Ending::TripleFault => {
            "the guest's processor shut down (triple fault): the guest kernel failed".to_owned()
        }
        Ending::Failed { message } => message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [VmState; 7] = [
        VmState::Created,
        VmState::Starting,
        VmState::Running,
        VmState::Paused,
        VmState::Stopping,
        VmState::Stopped,
        VmState::Crashed,
    ];

    const ACTIONS: [Action; 8] = [
        Action::Start,
        Action::Stop,
        Action::ForceStop,
        Action::Pause,
        Action::Resume,
        Action::Reset,
        Action::Attach,
        Action::Delete,
    ];

    /// Rows are states, columns are actions in the order of [`ACTIONS`]; `x` is possible.
    const TABLE: [(VmState, &str); 7] = [
        //                   start stop force pause resume reset attach delete
        (VmState::Created, "x......x"),
        (VmState::Starting, "..x...x."),
        (VmState::Running, ".xxx.xx."),
        (VmState::Paused, "..x.xxx."),
        (VmState::Stopping, ".xx..xx."),
        (VmState::Stopped, "x......x"),
        (VmState::Crashed, "x......x"),
    ];

    #[test]
    fn every_action_is_possible_in_exactly_the_states_of_the_table() {
        assert_eq!(TABLE.map(|(state, _)| state), STATES);
        for (state, row) in TABLE {
            for (action, mark) in ACTIONS.into_iter().zip(row.chars()) {
                assert_eq!(state.allows(action), mark == 'x', "{state} {action:?}");
            }
        }
    }

    #[test]
    fn every_refusal_names_vm_state_action_and_a_way_out() {
        for state in STATES {
            for action in ACTIONS.into_iter().filter(|action| !state.allows(*action)) {
                let refusal = state.check("my vm", action).unwrap_err();
                let text = refusal.to_string();
                assert!(text.starts_with(&format!("VM \"my vm\" is {state}: cannot ")));
                assert!(!refusal.advice().is_empty());
            }
        }
        let refusal = VmState::Stopped.check("x", Action::Pause).unwrap_err();
        assert_eq!(refusal.to_string(), "VM \"x\" is stopped: cannot pause");
        assert_eq!(refusal.advice(), "start it first");
    }

    fn ended(ending: Ending) -> VmState {
        observe(Facts::NoProcess {
            started_before: true,
            record: Some(&ExitRecord { ending, time: 1 }),
        })
    }

    #[test]
    fn only_endings_in_order_count_as_stopped() {
        assert_eq!(ended(Ending::PoweredOff), VmState::Stopped);
        assert_eq!(ended(Ending::DebugExit { code: 3 }), VmState::Stopped);
        assert_eq!(ended(Ending::Stopped), VmState::Stopped);
        assert_eq!(ended(Ending::TripleFault), VmState::Crashed);
        let message = String::new();
        assert_eq!(ended(Ending::Failed { message }), VmState::Crashed);
        let no_record = |started_before| observe(Facts::NoProcess { started_before, record: None });
        assert_eq!(no_record(true), VmState::Crashed);
        assert_eq!(no_record(false), VmState::Created);
    }

    #[test]
    fn a_process_is_what_it_answers() {
        let alive = |phase, answered_before, stop_asked| {
            observe(Facts::Process { phase, answered_before, stop_asked })
        };
        assert_eq!(alive(None, false, false), VmState::Starting);
        assert_eq!(alive(None, true, false), VmState::Running);
        assert_eq!(alive(None, true, true), VmState::Stopping);
        assert_eq!(alive(Some(Phase::Starting), false, true), VmState::Starting);
        assert_eq!(alive(Some(Phase::Running), true, false), VmState::Running);
        assert_eq!(alive(Some(Phase::Running), true, true), VmState::Stopping);
        assert_eq!(alive(Some(Phase::Paused), true, true), VmState::Paused);
    }
}
