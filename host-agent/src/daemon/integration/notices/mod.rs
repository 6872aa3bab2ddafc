//! Notifications of a VM, and URLs it opens.
//!
//! Both come from programs of the guest, so both are checked ([`check`], [`urls`]) and bounded ([`rate`]), and
//! what the person sees says which VM it is of. A notification lives as long as the agent that brought it.

mod check;
mod rate;
mod shown;
mod urls;

use super::About;
use crate::daemon::agents::Agent;
use crate::daemon::desktop::ask::{Answer, Question};
use crate::daemon::desktop::browser;
use crate::daemon::desktop::notifications::{Content, Happened, Listener};
use crate::untrusted::Untrusted;
use agent_link::Role;
use definition::Permission;
use proto::v1::notification_event_request::Event;
use proto::v1::{
    Feature, Notification, NotificationClosed, NotificationEventRequest, OpenUrlRequest,
};
use rate::{Rate, Refusals};
use shown::Shown;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::Status;

/// Notifications of a VM in any ten seconds.
const NOTIFICATIONS: (usize, Duration) = (10, Duration::from_secs(10));
/// URLs of a VM in any ten seconds.
const URLS: (usize, Duration) = (5, Duration::from_secs(10));
/// How long an agent may take to hear what became of a notification.
const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(in crate::daemon) struct Notices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    about: Arc<About>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    agents: BTreeMap<Role, Agent>,
    shown: Shown,
    notifications: Rate,
    urls: Rate,
    refusals: Refusals,
    held_back: HeldBack,
    /// Agents that have left, ever: tells whether one did meanwhile.
    departures: u64,
}

/// Notifications that came too fast since the last one that was shown.
#[derive(Debug, Default)]
struct HeldBack {
    count: u64,
    /// The notification that says so.
    notice: u32,
}

impl Notices {
    pub(in crate::daemon) fn new(about: Arc<About>) -> Self {
        let state = State {
            agents: BTreeMap::new(),
            shown: Shown::default(),
            notifications: Rate::new(NOTIFICATIONS.0, NOTIFICATIONS.1),
            urls: Rate::new(URLS.0, URLS.1),
            refusals: Refusals::new(),
            held_back: HeldBack::default(),
            departures: 0,
        };
        Self(Arc::new(Inner { about, state: Mutex::new(state) }))
    }

    pub(in crate::daemon) fn came(&self, agent: &Agent) {
        if agent.can(Feature::Notifications) {
            self.0.state().agents.insert(agent.role, agent.clone());
        }
    }

    pub(in crate::daemon) fn left(&self, role: Role) {
        let gone = {
            let mut state = self.0.state();
            state.departures += 1;
            state.agents.remove(&role);
            state.shown.remove_all_of(role)
        };
        self.0.take_back(gone);
    }

    pub(in crate::daemon) fn ended(&self) {
        let gone = {
            let mut state = self.0.state();
            state.departures += 1;
            state.agents.clear();
            let mut gone = state.shown.remove_all();
            gone.extend(std::mem::take(&mut state.held_back).notice());
            gone
        };
        self.0.take_back(gone);
    }

    /// Shows a notification.
    pub(in crate::daemon) async fn notify(
        &self,
        role: Role,
        notification: Notification,
    ) -> Result<(), Status> {
        self.0.notify(role, notification).await
    }

    /// Takes one back.
    pub(in crate::daemon) async fn close(&self, role: Role, id: u32) -> Result<(), Status> {
        // One that is closed already, or never was, is closed.
        let gone = self.0.state().shown.remove(role, id);
        if let Some(gone) = gone {
            self.0.about.desktop.notifications.close(&[gone]).await;
        }
        Ok(())
    }

    /// Opens a URL with the host's browser.
    pub(in crate::daemon) async fn open_url(
        &self,
        _role: Role,
        request: OpenUrlRequest,
    ) -> Result<(), Status> {
        self.0.open_url(request).await
    }
}

impl HeldBack {
    fn notice(&self) -> Option<u32> {
        (self.notice != 0).then_some(self.notice)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, what: &str, status: Status) -> Status {
        self.state().refusals.add(&self.about.vm, what, status.message(), Instant::now());
        status
    }

    async fn notify(
        self: &Arc<Self>,
        role: Role,
        notification: Notification,
    ) -> Result<(), Status> {
        let refused = |status| self.refused("a notification", status);
        let wanted = self.about.definition().is_some_and(|vm| vm.integration.notifications);
        if !wanted {
            let message = "the VM's settings let no notifications through";
            return Err(refused(Status::permission_denied(message)));
        }
        if !self.state().notifications.take(Instant::now()) {
            self.hold_back().await;
            return Err(refused(Status::resource_exhausted("too many notifications at once")));
        }
        let id = notification.id;
        let vm = self.about.vm.clone();
        // Unpacking a picture takes a moment.
        let checking =
            tokio::task::spawn_blocking(move || check::content(&vm, Untrusted::new(notification)));
        let checked = checking.await.map_err(|error| Status::internal(error.to_string()))?;
        let content =
            checked.map_err(|problem| refused(Status::invalid_argument(problem.to_string())))?;
        let (replaces, departures) = {
            let state = self.state();
            (state.shown.number(role, id).unwrap_or(0), state.departures)
        };
        let number = self.show(&content, replaces).await?;
        let gone = {
            let mut state = self.state();
            let mut gone = state.shown.add(role, id, number);
            if state.departures != departures && !state.agents.contains_key(&role) {
                gone.extend(state.shown.remove(role, id));
            }
            gone
        };
        self.take_back(gone);
        self.say_how_many().await;
        Ok(())
    }

