//! One VM on the bus: `org.macrohard.Hypervisor1.Machine`.

use crate::daemon::launch;
use crate::daemon::service::STOP_PATIENCE;
use crate::daemon::vms::Vms;
use crate::lifecycle::VmState;
use crate::problem::{Kind, Problem};
use proto::v1::ControlLaunchRequest;
use proto::v1::launch_progress::Progress;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Seconds that a guest and its session may take until an application can be launched.
const LAUNCH_PATIENCE: u32 = 120;

/// What the bus shows of a VM.
#[derive(Debug)]
pub(super) struct Machine {
    vms: Vms,
    name: String,
    shown: Mutex<Shown>,
}

#[derive(Clone, Copy, Debug)]
struct Shown {
    state: VmState,
    controllable: bool,
}

/// What is registered on the bus. It never needs itself for itself alone: a start that takes its time must not keep
/// others from seeing the state.
#[derive(Debug)]
pub(super) struct Object(pub(super) Arc<Machine>);

/// An answer of the bus, by the kind of the problem.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.macrohard.Hypervisor1.Error")]
pub(super) enum Refusal {
    /// The VM's definition lets nobody change it over the bus.
    ReadOnly(String),
    /// A value is not allowed.
    InvalidArgument(String),
    /// Impossible in the present state.
    Refused(String),
    /// It took longer than it may.
    TimedOut(String),
    /// Everything else.
    Failed(String),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let message = match &problem.advice {
            Some(advice) => format!("{}: {advice}", problem.message),
            None => problem.message,
        };
        match problem.kind {
            Kind::Usage => Self::InvalidArgument(message),
            Kind::Refused => Self::Refused(message),
            Kind::TimedOut => Self::TimedOut(message),
            Kind::Unknown | Kind::Taken | Kind::Unavailable | Kind::Failed => Self::Failed(message),
        }
    }
}

impl Machine {
    pub(super) fn new(vms: Vms, name: &str, state: VmState) -> Self {
        let controllable = controllable(&vms, name);
        let shown = Mutex::new(Shown { state, controllable });
        Self { vms, name: name.to_owned(), shown }
    }

    fn shown(&self) -> Shown {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is so now; whether the state, and whether the policy is another than before.
    pub(super) fn now(&self, state: VmState) -> (bool, bool) {
        let controllable = controllable(&self.vms, &self.name);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *shown, Shown { state, controllable });
        (before.state != state, before.controllable != controllable)
    }

    /// The definition lets programs of the session do more than look.
    fn check_policy(&self) -> Result<(), Refusal> {
        if controllable(&self.vms, &self.name) {
            return Ok(());
        }
        Err(Refusal::ReadOnly(format!(
            "the definition of VM \"{}\" says bus-control = false, or cannot be read",
            self.name
        )))
    }
}

/// A VM without a definition that can be read has no policy, so nothing is allowed.
fn controllable(vms: &Vms, name: &str) -> bool {
    vms.store().load(name).is_ok_and(|definition| definition.integration.bus_control)
}

#[zbus::interface(name = "org.macrohard.Hypervisor1.Machine")]
impl Object {
    /// The VM's name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// created, starting, running, paused, stopping, stopped or crashed.
    #[zbus(property)]
    fn state(&self) -> String {
        self.0.shown().state.to_string()
    }

    /// Start, Stop and Launch are allowed.
    #[zbus(property)]
    fn controllable(&self) -> bool {
        self.0.shown().controllable
    }

    /// Starts the VM; answers when its guest runs.
    async fn start(&self) -> Result<(), Refusal> {
        self.0.check_policy()?;
        self.0.vms.start(&self.0.name).await?;
        Ok(())
    }

    /// Presses the power button and waits so many seconds for the guest to power off; with 0 it waits for nothing.
    async fn stop(&self, seconds: u32) -> Result<(), Refusal> {
        self.0.check_policy()?;
        if seconds > STOP_PATIENCE {
            return Err(Refusal::InvalidArgument(format!(
                "the wait is {seconds} seconds; allowed: 0 to {STOP_PATIENCE}"
            )));
        }
        let vm = self.0.vms.get(&self.0.name).await?;
        match vm.stop(Duration::from_secs(seconds.into())).await {
            Err(problem) if seconds == 0 && problem.kind == Kind::TimedOut => Ok(()),
            stopped => Ok(stopped?),
        }
    }

    /// The applications of the guest that a menu may show, as they are or were last: id, name and comment of each.
    #[zbus(out_args("applications"))]
    async fn list_applications(&self) -> Result<Vec<(String, String, String)>, Refusal> {
        let vm = self.0.vms.get(&self.0.name).await?;
        let plain = |text: Option<proto::v1::Text>| text.map(|text| text.plain).unwrap_or_default();
        let applications = vm.integration().applications.list()?.applications.into_iter();
        Ok(applications
            .filter(|application| !application.hidden)
            .map(|application| {
                (application.id, plain(application.name), plain(application.comment))
            })
            .collect())
    }

    /// Launches an application with files (absolute paths) and URLs; the VM is started or resumed first. Answers when
    /// the guest has started it.
    async fn launch(&self, application: String, targets: Vec<String>) -> Result<(), Refusal> {
        self.0.check_policy()?;
        let request = ControlLaunchRequest {
            name: self.0.name.clone(),
            application,
            action: String::new(),
            targets: targets.into_iter().map(String::into_bytes).collect(),
            patience: LAUNCH_PATIENCE,
        };
        let (to, mut steps) = tokio::sync::mpsc::channel(1);
        let launching = launch::launch(self.0.vms.clone(), request, to);
        let listening = async {
            let mut launched = Err(Problem::failed("the launch has no end"));
            while let Some(step) = steps.recv().await {
                match step {
                    Ok(step) if matches!(step.progress, Some(Progress::Launched(_))) => {
                        launched = Ok(());
                    }
                    Ok(_) => {}
                    Err(status) => launched = Err(Problem::from(status)),
                }
            }
            launched
        };
        let ((), launched) = tokio::join!(launching, listening);
        Ok(launched?)
    }
}
