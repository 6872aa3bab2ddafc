//! One top-level window: from the moment it is mapped until it is withdrawn.

use proto::v1::{Extents, Rectangle, SizeHints, Window as Record, WindowKind, WindowState};
use x11rb::NONE;
use x11rb::connection::Connection;
use x11rb::protocol::composite::ConnectionExt as _;
use x11rb::protocol::damage::{ConnectionExt as _, Damage, ReportLevel};
use x11rb::protocol::shape::ConnectionExt as _;
use x11rb::protocol::xproto::{
    AtomEnum, ChangeWindowAttributesAux, ConfigureWindowAux, ConnectionExt as _, EventMask,
    MapState, Pixmap, PropMode, Timestamp, Window, WindowClass,
};
use x11rb::wrapper::ConnectionExt as _;

use super::monitors::shifted;
use super::properties::Properties;
use super::resizing::Awaited;
use super::{Lost, X11, answer};
use crate::windows::record;
use crate::windows::telling::Teller;

/// Geometry, state, or anything else that needs no question to the server.
pub(super) const RECORD: u32 = 1;
/// WM_NAME, _NET_WM_NAME.
pub(super) const TITLE: u32 = 1 << 1;
/// WM_CLASS, _NET_WM_PID, _GTK_APPLICATION_ID.
pub(super) const CLASS: u32 = 1 << 2;
/// WM_HINTS, WM_NORMAL_HINTS, WM_PROTOCOLS, WM_TRANSIENT_FOR, _NET_WM_WINDOW_TYPE.
pub(super) const HINTS: u32 = 1 << 3;
/// _MOTIF_WM_HINTS, _GTK_FRAME_EXTENTS, _NET_WM_WINDOW_OPACITY.
pub(super) const LOOK: u32 = 1 << 4;
/// _NET_WM_ICON.
pub(super) const ICON: u32 = 1 << 5;
/// The bounding shape.
pub(super) const SHAPE: u32 = 1 << 6;
/// All of it.
pub(super) const ALL: u32 = (1 << 7) - 1;

/// WM_STATE (ICCCM 4.1.3.1).
const WITHDRAWN: u32 = 0;
const NORMAL: u32 = 1;
const ICONIC: u32 = 3;

/// Depth of windows whose pixels have alpha.
const ALPHA: u8 = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    /// With the border, as seen from outside.
    pub(super) geometry: Rectangle,
    /// As the server has told it last.
    pub(super) seen: Rectangle,
    pub(super) border: u16,
    pub(super) override_redirect: bool,
    pub(super) depth: u8,
    pub(super) mapped: bool,
    pub(super) damage: Option<Damage>,
    pub(super) pixmap: Option<Pixmap>,
    /// The pixmap is not that of the window as it is now.
    pub(super) renew: bool,
    pub(super) dirty: u32,
    pub(super) properties: Properties,
    pub(super) state: WindowState,
    pub(super) modal: bool,
    /// Where it was before it was maximized or fullscreen.
    pub(super) restore: Option<Rectangle>,
    /// Unmaps by the agent that the server has not told yet.
    pub(super) unmaps: u32,
    /// A ping that it has not answered: the time in it.
    pub(super) pinged: Option<Timestamp>,
    pub(super) frame: Extents,
    /// It draws a size that it was just given.
    pub(super) awaited: Option<Awaited>,
}

/// A border counts as part of the window.
pub(super) fn outer(x: i16, y: i16, width: u16, height: u16, border: u16) -> Rectangle {
    let both = 2 * u32::from(border);
    Rectangle {
        x: i32::from(x),
        y: i32::from(y),
        width: u32::from(width) + both,
        height: u32::from(height) + both,
    }
}

/// As X takes it: its coordinates have 16 bits.
pub(super) fn configure_aux(place: Rectangle) -> ConfigureWindowAux {
    ConfigureWindowAux::new().x(place.x).y(place.y).width(place.width).height(place.height)
}

