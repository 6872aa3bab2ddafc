//! The reset button, where a reset by the guest is to end QEMU (`-no-reboot`).
//!
//! For QEMU both are resets, so the rule is lifted while ours is under way. That is longer than it
//! seems: SeaBIOS answers a reset with one of its own, to get its memory back as it was, and only
//! then starts over (SeaBIOS src/resume.c). Where the guest started through it, the rule comes back
//! with that second reset, which may be long after: at the next resume of a paused VM.

use super::qmp::{Event, Qmp};
use crate::MachineError;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a reset may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hears QEMU's RESET events.
pub(super) struct ResetEvents {
    by_guest: Arc<AtomicU64>,
    /// For each reset from outside: how many the guest had made by then.
    from_outside: Sender<u64>,
    guest_reset: Sender<()>,
}

/// What [`ResetEvents`] reports to.
pub(super) struct ResetReports {
    by_guest: Arc<AtomicU64>,
    from_outside: Receiver<u64>,
    guest_reset: Receiver<()>,
}

/// Both ends.
pub(super) fn reset_events() -> (ResetEvents, ResetReports) {
    let by_guest = Arc::<AtomicU64>::default();
    let (outside, from_outside) = channel();
    let (guest, guest_reset) = channel();
    let events =
        ResetEvents { by_guest: Arc::clone(&by_guest), from_outside: outside, guest_reset: guest };
    let reports = ResetReports { by_guest, from_outside, guest_reset };
    (events, reports)
}

impl ResetEvents {
    /// A RESET event. Nobody listens any more once the machine is going away.
    pub(super) fn take(&self, event: &Event) {
        if event.data["guest"] == true {
            self.by_guest.fetch_add(1, SeqCst);
            let _ = self.guest_reset.send(());
        } else {
            let _ = self.from_outside.send(self.by_guest.load(SeqCst));
        }
    }
}

/// The reset button.
pub(super) struct ResetButton {
    qmp: Arc<Qmp>,
    state: Arc<Mutex<State>>,
    /// The guest's own resets end QEMU.
    end_on_reset: bool,
    /// The guest starts through SeaBIOS.
    through_bios: bool,
}

struct State {
    from_outside: Receiver<u64>,
    /// The rule comes back when the guest has made more resets than this.
    lifted_until: Option<u64>,
}

impl ResetButton {
    pub(super) fn new(
        qmp: Arc<Qmp>,
        reports: ResetReports,
        end_on_reset: bool,
        through_bios: bool,
    ) -> Result<Self, MachineError> {
        let state =
            Arc::new(Mutex::new(State { from_outside: reports.from_outside, lifted_until: None }));
        let button =
            Self { qmp: Arc::clone(&qmp), state: Arc::clone(&state), end_on_reset, through_bios };
        if end_on_reset && through_bios {
            let (by_guest, guest_reset) = (reports.by_guest, reports.guest_reset);
            super::spawn("qemu reset", move || {
                while guest_reset.recv().is_ok() {
                    let mut state = lock(&state);
                    if state.lifted_until.is_some_and(|count| by_guest.load(SeqCst) > count) {
                        state.lifted_until = None;
                        if let Err(error) = set_action(&qmp, "shutdown") {
                            tracing::warn!(%error, "a reset by the guest will not end the VM");
                        }
                    }
                }
            })?;
        }
        Ok(button)
    }

    /// Resets the machine and returns when it has been reset.
    pub(super) fn press(&self) -> Result<(), MachineError> {
        let mut state = lock(&self.state);
        if self.end_on_reset {
            set_action(&self.qmp, "reset")?;
        }
        while state.from_outside.try_recv().is_ok() {}
        self.qmp.execute("system_reset", json!({}))?;
        let count = state.from_outside.recv_timeout(PATIENCE);
        let count = count.map_err(|_| MachineError::Child {
            program: super::QEMU,
            reason: "it did not reset the machine".to_owned(),
        })?;
        if self.end_on_reset {
            if self.through_bios {
                state.lifted_until = Some(count);
            } else {
                set_action(&self.qmp, "shutdown")?;
            }
        }
        Ok(())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set_action(qmp: &Qmp, reboot: &str) -> Result<(), MachineError> {
    qmp.execute("set-action", json!({"reboot": reboot})).map(|_| ())
}
