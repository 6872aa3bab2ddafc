//! The VMs on the session's message bus, for desktop shells: one object per VM below [`ROOT`], which tells of those
//! that come and go as `org.freedesktop.DBus.ObjectManager` does.
//!
//! What stands there is always a copy of what the daemon finds when something has changed. Whoever may connect to the
//! session's bus is the user, as whoever may open the daemon's socket; a VM's definition can say `bus-control = false`,
//! and then it can only be looked at.
//!
//! Those that run and have windows are in the desktop's tray, too ([`tray`]).

mod machine;
mod tray;

use super::vms::Vms;
use crate::lifecycle::VmState;
use machine::Machine;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use zbus::Connection;
use zbus::fdo::{ObjectManager, RequestNameFlags};

/// The name on the bus.
const NAME: &str = "org.macrohard.Hypervisor1";
/// The object that knows all others.
const ROOT: &str = "/org/macrohard/Hypervisor1";
/// How long a bus may take to let the daemon in.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before the bus is tried again, doubled with each try in vain: a session may begin after the daemon.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Keeps the VMs on the bus for as long as this is polled.
pub(super) async fn serve(vms: Vms) {
    let mut pause = FIRST_PAUSE;
    loop {
        let connected = match tokio::time::timeout(PATIENCE, connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(zbus::Error::Failure("the bus does not answer".to_owned())),
        };
        match connected {
            Ok(connection) => {
                pause = FIRST_PAUSE;
                let on_bus = async {
                    let (presented, ()) =
                        tokio::join!(present(&connection, &vms), in_tray(&connection, &vms));
                    presented
                };
                match on_bus.await {
                    Ok(()) => tracing::info!("the session's bus has gone"),
                    Err(error) => tracing::warn!(%error, "the VMs are not on the session's bus"),
                }
            }
            Err(error) => tracing::debug!(%error, "no session bus"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect() -> zbus::Result<Connection> {
    zbus::connection::Builder::session().serve_at(ROOT, ObjectManager).build().await
}

/// Until the bus goes. A desktop without a tray is as good as any.
async fn in_tray(connection: &Connection, vms: &Vms) {
    if let Err(error) = tray::keep(connection, vms).await {
        tracing::warn!(%error, "the VMs are not in the desktop's tray");
    }
}

/// Until the bus goes.
async fn present(connection: &Connection, vms: &Vms) -> zbus::Result<()> {
    let mut events = vms.events();
    let mut definitions = vms.definitions();
    let mut shown = BTreeMap::new();
    update(connection, vms, &mut shown).await?;
    // All are there before anybody can look. Another daemon of this session keeps the name.
    let flags = RequestNameFlags::DO_NOT_QUEUE;
    connection.request_name_with_flags(NAME, flags).await?;
    tracing::info!(name = NAME, "the VMs are on the session's bus");
    loop {
        tokio::select! {
            // The newest is looked for in any case.
            event = events.recv() => if let Err(RecvError::Closed) = event {
                return Ok(());
            },
            changed = definitions.changed() => if changed.is_err() {
                return Ok(());
            },
            () = connection.closed() => return Ok(()),
        }
        while events.try_recv().is_ok() {}
        update(connection, vms, &mut shown).await?;
    }
}

/// Has the bus show what there is.
async fn update(
    connection: &Connection,
    vms: &Vms,
    shown: &mut BTreeMap<String, Arc<Machine>>,
) -> zbus::Result<()> {
    let states = match vms.states().await {
        Ok(states) => states,
        Err(problem) => {
            tracing::warn!(%problem, "which VMs there are is not known");
            return Ok(());
        }
    };
    let gone: Vec<String> =
        shown.keys().filter(|name| !states.contains_key(*name)).cloned().collect();
    for name in gone {
        shown.remove(&name);
        connection.object_server().remove::<machine::Object, _>(path(&name)).await?;
    }
    for (name, state) in states {
        match shown.get(&name) {
            Some(machine) => tell(connection, &name, machine, state).await?,
            None => {
                let machine = Arc::new(Machine::new(vms.clone(), &name, state));
                let object = machine::Object(Arc::clone(&machine));
                connection.object_server().at(path(&name), object).await?;
                shown.insert(name, machine);
            }
        }
    }
    Ok(())
}

async fn tell(
    connection: &Connection,
    name: &str,
    machine: &Machine,
    state: VmState,
) -> zbus::Result<()> {
    let (changed, policy) = machine.now(state);
    if changed || policy {
        let object = connection.object_server().interface::<_, machine::Object>(path(name)).await?;
        let (emitter, held) = (object.signal_emitter(), object.get().await);
        if changed {
            held.state_changed(emitter).await?;
        }
        if policy {
            held.controllable_changed(emitter).await?;
        }
    }
    Ok(())
}

/// A VM's object. What a path has no letters for stands there as `_` and two hexadecimal digits for each byte.
fn path(name: &str) -> String {
    let mut path = format!("{ROOT}/vm/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_path_of_its_own() {
        for (name, expected) in
            [("vm", "vm"), ("a-b.c", "a_2db_2ec"), ("a_2d", "a_5f2d"), ("ü", "_c3_bc")]
        {
            let path = path(name);
            assert_eq!(path, format!("{ROOT}/vm/{expected}"));
            assert!(zbus::ObjectPath::try_from(path.as_str()).is_ok());
        }
    }
}
