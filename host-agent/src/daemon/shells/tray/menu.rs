//! An item's menu: `com.canonical.dbusmenu`, version 3, as libdbusmenu's `dbus-menu.xml` has it.

use super::subject::{Subject, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use zbus::fdo;
use zbus::object_server::SignalEmitter;
use zbus::{OwnedVariant, Variant};

/// Where it is on the item's connection.
pub(super) const PATH: &str = "/MenuBar";
/// The menu itself, in place of an entry.
const ROOT: i32 = 0;
/// The layout is always the same.
const REVISION: u32 = 1;

/// See the module.
pub(super) struct Menu(pub(super) Arc<Subject>);

/// Of an entry or of the menu.
type Properties = BTreeMap<&'static str, OwnedVariant>;
/// An entry with those below it: `(ia{sv}av)`.
type Layout = (i32, Properties, Vec<OwnedVariant>);
/// An event: entry, kind, data, time.
type Happened = (i32, String, OwnedVariant, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Seamless = 1,
    Line = 2,
    Stop = 3,
}

impl Entry {
    const ALL: [Self; 3] = [Self::Seamless, Self::Line, Self::Stop];

    fn of(id: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|entry| entry.id() == id)
    }

    fn id(self) -> i32 {
        self as i32
    }

    fn properties(self, view: View) -> Properties {
        match self {
            Self::Seamless => Properties::from([
                ("label", text("Seamless windows")),
                ("toggle-type", text("checkmark")),
                ("toggle-state", i32::from(view.looks.seamless).into()),
                ("enabled", view.controllable.into()),
            ]),
            Self::Line => Properties::from([("type", text("separator"))]),
            Self::Stop => Properties::from([
                ("label", text("Stop the VM")),
                ("enabled", view.controllable.into()),
            ]),
        }
    }
}

fn text(text: &'static str) -> OwnedVariant {
    zbus::Str::from_static(text).into()
}

/// Properties of an entry or of the menu; none of what is not there.
fn properties(id: i32, view: View) -> Option<Properties> {
    match id {
        ROOT => Some(Properties::from([("children-display", text("submenu"))])),
        id => Some(Entry::of(id)?.properties(view)),
    }
}

/// Those asked for; none named is all.
fn only(mut properties: Properties, names: &[String]) -> Properties {
    properties.retain(|name, _| names.is_empty() || names.iter().any(|asked| asked == name));
    properties
}

fn unknown(id: i32) -> fdo::Error {
    fdo::Error::InvalidArgs(format!("there is no entry {id}; allowed: 0 to {}", Entry::ALL.len()))
}

/// Tells those who show it what its entries are like now.
pub(super) async fn tell(emitter: &SignalEmitter<'_>, view: View) -> zbus::Result<()> {
    let updated =
        [Entry::Seamless, Entry::Stop].map(|entry| (entry.id(), entry.properties(view))).into();
    Menu::items_properties_updated(emitter, updated, Vec::new()).await
}

impl Menu {
    /// Whether there is such an entry.
    fn happened(&self, id: i32, kind: &str) -> bool {
        let entry = Entry::of(id);
        // That it is looked at is an event, too.
        if kind == "clicked" {
            match entry {
                Some(Entry::Seamless) => self.0.toggle(),
                Some(Entry::Stop) => self.0.stop(),
                Some(Entry::Line) | None => {}
            }
        }
        entry.is_some() || id == ROOT
    }
}

#[zbus::interface(name = "com.canonical.dbusmenu")]
impl Menu {
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> u32 {
        3
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn text_direction(&self) -> &str {
        "ltr"
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn status(&self) -> &str {
        "normal"
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn icon_theme_path(&self) -> Vec<String> {
        Vec::new()
    }

    /// An entry with all below it, as deep as asked for (-1: all).
    #[zbus(out_args("revision", "layout"))]
    fn get_layout(
        &self,
        parent_id: i32,
        recursion_depth: i32,
        property_names: Vec<String>,
    ) -> fdo::Result<(u32, Layout)> {
        let view = self.0.view();
        let own = properties(parent_id, view).ok_or_else(|| unknown(parent_id))?;
        let mut below = Vec::new();
        if parent_id == ROOT && recursion_depth != 0 {
            for entry in Entry::ALL {
                let own = only(entry.properties(view), &property_names);
                let child = Variant::from((entry.id(), own, Vec::<OwnedVariant>::new()));
                below.push(OwnedVariant::try_from(child)?);
            }
        }
        Ok((REVISION, (parent_id, only(own, &property_names), below)))
    }

    /// Of entries, each once; no id is all, and ids of none are left out.
    #[zbus(out_args("properties"))]
    fn get_group_properties(
        &self,
        ids: Vec<i32>,
        property_names: Vec<String>,
    ) -> Vec<(i32, Properties)> {
        let view = self.0.view();
        let ids: BTreeSet<i32> = match ids.is_empty() {
            true => std::iter::once(ROOT).chain(Entry::ALL.map(Entry::id)).collect(),
            false => ids.into_iter().collect(),
        };
        let found = ids.into_iter().filter_map(|id| Some((id, properties(id, view)?)));
        found.map(|(id, properties)| (id, only(properties, &property_names))).collect()
    }

    #[zbus(out_args("value"))]
    fn get_property(&self, id: i32, name: &str) -> fdo::Result<OwnedVariant> {
        let mut properties = properties(id, self.0.view()).ok_or_else(|| unknown(id))?;
        properties
            .remove(name)
            .ok_or_else(|| fdo::Error::InvalidArgs(format!("entry {id} has no such property")))
    }

    fn event(
        &self,
        id: i32,
        event_id: &str,
        _data: OwnedVariant,
        _timestamp: u32,
    ) -> fdo::Result<()> {
        if self.happened(id, event_id) { Ok(()) } else { Err(unknown(id)) }
    }

    /// Answers the entries that are not there.
    #[zbus(out_args("id_errors"))]
    fn event_group(&self, events: Vec<Happened>) -> Vec<i32> {
        let there = |(id, kind, _, _): &Happened| self.happened(*id, kind);
        events.into_iter().filter(|event| !there(event)).map(|event| event.0).collect()
    }

    /// Whether it must be asked for anew: changes have been told.
    #[zbus(out_args("need_update"))]
    fn about_to_show(&self, id: i32) -> fdo::Result<bool> {
        if properties(id, self.0.view()).is_some() { Ok(false) } else { Err(unknown(id)) }
    }

    /// The same of several.
    #[zbus(out_args("updates_needed", "id_errors"))]
    fn about_to_show_group(&self, ids: Vec<i32>) -> (Vec<i32>, Vec<i32>) {
        let view = self.0.view();
        (Vec::new(), ids.into_iter().filter(|id| properties(*id, view).is_none()).collect())
    }

    #[zbus(signal)]
    async fn items_properties_updated(
        emitter: &SignalEmitter<'_>,
        updated: Vec<(i32, Properties)>,
        removed: Vec<(i32, Vec<String>)>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn layout_updated(
        emitter: &SignalEmitter<'_>,
        revision: u32,
        parent: i32,
    ) -> zbus::Result<()>;
}