impl X11 {
    /// Takes on the windows that are there already.
    pub(super) fn adopt_all(&mut self) -> Result<(), Lost> {
        let Some(tree) = answer(self.x.query_tree(self.root)?.reply())? else { return Ok(()) };
        for window in tree.children {
            let Some(attributes) = answer(self.x.get_window_attributes(window)?.reply())? else {
                continue;
            };
            let viewable = attributes.map_state == MapState::VIEWABLE;
            if attributes.override_redirect {
                if viewable {
                    self.adopt(window)?;
                }
            } else if viewable {
                if self.enter(window, false)? {
                    self.mapped(window)?;
                }
            } else if self.wm_state(window)? == Some(ICONIC) {
                self.enter(window, false)?;
                if let Some(client) = self.clients.get_mut(&window) {
                    client.state.minimized = true;
                }
            }
        }
        Ok(())
    }

    fn wm_state(&self, window: Window) -> Result<Option<u32>, Lost> {
        let atom = self.atoms.WM_STATE;
        let reply = answer(self.x.get_property(false, window, atom, atom, 0, 1)?.reply())?;
        Ok(reply.and_then(|reply| reply.value32()?.next()))
    }

    /// Takes on a window that manages itself, and was mapped.
    pub(super) fn adopt(&mut self, window: Window) -> Result<(), Lost> {
        if self.is_own(window) || self.clients.contains_key(&window) {
            return Ok(());
        }
        if self.enter(window, true)? {
            self.mapped(window)?;
        }
        Ok(())
    }

    /// Begins to hold a window. False when there is nothing to be seen of it.
    fn enter(&mut self, window: Window, override_redirect: bool) -> Result<bool, Lost> {
        let attributes = self.x.get_window_attributes(window)?;
        let geometry = self.x.get_geometry(window)?;
        // Events from before the properties are read, so that no change is missed.
        let aux = ChangeWindowAttributesAux::new().event_mask(EventMask::PROPERTY_CHANGE);
        self.x.change_window_attributes(window, &aux)?;
        self.x.shape_select_input(window, true)?;
        let (attributes, geometry) = (answer(attributes.reply())?, answer(geometry.reply())?);
        let (Some(attributes), Some(geometry)) = (attributes, geometry) else { return Ok(false) };
        if attributes.class == WindowClass::INPUT_ONLY {
            return Ok(false);
        }
        let g = geometry;
        let mut client = Client {
            geometry: outer(g.x, g.y, g.width, g.height, g.border_width),
            seen: outer(g.x, g.y, g.width, g.height, g.border_width),
            border: g.border_width,
            override_redirect,
            depth: g.depth,
            mapped: false,
            damage: None,
            pixmap: None,
            renew: true,
            dirty: ALL,
            properties: Properties::default(),
            state: WindowState::default(),
            modal: false,
            restore: None,
            unmaps: 0,
            pinged: None,
            frame: self.frame,
            awaited: None,
        };
        if !override_redirect {
            (client.state, client.modal) = self.initial_state(window)?;
            if client.border > 0 {
                let aux = ConfigureWindowAux::new().border_width(0);
                self.x.configure_window(window, &aux)?;
                client.border = 0;
                client.geometry = outer(g.x, g.y, g.width, g.height, 0);
            }
        }
        self.clients.insert(window, client);
        self.dirty.insert(window);
        self.order.push(window);
        self.listed = true;
        Ok(true)
    }

    /// A window that is to be managed wants to be seen.
    pub(super) fn map_requested(&mut self, window: Window) -> Result<(), Lost> {
        if self.is_own(window) {
            return Ok(());
        }
        if self.clients.contains_key(&window) {
            return self.restore(window);
        }
        if !self.enter(window, false)? {
            // Not to be seen, yet its program wants it mapped.
            self.x.map_window(window)?;
            return Ok(());
        }
        self.read(window, ALL & !ICON & !SHAPE)?;
        let place = self.placed(window);
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        if place != client.geometry {
            self.x.configure_window(window, &configure_aux(place))?;
            client.geometry = place;
        }
        client.state.demands_attention |= client.properties.hints.urgent;
        let iconic = client.properties.hints.iconic || client.state.minimized;
        let state = client.state;
        self.x.change_property32(
            PropMode::REPLACE,
            window,
            self.atoms._NET_WM_DESKTOP,
            AtomEnum::CARDINAL,
            &[0],
        )?;
        self.allow(window)?;
        self.tell_frame(window, self.frame)?;
        if state.fullscreen || state.maximized_horizontally || state.maximized_vertically {
            self.fill(window)?;
        }
        if iconic {
            if let Some(client) = self.clients.get_mut(&window) {
                client.state.minimized = true;
            }
            self.write_wm_state(window, ICONIC)?;
        } else {
            self.write_wm_state(window, NORMAL)?;
            self.x.map_window(window)?;
        }
        self.write_state(window)
    }

