//! An item and its connection: `org.kde.StatusNotifierItem`, as
//! <https://www.freedesktop.org/wiki/Specifications/StatusNotifierItem/> has it and as Plasma has it where the two
//! differ.

use super::icon::{Pixmap, pixmaps};
use super::menu::{self, Menu};
use super::subject::{Subject, View};
use super::{PATIENCE, WATCHER};
use crate::daemon::vms::Vms;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, Proxy};

const PATH: &str = "/StatusNotifierItem";
const WATCHER_PATH: &str = "/StatusNotifierWatcher";

/// Tells the names of this daemon's items apart.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Item {
    subject: Arc<Subject>,
    connection: Connection,
}

impl Item {
    /// Puts a VM into the tray.
    ///
    /// # Errors
    /// The bus or the watcher does not take it.
    pub(super) async fn register(vms: &Vms, vm: &str, view: View) -> zbus::Result<Self> {
        let subject = Subject::new(vms, vm, view);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("org.kde.StatusNotifierItem-{}-{number}", std::process::id());
        let registering = async {
            let connection = zbus::connection::Builder::session()
                .serve_at(PATH, Object(Arc::clone(&subject)))
                .serve_at(menu::PATH, Menu(Arc::clone(&subject)))
                .name(name.as_str())
                .build()
                .await?;
            let watcher = Proxy::new(&connection, WATCHER, WATCHER_PATH, WATCHER).await?;
            watcher.call::<_, _, ()>("RegisterStatusNotifierItem", &(name.as_str(),)).await?;
            zbus::Result::Ok(connection)
        };
        let late = |_| zbus::Error::Failure("the tray's watcher does not answer".to_owned());
        let connection = tokio::time::timeout(PATIENCE, registering).await.map_err(late)??;
        tracing::info!(vm, item = name, "in the tray");
        Ok(Self { subject, connection })
    }

    /// Shows another view, if it is another.
    ///
    /// # Errors
    /// The item's connection has ended.
    pub(super) async fn show(&self, view: View) -> zbus::Result<()> {
        if self.connection.is_closed() {
            return Err(zbus::Error::Failure("its connection has ended".to_owned()));
        }
        let before = self.subject.change(view);
        if before.looks != view.looks {
            let emitter = SignalEmitter::new(&self.connection, PATH)?;
            Object::new_icon(&emitter).await?;
            Object::new_tool_tip(&emitter).await?;
        }
        if before != view {
            menu::tell(&SignalEmitter::new(&self.connection, menu::PATH)?, view).await?;
        }
        Ok(())
    }

    /// Takes it out of the tray.
    pub(super) async fn remove(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(vm = self.subject.name, %error, "an item of the tray is gone already");
        }
    }
}

/// What is registered on the bus.
struct Object(Arc<Subject>);

#[zbus::interface(name = "org.kde.StatusNotifierItem")]
impl Object {
    #[zbus(property(emits_changed_signal = "const"))]
    fn category(&self) -> &str {
        "ApplicationStatus"
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> String {
        format!("macrohard-{}", self.0.name)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn title(&self) -> &str {
        &self.0.name
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn status(&self) -> &str {
        "Active"
    }

    /// It has no window of its own.
    #[zbus(property(emits_changed_signal = "const"))]
    fn window_id(&self) -> i32 {
        0
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn icon_theme_path(&self) -> &str {
        ""
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn icon_name(&self) -> &str {
        ""
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn icon_pixmap(&self) -> Vec<Pixmap> {
        pixmaps(self.0.view().looks)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn overlay_icon_name(&self) -> &str {
        ""
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn overlay_icon_pixmap(&self) -> Vec<Pixmap> {
        Vec::new()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn attention_icon_name(&self) -> &str {
        ""
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn attention_icon_pixmap(&self) -> Vec<Pixmap> {
        Vec::new()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn attention_movie_name(&self) -> &str {
        ""
    }

    /// Icon name, icon, title, text.
    #[zbus(property(emits_changed_signal = "false"))]
    fn tool_tip(&self) -> (String, Vec<Pixmap>, String, String) {
        let text = match self.0.view().looks.seamless {
            true => "Its applications are windows of this desktop",
            false => "Its screen is one window",
        };
        (String::new(), Vec::new(), self.0.name.clone(), text.to_owned())
    }

    /// A click activates; the menu is for the other button.
    #[zbus(property(emits_changed_signal = "const"))]
    fn item_is_menu(&self) -> bool {
        false
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn menu(&self) -> ObjectPath<'static> {
        ObjectPath::from_static_str_unchecked(menu::PATH)
    }

    fn activate(&self, _x: i32, _y: i32) {
        self.0.toggle();
    }

    /// Nothing: one who shows trays but no menus of others has none to show.
    fn context_menu(&self, _x: i32, _y: i32) {}

    /// Nothing.
    fn secondary_activate(&self, _x: i32, _y: i32) {}

    /// Nothing.
    fn scroll(&self, _delta: i32, _orientation: &str) {}

    #[zbus(signal)]
    async fn new_icon(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn new_tool_tip(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;
}
