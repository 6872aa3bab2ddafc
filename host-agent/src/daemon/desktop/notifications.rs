//! Notifications on the host's desktop, and what becomes of each.
//!
//! The notification service is another program of the session and may go and come: what it showed is then
//! gone, and the one who showed it is told so.

use super::bus::Bus;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_stream::StreamExt;
use zbus::{Proxy, Variant};

const SERVICE: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is shown. All texts are plain; what comes from a guest has been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::daemon) struct Content {
    /// Who shows it.
    pub(in crate::daemon) application: String,
    /// The title.
    pub(in crate::daemon) summary: String,
    /// May have several lines.
    pub(in crate::daemon) body: String,
    /// Beside the text.
    pub(in crate::daemon) picture: Option<Picture>,
    /// Key and label of each button.
    pub(in crate::daemon) actions: Vec<(String, String)>,
    /// It may be shown with less care.
    pub(in crate::daemon) low: bool,
    /// How long it stays; as long as the service likes unless given.
    pub(in crate::daemon) timeout: Option<Duration>,
}

/// Rows of red, green, blue and opacity, 8 bits each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Picture {
    pub(in crate::daemon) width: u16,
    pub(in crate::daemon) height: u16,
    pub(in crate::daemon) rows: Vec<u8>,
}

/// What became of a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Happened {
    /// It is not shown any more.
    Closed,
    /// The person chose the action with this key.
    Action(String),
}

/// Is told what became of a notification, by the service's number. Returns soon.
pub(in crate::daemon) type Listener = Arc<dyn Fn(u32, Happened) + Send + Sync>;

/// See the module.
#[derive(Debug)]
pub(in crate::daemon) struct Notifications {
    bus: Arc<Bus>,
    /// Held while one is shown, so that nothing is heard of a notification before its number is known.
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    service: Option<Service>,
    listeners: BTreeMap<u32, Listener>,
}

/// The service as it is there now.
#[derive(Clone, Debug)]
struct Service {
    connection: zbus::Connection,
    proxy: Proxy<'static>,
    /// Bodies are markup.
    markup: bool,
    actions: bool,
    _listening: Arc<Listening>,
}

/// The task that hears signals.
#[derive(Debug)]
struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: Vec<_> = self.listeners.keys().collect();
        f.debug_struct("State").field("service", &self.service).field("shown", &shown).finish()
    }
}

fn late(_: tokio::time::error::Elapsed) -> zbus::Error {
    zbus::Error::Failure("the notification service does not answer".to_owned())
}

impl Notifications {
    pub(in crate::daemon) fn new(bus: Arc<Bus>) -> Self {
        Self { bus, state: Arc::default() }
    }

    /// Shows `content`, in place of the notification `replaces` unless that is 0, and says its number.
    ///
    /// # Errors
    /// There is no bus or no service, or it does not answer.
    pub(in crate::daemon) async fn show(
        &self,
        content: &Content,
        replaces: u32,
        listener: Listener,
    ) -> zbus::Result<u32> {
        let mut state = self.state.lock().await;
        let showing = async {
            let service = self.service(&mut state).await?;
            // A number of a service that has gone means nothing to the next.
            let replaces = if state.listeners.contains_key(&replaces) { replaces } else { 0 };
            service.notify(content, replaces).await
        };
        let id = tokio::time::timeout(PATIENCE, showing).await.map_err(late)??;
        state.listeners.insert(id, listener);
        Ok(id)
    }

    /// Takes notifications back. Nobody hears of it.
    pub(in crate::daemon) async fn close(&self, ids: &[u32]) {
        let mut state = self.state.lock().await;
        for id in ids {
            if state.listeners.remove(id).is_some()
                && let Some(service) = &state.service
            {
                // It may have gone by itself.
                let number = (*id,);
                let closing = service.proxy.call_noreply("CloseNotification", &number);
                let _ = tokio::time::timeout(PATIENCE, closing).await;
            }
        }
    }

