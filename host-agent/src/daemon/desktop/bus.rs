//! The session's message bus: connected to when something is first wanted of it, and anew when it has gone.

use std::time::Duration;
use tokio::sync::Mutex;
use zbus::Connection;

/// How long a bus may take to let the daemon in.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Bus {
    /// Instead of the one that the environment names.
    address: Option<String>,
    connection: Mutex<Option<Connection>>,
}

impl Bus {
    /// The bus at an address.
    #[cfg(test)]
    pub(in crate::daemon) fn at(address: &str) -> Self {
        Self { address: Some(address.to_owned()), ..Self::default() }
    }

    /// The connection, made when there is none.
    ///
    /// # Errors
    /// There is no bus, or it does not answer.
    pub(in crate::daemon) async fn connection(&self) -> zbus::Result<Connection> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let builder = match &self.address {
            Some(address) => zbus::connection::Builder::address(address.as_str()),
            None => zbus::connection::Builder::session(),
        };
        let made = tokio::time::timeout(PATIENCE, builder.build()).await;
        let made =
            made.map_err(|_| zbus::Error::Failure("the bus does not answer".to_owned()))??;
        *held = Some(made.clone());
        Ok(made)
    }
}
