//! An item in the desktop's tray for each running VM that has windows or a screen: org.kde.StatusNotifierItem, which
//! Plasma, Xfce, LXQt, Cinnamon, MATE, and GNOME with an extension, show. Its icon has the VM's colour; a click switches
//! between seamless windows and the guest's screen; its menu does so, too, and stops the VM.
//!
//! Items are there while there is a watcher to register them with. Each has a connection of its own, for a watcher
//! forgets an item when its connection ends and knows no other way.

mod icon;
mod item;
mod menu;
mod subject;

use crate::daemon::vms::Vms;
use item::Item;
use std::collections::BTreeMap;
use std::time::Duration;
use subject::View;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::StreamExt;
use zbus::Connection;
use zbus::fdo::DBusProxy;

/// Who has the list of items for those who show them.
const WATCHER: &str = "org.kde.StatusNotifierWatcher";
/// How long a watcher may take to take an item.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the items until the bus goes.
///
/// # Errors
/// The bus does not tell who is on it.
pub(super) async fn keep(connection: &Connection, vms: &Vms) -> zbus::Result<()> {
    let mut events = vms.events();
    let mut definitions = vms.definitions();
    let mut windows = vms.windows_changed();
    let bus = DBusProxy::new(connection).await?;
    let mut owners = bus.receive_name_owner_changed_with_args(&[(0, WATCHER)]).await?;
    let mut watched = bus.name_has_owner(WATCHER.try_into()?).await?;
    let mut items = BTreeMap::new();
    loop {
        if watched {
            update(vms, &mut items).await;
        }
        tokio::select! {
            owner = owners.next() => {
                let Some(owner) = owner else { return Ok(()) };
                watched = owner.args()?.new_owner().is_some();
                tracing::debug!(watched, "the desktop's tray has changed");
                // Another watcher knows none of them.
                for item in std::mem::take(&mut items).into_values() {
                    item.remove().await;
                }
            }
            // What is so now is looked for in any case.
            event = events.recv() => if let Err(RecvError::Closed) = event {
                return Ok(());
            },
            changed = definitions.changed() => if changed.is_err() {
                return Ok(());
            },
            changed = windows.changed() => if changed.is_err() {
                return Ok(());
            },
            () = connection.closed() => return Ok(()),
        }
        while events.try_recv().is_ok() {}
    }
}

/// Has the tray show what there is.
async fn update(vms: &Vms, items: &mut BTreeMap<String, Item>) {
    let mut views: BTreeMap<String, View> = vms
        .known()
        .into_iter()
        .filter_map(|(name, vm)| {
            let view = View::new(vm.integration().windows.looks()?, vms.store(), &name);
            Some((name, view))
        })
        .collect();
    let mut left = BTreeMap::new();
    for (name, item) in std::mem::take(items) {
        match views.remove(&name) {
            // One whose connection has ended is made anew with the next change.
            Some(view) => match item.show(view).await {
                Ok(()) => drop(left.insert(name, item)),
                Err(error) => {
                    tracing::warn!(vm = name, %error, "an item of the tray");
                    item.remove().await;
                }
            },
            None => item.remove().await,
        }
    }
    for (name, view) in views {
        match Item::register(vms, &name, view).await {
            Ok(item) => drop(left.insert(name, item)),
            Err(error) => tracing::warn!(vm = name, %error, "a VM is not in the tray"),
        }
    }
    *items = left;
}