    /// It is mapped.
    pub(super) fn mapped(&mut self, window: Window) -> Result<(), Lost> {
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        client.mapped = true;
        client.renew = true;
        if client.damage.is_none() {
            let damage = self.x.generate_id()?;
            self.x.damage_create(damage, window, ReportLevel::BOUNDING_BOX)?;
            client.damage = Some(damage);
        }
        self.input.top = NONE;
        self.touch(window, RECORD);
        Ok(())
    }

    /// It is minimized: unmapped, and still the window manager's.
    pub(super) fn minimize(&mut self, window: Window) -> Result<(), Lost> {
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        if client.state.minimized || client.override_redirect {
            return Ok(());
        }
        client.state.minimized = true;
        if client.mapped {
            client.unmaps += 1;
            client.mapped = false;
            self.x.unmap_window(window)?;
        }
        self.write_wm_state(window, ICONIC)?;
        self.write_state(window)?;
        self.touch(window, RECORD);
        Ok(())
    }

    /// It is minimized no more.
    pub(super) fn restore(&mut self, window: Window) -> Result<(), Lost> {
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        if client.override_redirect {
            return Ok(());
        }
        client.state.minimized = false;
        self.write_wm_state(window, NORMAL)?;
        self.x.map_window(window)?;
        self.write_state(window)?;
        self.touch(window, RECORD);
        Ok(())
    }

    fn write_wm_state(&self, window: Window, state: u32) -> Result<(), Lost> {
        let atom = self.atoms.WM_STATE;
        self.x.change_property32(PropMode::REPLACE, window, atom, atom, &[state, NONE])?;
        Ok(())
    }

    /// It was withdrawn, or destroyed.
    pub(super) fn leave(
        &mut self,
        window: Window,
        destroyed: bool,
        teller: &mut Teller,
    ) -> Result<(), Lost> {
        let Some(client) = self.clients.remove(&window) else { return Ok(()) };
        self.dirty.remove(&window);
        self.waiting.remove(&window);
        self.awaiting.remove(&window);
        self.order.retain(|held| *held != window);
        self.listed = true;
        if let Some(pixmap) = client.pixmap {
            self.x.free_pixmap(pixmap)?;
        }
        if !destroyed {
            if let Some(damage) = client.damage {
                self.x.damage_destroy(damage)?;
            }
            let none = ChangeWindowAttributesAux::new().event_mask(EventMask::NO_EVENT);
            self.x.change_window_attributes(window, &none)?;
            self.x.shape_select_input(window, false)?;
            if !client.override_redirect {
                self.write_wm_state(window, WITHDRAWN)?;
                self.x.delete_property(window, self.atoms._NET_WM_STATE)?;
            }
        }
        if self.focused == window {
            self.focus(0)?;
            self.focus_bare(None)?;
        }
        if self.input.top == window {
            self.input.top = NONE;
        }
        if teller.knows(window) {
            teller.gone(window);
            // There is room for another one now.
            if let Some(next) = self.waiting.pop_first() {
                self.touch(next, ALL);
            }
        }
        Ok(())
    }

