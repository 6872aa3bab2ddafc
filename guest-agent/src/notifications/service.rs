//! `org.freedesktop.Notifications` on the session's bus (Desktop Notifications Specification 1.2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use agent_link::Channel;
use proto::v1::host_client::HostClient;
use proto::v1::{CloseNotificationRequest, Notification, NotificationAction, NotificationUrgency};
use tonic::Code;
use zbus::fdo::{Error, RequestNameFlags};
use zbus::message::Header;
use zbus::{OwnedVariant, interface};

use super::shown::Shown;
use super::{lock, picture, text};

/// Where the object is.
pub(super) const PATH: &str = "/org/freedesktop/Notifications";
const NAME: &str = "org.freedesktop.Notifications";

/// Reasons of `NotificationClosed`, as the specification numbers them. The host does not tell whether a
/// notification expired or was dismissed.
pub(super) const EXPIRED_OR_DISMISSED: u32 = 2;
const TAKEN_BACK: u32 = 3;
const UNDEFINED: u32 = 4;

/// Limits of [`Notification`], as the protocol says.
const LONGEST_APPLICATION: usize = 128;
const LONGEST_SUMMARY: usize = 256;
const LONGEST_BODY: usize = 2048;
const MOST_ACTIONS: usize = 4;
const LONGEST_ACTION: usize = 64;

/// What hints a program gives beside the texts.
type Hints = HashMap<String, OwnedVariant>;

/// See the module.
#[derive(Debug)]
pub(super) struct Service {
    host: HostClient<Channel>,
    shown: Arc<Mutex<Shown>>,
}

/// Asks for the name and waits in line for it. Another service that wants to replace this one may.
pub(super) async fn wait_in_line(bus: &zbus::Connection) -> zbus::Result<()> {
    let reply = bus.request_name_with_flags(NAME, RequestNameFlags::ALLOW_REPLACEMENT).await?;
    tracing::info!(?reply, "notifications of the session");
    Ok(())
}

/// Tells the program at `owner` that its notification is gone.
pub(super) async fn closed(
    bus: &zbus::Connection,
    owner: &str,
    id: u32,
    reason: u32,
) -> zbus::Result<()> {
    bus.emit_signal(Some(owner), PATH, NAME, "NotificationClosed", &(id, reason)).await
}

/// Tells the program at `owner` which action was chosen.
pub(super) async fn action_invoked(
    bus: &zbus::Connection,
    owner: &str,
    id: u32,
    key: &str,
) -> zbus::Result<()> {
    bus.emit_signal(Some(owner), PATH, NAME, "ActionInvoked", &(id, key)).await
}

impl Service {
    pub(super) fn new(host: HostClient<Channel>, shown: Arc<Mutex<Shown>>) -> Self {
        Self { host, shown }
    }
}

fn owner(header: &Header<'_>) -> Result<String, Error> {
    let sender = header.sender().ok_or_else(|| Error::AccessDenied("a call of nobody".into()))?;
    Ok(sender.to_string())
}

/// The host's refusal in D-Bus's words.
fn refusal(status: &tonic::Status) -> Error {
    let message = status.message().to_owned();
    match status.code() {
        Code::PermissionDenied => Error::AccessDenied(message),
        Code::ResourceExhausted => Error::LimitsExceeded(message),
        Code::InvalidArgument => Error::InvalidArgs(message),
        _ => Error::Failed(message),
    }
}

fn urgency(hints: &Hints) -> NotificationUrgency {
    match hints.get("urgency").and_then(|hint| hint.downcast_ref::<u8>().ok()) {
        Some(0) => NotificationUrgency::Low,
        Some(2) => NotificationUrgency::Critical,
        _ => NotificationUrgency::Normal,
    }
}