    async fn show(self: &Arc<Self>, content: &Content, replaces: u32) -> Result<u32, Status> {
        let notices = Arc::downgrade(self);
        let listener: Listener = Arc::new(move |number, happened| {
            if let Some(notices) = notices.upgrade() {
                notices.happened(number, happened);
            }
        });
        let shown = self.about.desktop.notifications.show(content, replaces, listener).await;
        shown.map_err(|error| {
            let message = format!("the host's desktop shows no notifications: {error}");
            self.refused("a notification", Status::unavailable(message))
        })
    }

    /// Says once that notifications come too fast.
    async fn hold_back(self: &Arc<Self>) {
        {
            let mut state = self.state();
            state.held_back.count += 1;
            if state.held_back.count > 1 {
                return;
            }
        }
        let summary = format!("{}: more notifications are held back", self.about.vm);
        let (most, span) = (NOTIFICATIONS.0, NOTIFICATIONS.1.as_secs());
        let body = format!("At most {most} in {span} seconds are shown.");
        let before = self.state().held_back.notice;
        if let Ok(number) = self.show(&self.own(summary, body), before).await {
            self.state().held_back.notice = number;
        }
    }

    /// Says how many were held back, now that they come slower.
    async fn say_how_many(self: &Arc<Self>) {
        let (count, notice) = {
            let mut state = self.state();
            (std::mem::take(&mut state.held_back.count), state.held_back.notice)
        };
        if count == 0 {
            return;
        }
        tracing::warn!(vm = self.about.vm, count, "notifications were held back");
        let summary = format!("{}: {count} notifications were held back", self.about.vm);
        if let Ok(number) = self.show(&self.own(summary, String::new()), notice).await {
            self.state().held_back.notice = number;
        }
    }

    /// Something that the daemon itself says of the VM.
    fn own(&self, summary: String, body: String) -> Content {
        let application = "macrohard-hypervisor".to_owned();
        Content { application, summary, body, low: true, ..Content::default() }
    }

    /// Closes notifications in its own time.
    fn take_back(&self, numbers: Vec<u32>) {
        if numbers.is_empty() {
            return;
        }
        let desktop = Arc::clone(&self.about.desktop);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { desktop.notifications.close(&numbers).await });
        }
    }

    /// Tells the guest what became of its notification.
    fn happened(&self, number: u32, happened: Happened) {
        let (agent, id) = {
            let mut state = self.state();
            if happened == Happened::Closed && state.held_back.notice == number {
                state.held_back.notice = 0;
            }
            let Some((role, id)) = state.shown.owner(number) else {
                return;
            };
            if happened == Happened::Closed {
                state.shown.remove(role, id);
            }
            let Some(agent) = state.agents.get(&role).cloned() else {
                return;
            };
            (agent, id)
        };
        let event = match happened {
            Happened::Closed => Event::Closed(NotificationClosed {}),
            Happened::Action(key) => Event::Action(key),
        };
        let request = NotificationEventRequest { id, event: Some(event) };
        let vm = self.about.vm.clone();
        tokio::spawn(async move {
            let telling = async { agent.client().notification_event(request).await };
            match tokio::time::timeout(CALL_PATIENCE, telling).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => {
                    let problem = crate::daemon::agents::problem(status);
                    tracing::debug!(vm, %problem, "a notification's event is lost");
                }
                Err(_) => tracing::debug!(vm, "the guest's agent does not answer"),
            }
        });
    }

    async fn open_url(&self, request: OpenUrlRequest) -> Result<(), Status> {
        let refused = |status| self.refused("a URL", status);
        let policy = self.about.definition().map(|vm| vm.integration.open_url);
        let policy = policy.unwrap_or(Permission::Off);
        if policy == Permission::Off {
            let message = "the VM's settings let it open no URLs on the host";
            return Err(refused(Status::permission_denied(message)));
        }
        if !self.state().urls.take(Instant::now()) {
            return Err(refused(Status::resource_exhausted("too many URLs at once")));
        }
        let url = urls::check(Untrusted::new(request.url))
            .map_err(|problem| refused(Status::invalid_argument(problem.to_string())))?;
        if policy == Permission::Ask {
            let question = Question {
                vm: self.about.vm.clone(),
                summary: "open a link on this computer?".to_owned(),
                body: urls::question(&url),
            };
            if let Answer::Denied(denial) = self.about.desktop.asking.ask(question).await {
                return Err(refused(Status::permission_denied(denial.to_string())));
            }
        }
        browser::open(&url).await.map_err(|problem| {
            tracing::warn!(vm = self.about.vm, %problem, "a URL is not opened");
            Status::from(problem)
        })?;
        tracing::info!(
            vm = self.about.vm,
            scheme = url.scheme(),
            host = url.host_str(),
            "a URL is open"
        );
        Ok(())
    }
}