    /// Lets go of a window that another window manager takes over: nothing of it changes.
    pub(super) fn leave_to_others(
        &mut self,
        window: Window,
        teller: &mut Teller,
    ) -> Result<(), Lost> {
        let Some(client) = self.clients.remove(&window) else { return Ok(()) };
        self.dirty.remove(&window);
        self.waiting.remove(&window);
        self.awaiting.remove(&window);
        self.order.retain(|held| *held != window);
        self.listed = true;
        if let Some(pixmap) = client.pixmap {
            self.x.free_pixmap(pixmap)?;
        }
        if let Some(damage) = client.damage {
            self.x.damage_destroy(damage)?;
        }
        if client.state.minimized {
            // The other one shows it again where its program wants it.
            self.write_wm_state(window, ICONIC)?;
        }
        self.focused = if self.focused == window { NONE } else { self.focused };
        teller.gone(window);
        Ok(())
    }

    /// Tells of a window in which something changed, if there is anything to be seen of it.
    pub(super) fn tell(&mut self, window: Window, teller: &mut Teller) -> Result<(), Lost> {
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        if !client.mapped && !client.state.minimized {
            // Its map is on the way; what is dirty stays so.
            return Ok(());
        }
        let known = teller.knows(window);
        if !known && !teller.has_room() {
            teller.refusals.note("windows over the limit");
            self.waiting.insert(window);
            return Ok(());
        }
        let dirty = if known { std::mem::take(&mut client.dirty) } else { ALL };
        client.dirty = 0;
        let dirty = if known { dirty } else { ALL };
        self.read(window, dirty)?;
        let Some(record) = self.record(window) else { return Ok(()) };
        if !known && record.override_redirect && self.is_nowhere(window) {
            return Ok(());
        }
        if !teller.window(record) {
            return Ok(());
        }
        if dirty & ICON != 0 {
            self.tell_icon(window, teller)?;
        }
        self.renew(window, teller)
    }

    /// Gets the pixels of the window as it is now.
    fn renew(&mut self, window: Window, teller: &mut Teller) -> Result<(), Lost> {
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        if !client.renew || client.awaited.is_some() {
            return Ok(());
        }
        client.renew = false;
        let old = client.pixmap.take();
        if let Some(old) = old {
            self.x.free_pixmap(old)?;
        }
        if !client.mapped {
            teller.unseen(window);
            return Ok(());
        }
        let pixmap = self.x.generate_id()?;
        self.x.composite_name_window_pixmap(window, pixmap)?;
        match answer(self.x.get_geometry(pixmap)?.reply())? {
            Some(size) => {
                client.pixmap = Some(pixmap);
                teller.resized(window, u32::from(size.width), u32::from(size.height));
            }
            // It was unmapped or destroyed meanwhile, which is told.
            None => teller.unseen(window),
        }
        Ok(())
    }

    /// All that the host is told of a window.
    fn record(&self, window: Window) -> Option<Record> {
        let client = self.clients.get(&window)?;
        let properties = &client.properties;
        let mut state = client.state;
        state.demands_attention |= properties.hints.urgent;
        let mut record = Record {
            id: window,
            geometry: Some(shifted(client.geometry, self.origin)),
            kind: properties.kind.into(),
            override_redirect: client.override_redirect,
            title: properties.title.clone(),
            instance: properties.instance.clone(),
            class: properties.class.clone(),
            application: properties.application.clone(),
            transient_for: self.owner(window, client),
            modal: client.modal,
            undecorated: properties.undecorated || properties.shadow.is_some(),
            shadow: properties.shadow,
            alpha: client.depth == ALPHA,
            shape: properties.shape.clone(),
            size_hints: Some(properties.normal.sizes)
                .filter(|hints| *hints != SizeHints::default()),
            state: Some(state),
            opacity: properties.opacity,
            no_focus: !properties.hints.input && !properties.takes_focus,
            pid: properties.pid,
            ..Record::default()
        };
        if client.override_redirect {
            if properties.kind == WindowKind::Normal {
                // Toolkits without types open menus so.
                record.kind = WindowKind::Menu.into();
            }
            record.size_hints = None;
            if self.covers(client.geometry) {
                // Programs that take the whole screen: to the host a window like others, with a frame.
                record.override_redirect = false;
                record.kind = WindowKind::Normal.into();
            }
        }
        Some(record)
    }

    /// Whether nothing of a window is on the screen.
    fn is_nowhere(&self, window: Window) -> bool {
        let (width, height) = (u32::from(self.size.0), u32::from(self.size.1));
        let screen = Rectangle { x: 0, y: 0, width, height };
        self.clients.get(&window).is_none_or(|client| overlap(client.geometry, screen) == 0)
    }