/// Pairs of key and label. One that does not fit is left out: a key cannot be cut.
fn actions(words: &[String]) -> Vec<NotificationAction> {
    let pairs = words.chunks_exact(2);
    let fitting = pairs.filter(|pair| {
        let key = &pair[0];
        !key.is_empty() && key.len() <= LONGEST_ACTION && text::line(key, LONGEST_ACTION) == *key
    });
    fitting
        .take(MOST_ACTIONS)
        .map(|pair| NotificationAction {
            key: pair[0].clone(),
            label: text::line(&pair[1], LONGEST_ACTION),
        })
        .collect()
}

#[interface(name = "org.freedesktop.Notifications")]
impl Service {
    /// Markup is not among them: bodies are plain text.
    fn get_capabilities(&self) -> Vec<&'static str> {
        vec!["actions", "body", "icon-static"]
    }

    #[zbus(out_args("name", "vendor", "version", "spec_version"))]
    fn get_server_information(&self) -> (&'static str, &'static str, &'static str, &'static str) {
        ("macrohard-guest-agent", "macrohard", env!("CARGO_PKG_VERSION"), "1.2")
    }

    #[expect(clippy::too_many_arguments, reason = "the specification has them")]
    async fn notify(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &zbus::Connection,
        app_name: String,
        replaces_id: u32,
        app_icon: String,
        summary: String,
        body: String,
        actions: Vec<String>,
        hints: Hints,
        expire_timeout: i32,
    ) -> Result<u32, Error> {
        let owner = owner(&header)?;
        let urgency = urgency(&hints).into();
        let icon = tokio::task::spawn_blocking(move || picture::of(&hints, &app_icon)).await;
        let icon = icon.unwrap_or_else(|_| Ok(Vec::new())).unwrap_or_else(|problem| {
            tracing::debug!(%problem, "a notification goes without its picture");
            Vec::new()
        });
        let (id, given_way) = lock(&self.shown).add(&owner, replaces_id);
        let mut host = self.host.clone();
        if let Some(id) = given_way {
            let _ = host.close_notification(CloseNotificationRequest { id }).await;
        }
        let notification = Notification {
            id,
            application: text::line(&app_name, LONGEST_APPLICATION),
            summary: text::line(&summary, LONGEST_SUMMARY),
            body: text::lines(&body, LONGEST_BODY),
            urgency,
            icon,
            actions: self::actions(&actions),
            // -1 and 0 leave it to the one who shows it.
            timeout: u32::try_from(expire_timeout).unwrap_or(0),
        };
        match host.notify(notification).await {
            Ok(_) => Ok(id),
            Err(status) => {
                // One that was shown before under this number is not any more, as far as is known.
                if lock(&self.shown).remove(id).is_some() && id == replaces_id {
                    let _ = closed(bus, &owner, id, UNDEFINED).await;
                }
                Err(refusal(&status))
            }
        }
    }

    async fn close_notification(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &zbus::Connection,
        id: u32,
    ) -> Result<(), Error> {
        let asking = owner(&header)?;
        {
            let mut shown = lock(&self.shown);
            if shown.owner(id).is_none_or(|owner| owner != asking) {
                return Err(Error::Failed(String::new()));
            }
            shown.remove(id);
        }
        let told = self.host.clone().close_notification(CloseNotificationRequest { id }).await;
        closed(bus, &asking, id, TAKEN_BACK).await?;
        told.map(|_| ()).map_err(|status| refusal(&status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_fit_or_are_left_out() {
        let words =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let long = "x".repeat(65);
        let all =
            words(&["default", "Open", &long, "no", "a\nb", "no", "", "no", "b", &long, "odd"]);
        let fitting = actions(&all);
        let keys: Vec<_> = fitting.iter().map(|action| action.key.as_str()).collect();
        assert_eq!(keys, ["default", "b"]);
        assert_eq!(fitting[1].label.len(), LONGEST_ACTION);
        let many = words(&["a", "1", "b", "2", "c", "3", "d", "4", "e", "5"]);
        assert_eq!(actions(&many).len(), MOST_ACTIONS);
    }
}