    async fn service(&self, state: &mut State) -> zbus::Result<Service> {
        if let Some(service) = &state.service
            && !service.connection.is_closed()
        {
            return Ok(service.clone());
        }
        state.all_closed();
        let connection = self.bus.connection().await?;
        let proxy = Proxy::new(&connection, SERVICE, PATH, SERVICE).await?;
        let capabilities: Vec<String> = proxy.call("GetCapabilities", &()).await?;
        let has = |name: &str| capabilities.iter().any(|capability| capability == name);
        let signals = Signals {
            chosen: proxy.receive_signal("ActionInvoked").await?,
            closed: proxy.receive_signal("NotificationClosed").await?,
            owner: proxy.receive_owner_changed().await?,
            connection: connection.clone(),
        };
        let listening = tokio::spawn(signals.hear(Arc::downgrade(&self.state)));
        let service = Service {
            connection,
            proxy,
            markup: has("body-markup"),
            actions: has("actions"),
            _listening: Arc::new(Listening(listening.abort_handle())),
        };
        state.service = Some(service.clone());
        Ok(service)
    }
}

/// What the service tells.
struct Signals {
    chosen: zbus::proxy::SignalStream<'static>,
    closed: zbus::proxy::SignalStream<'static>,
    owner: zbus::proxy::OwnerChangedStream<'static>,
    connection: zbus::Connection,
}

impl Signals {
    async fn hear(mut self, state: Weak<Mutex<State>>) {
        loop {
            let heard = tokio::select! {
                biased;
                Some(signal) = self.chosen.next() => signal
                    .body()
                    .deserialize::<(u32, String)>()
                    .map(|(id, key)| Some((id, Happened::Action(key)))),
                Some(signal) = self.closed.next() => signal
                    .body()
                    .deserialize::<(u32, u32)>()
                    .map(|(id, _)| Some((id, Happened::Closed))),
                Some(_) = self.owner.next() => Ok(None),
                () = self.connection.closed() => Ok(None),
            };
            let Some(state) = state.upgrade() else {
                return;
            };
            let mut state = state.lock().await;
            match heard {
                Ok(Some((id, happened))) => state.tell(id, happened),
                Ok(None) => {
                    tracing::info!("the desktop's notification service has changed");
                    state.all_closed();
                    return;
                }
                Err(error) => tracing::warn!(%error, "a signal of the notification service"),
            }
        }
    }
}

impl State {
    fn tell(&mut self, id: u32, happened: Happened) {
        let listener = match happened {
            Happened::Closed => self.listeners.remove(&id),
            Happened::Action(_) => self.listeners.get(&id).cloned(),
        };
        if let Some(listener) = listener {
            listener(id, happened);
        }
    }

    fn all_closed(&mut self) {
        self.service = None;
        for (id, listener) in std::mem::take(&mut self.listeners) {
            listener(id, Happened::Closed);
        }
    }
}

impl Service {
    async fn notify(&self, content: &Content, replaces: u32) -> zbus::Result<u32> {
        let body = if self.markup { escaped(&content.body) } else { content.body.clone() };
        let mut hints: HashMap<&str, Variant<'_>> = HashMap::new();
        hints.insert("urgency", Variant::from(u8::from(!content.low)));
        if let Some(picture) = &content.picture {
            hints.insert("image-data", picture.hint());
        }
        let actions: Vec<&str> = match self.actions {
            true => content.actions.iter().flat_map(|(key, label)| [key.as_str(), label]).collect(),
            false => Vec::new(),
        };
        let timeout = content
            .timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
        let arguments =
            (&content.application, replaces, "", &content.summary, body, actions, hints, timeout);
        self.proxy.call("Notify", &arguments).await
    }
}

impl Picture {
    /// As the specification's `image-data`: `(iiibiiay)`.
    fn hint(&self) -> Variant<'_> {
        let (width, height) = (i32::from(self.width), i32::from(self.height));
        Variant::from((width, height, width * 4, true, 8, 4, self.rows.as_slice()))
    }
}

/// Text as the markup of notifications has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
