//! Asking an application over D-Bus to do something (Desktop Entry Specification 1.5, section 8).

use std::collections::HashMap;
use std::time::Duration;

use zbus::connection::Builder;
use zbus::names::WellKnownName;
use zbus::{Connection, Variant};

use super::session::Session;

const INTERFACE: &str = "org.freedesktop.Application";
/// How long an application may take to come and answer: a bus waits 25 s for one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an application is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask<'a> {
    Activate,
    Open(&'a [String]),
    Action(&'a str),
}

/// Why it has not done so.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAsked {
    /// There is nobody to ask: it can be started in another way.
    #[error("{0}")]
    Nobody(String),
    /// It was asked and does not answer.
    #[error("it does not answer on D-Bus within {} s", PATIENCE.as_secs())]
    Silent,
}

/// Where the session's bus is.
fn address(session: &Session) -> Option<String> {
    if let Some(address) = session.get("DBUS_SESSION_BUS_ADDRESS") {
        return address.to_str().map(str::to_owned);
    }
    let socket = session.folder("XDG_RUNTIME_DIR")?.join("bus");
    socket.exists().then(|| format!("unix:path={}", socket.display()))
}

/// The object of an application: its name with `/` for `.` and `_` for `-`.
fn object(id: &str) -> String {
    format!("/{}", id.replace('.', "/").replace('-', "_"))
}

/// Asks the application with this id.
pub(super) async fn ask(session: &Session, id: &str, ask: Ask<'_>) -> Result<(), NotAsked> {
    let nobody = |error: &dyn std::fmt::Display| NotAsked::Nobody(error.to_string());
    let name = WellKnownName::try_from(id).map_err(|error| nobody(&error))?;
    let address = address(session).ok_or_else(|| nobody(&"there is no session bus"))?;
    let connecting = Builder::address(address.as_str()).build();
    let connection = tokio::time::timeout(PATIENCE, connecting)
        .await
        .map_err(|_| nobody(&"the session bus does not answer"))?
        .map_err(|error| nobody(&error))?;
    match tokio::time::timeout(PATIENCE, call(&connection, &name, ask)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(nobody(&error)),
        Err(_) => Err(NotAsked::Silent),
    }
}

async fn call(connection: &Connection, name: &WellKnownName<'_>, ask: Ask<'_>) -> zbus::Result<()> {
    let object = object(name);
    let (name, object, interface) = (Some(name), object.as_str(), Some(INTERFACE));
    let platform: HashMap<&str, Variant<'_>> = HashMap::new();
    let answer = match ask {
        Ask::Activate => {
            connection.call_method(name, object, interface, "Activate", &(platform,)).await
        }
        Ask::Open(urls) => {
            connection.call_method(name, object, interface, "Open", &(urls, platform)).await
        }
        Ask::Action(action) => {
            let parameters: Vec<Variant<'_>> = Vec::new();
            let body = (action, parameters, platform);
            connection.call_method(name, object, interface, "ActivateAction", &body).await
        }
    };
    answer.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applications_object_is_named_after_it() {
        assert_eq!(object("org.gnome.Text-Editor"), "/org/gnome/Text_Editor");
    }

    #[tokio::test]
    async fn without_a_bus_or_a_name_for_one_nobody_is_asked() {
        let session = Session::of(&[("XDG_RUNTIME_DIR", "/nowhere")]);
        for id in ["org.x.Editor", "editor", "-"] {
            let asked = ask(&session, id, Ask::Activate).await;
            assert!(matches!(asked, Err(NotAsked::Nobody(_))), "{id}");
        }
    }
}