    /// Whether a window would take so much of a monitor that it must not be without a frame.
    fn covers(&self, place: Rectangle) -> bool {
        use window_link::limits::OVERRIDE_COVER;
        let whole =
            Rectangle { x: 0, y: 0, width: u32::from(self.size.0), height: u32::from(self.size.1) };
        let monitors = self.monitors.iter().filter_map(|monitor| monitor.geometry);
        let monitors: Vec<Rectangle> = monitors.collect();
        let monitors = if monitors.is_empty() { vec![whole] } else { monitors };
        monitors.iter().any(|monitor| {
            let common = overlap(place, *monitor);
            common * 100 > u64::from(monitor.width) * u64::from(monitor.height) * OVERRIDE_COVER
        })
    }

    /// The window that one belongs to: what it says, else for menus and the like the one of the same program
    /// that has the keyboard, or the last one.
    fn owner(&self, window: Window, client: &Client) -> Window {
        let said = client.properties.transient_for;
        if said != NONE && said != window && self.clients.contains_key(&said) {
            return said;
        }
        let group = said != NONE || client.override_redirect;
        if !group {
            return NONE;
        }
        let mask = !self.x.setup().resource_id_mask;
        let same = |other: Window| other != window && other & mask == window & mask;
        let managed = |other: &Window| {
            self.clients.get(other).is_some_and(|other| !other.override_redirect && other.mapped)
        };
        if same(self.focused) && managed(&self.focused) {
            return self.focused;
        }
        let last = self.order.iter().rev().find(|other| same(**other) && managed(other));
        last.copied().unwrap_or(NONE)
    }

    /// Where a new window goes: where it wants to be, else over its owner, else into the middle of the
    /// primary monitor.
    fn placed(&self, window: Window) -> Rectangle {
        let Some(client) = self.clients.get(&window) else { return Rectangle::default() };
        let mut place = record::place(client.geometry);
        let normal = &client.properties.normal;
        let wants = normal.user_position
            || (normal.program_position && (client.geometry.x, client.geometry.y) != (0, 0));
        if wants {
            // StaticGravity, or a window without a frame: the place is the window's own. Else it is the frame's.
            let framed = !client.properties.undecorated && client.properties.shadow.is_none();
            if framed && normal.gravity != 10 {
                place.x += i32::try_from(self.frame.left).unwrap_or(0);
                place.y += i32::try_from(self.frame.top).unwrap_or(0);
            }
            return record::place(place);
        }
        let owner = self.owner(window, client);
        let around = match self.clients.get(&owner) {
            Some(owner) => owner.geometry,
            None => self.work_area(),
        };
        let middle = |start: i32, length: u32, own: u32| {
            let free = i64::from(length) - i64::from(own);
            start + i32::try_from(free / 2).unwrap_or(0)
        };
        place.x = middle(around.x, around.width, place.width).max(0);
        place.y = middle(around.y, around.height, place.height).max(0);
        record::place(place)
    }
}

/// Pixels that both have.
fn overlap(a: Rectangle, b: Rectangle) -> u64 {
    let common = |start: i32, length: u32, other: i32, other_length: u32| {
        let from = i64::from(start.max(other));
        let to =
            (i64::from(start) + i64::from(length)).min(i64::from(other) + i64::from(other_length));
        u64::try_from(to - from).unwrap_or(0)
    };
    common(a.x, a.width, b.x, b.width) * common(a.y, a.height, b.y, b.height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: i32, y: i32, width: u32, height: u32) -> Rectangle {
        Rectangle { x, y, width, height }
    }

    #[test]
    fn what_two_rectangles_share_is_counted() {
        assert_eq!(overlap(at(0, 0, 10, 10), at(5, 5, 10, 10)), 25);
        assert_eq!(overlap(at(-32768, 0, 65535, 65535), at(0, 0, 100, 100)), 10_000);
        assert_eq!(overlap(at(0, 0, 10, 10), at(10, 0, 10, 10)), 0);
    }
}
