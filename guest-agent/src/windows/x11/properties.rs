//! Reading the properties of a window: a bounded part of each, all that are wanted in one round trip.

use std::collections::BTreeMap;

use proto::v1::{Extents, Rectangle, SizeHints, WindowIcon, WindowKind, WindowState};
use window_link::limits;
use x11rb::NONE;
use x11rb::cookie::Cookie;
use x11rb::protocol::shape::{ConnectionExt as _, SK};
use x11rb::protocol::xproto::{Atom, AtomEnum, ConnectionExt as _, GetPropertyReply, Window};
use x11rb::rust_connection::RustConnection;

use super::atoms::Atoms;
use super::client::{CLASS, HINTS, ICON, LOOK, SHAPE, TITLE};
use super::parse::{self, Hints, IconAt, NormalHints};
use super::{Lost, X11, answer};
use crate::applications;
use crate::windows::telling::Teller;

/// Most bytes of a text that are read: a title is cut far below.
const TEXT: u32 = 2048;
/// Most values of a list that are read.
const LIST: u32 = 64;
/// Most icons that are looked at in one property.
const ICONS: usize = 32;

/// What a window says of itself.
#[derive(Debug)]
pub(super) struct Properties {
    pub(super) title: String,
    pub(super) instance: String,
    pub(super) class: String,
    pub(super) application: String,
    pub(super) pid: u32,
    pub(super) hints: Hints,
    pub(super) normal: NormalHints,
    pub(super) takes_focus: bool,
    pub(super) deletes: bool,
    pub(super) pings: bool,
    pub(super) syncs: bool,
    /// Counter that it counts up when it has drawn.
    pub(super) counter: u32,
    pub(super) transient_for: Window,
    pub(super) kind: WindowKind,
    pub(super) undecorated: bool,
    pub(super) shadow: Option<Extents>,
    pub(super) opacity: u32,
    pub(super) shape: Vec<Rectangle>,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            title: String::new(),
            instance: String::new(),
            class: String::new(),
            application: String::new(),
            pid: 0,
            hints: parse::hints(&[]),
            normal: NormalHints { sizes: SizeHints::default(), ..NormalHints::default() },
            takes_focus: false,
            deletes: false,
            pings: false,
            syncs: false,
            counter: 0,
            transient_for: NONE,
            kind: WindowKind::Normal,
            undecorated: false,
            shadow: None,
            opacity: 0,
            shape: Vec::new(),
        }
    }
}

/// Which part of [`Properties`] each property belongs to: bits of [`super::client`], by their number.
pub(super) fn names(atoms: &Atoms) -> BTreeMap<Atom, u8> {
    let number = |bit: u32| u8::try_from(bit.trailing_zeros()).unwrap_or(0);
    BTreeMap::from([
        (AtomEnum::WM_NAME.into(), number(TITLE)),
        (atoms._NET_WM_NAME, number(TITLE)),
        (AtomEnum::WM_CLASS.into(), number(CLASS)),
        (atoms._NET_WM_PID, number(CLASS)),
        (atoms._GTK_APPLICATION_ID, number(CLASS)),
        (AtomEnum::WM_HINTS.into(), number(HINTS)),
        (AtomEnum::WM_NORMAL_HINTS.into(), number(HINTS)),
        (AtomEnum::WM_TRANSIENT_FOR.into(), number(HINTS)),
        (atoms.WM_PROTOCOLS, number(HINTS)),
        (atoms._NET_WM_SYNC_REQUEST_COUNTER, number(HINTS)),
        (atoms._NET_WM_WINDOW_TYPE, number(HINTS)),
        (atoms._MOTIF_WM_HINTS, number(LOOK)),
        (atoms._GTK_FRAME_EXTENTS, number(LOOK)),
        (atoms._NET_WM_WINDOW_OPACITY, number(LOOK)),
        (atoms._NET_WM_ICON, number(ICON)),
    ])
}

type Asked<'a> = Cookie<'a, RustConnection, GetPropertyReply>;

fn bytes(asked: Asked<'_>) -> Result<Option<(Atom, Vec<u8>)>, Lost> {
    let reply = answer(asked.reply())?.filter(|reply| reply.format == 8);
    Ok(reply.map(|reply| (reply.type_, reply.value)))
}

fn values(asked: Asked<'_>) -> Result<Vec<u32>, Lost> {
    let reply = answer(asked.reply())?;
    Ok(reply.and_then(|reply| Some(reply.value32()?.collect())).unwrap_or_default())
}

impl X11 {
    fn ask(
        &self,
        window: Window,
        property: impl Into<Atom>,
        units: u32,
    ) -> Result<Asked<'_>, Lost> {
        Ok(self.x.get_property(false, window, property, AtomEnum::ANY, 0, units)?)
    }

    /// Reads these parts again.
    pub(super) fn read(&mut self, window: Window, parts: u32) -> Result<(), Lost> {
        let Some(mut held) = self.clients.get_mut(&window).map(|client| {
            // Given back below.
            std::mem::take(&mut client.properties)
        }) else {
            return Ok(());
        };
        let done = self.read_into(&mut held, window, parts);
        if let Some(client) = self.clients.get_mut(&window) {
            client.properties = held;
        }
        done
    }

    fn read_into(&self, into: &mut Properties, window: Window, parts: u32) -> Result<(), Lost> {
        let a = &self.atoms;
        let text = TEXT / 4;
        let wants = |part: u32| parts & part != 0;
        // First all questions, then all answers.
        let title = match wants(TITLE) {
            true => Some((
                self.ask(window, a._NET_WM_NAME, text)?,
                self.ask(window, AtomEnum::WM_NAME, text)?,
            )),
            false => None,
        };
        let class = match wants(CLASS) {
            true => Some((
                self.ask(window, AtomEnum::WM_CLASS, text)?,
                self.ask(window, a._NET_WM_PID, 1)?,
                self.ask(window, a._GTK_APPLICATION_ID, text)?,
            )),
            false => None,
        };
        let hints = match wants(HINTS) {
            true => Some((
                self.ask(window, AtomEnum::WM_HINTS, LIST)?,
                self.ask(window, AtomEnum::WM_NORMAL_HINTS, LIST)?,
                self.ask(window, AtomEnum::WM_TRANSIENT_FOR, 1)?,
                self.ask(window, a.WM_PROTOCOLS, LIST)?,
                self.ask(window, a._NET_WM_WINDOW_TYPE, LIST)?,
                self.ask(window, a._NET_WM_SYNC_REQUEST_COUNTER, 1)?,
            )),
            false => None,
        };
        let look = match wants(LOOK) {
            true => Some((
                self.ask(window, a._MOTIF_WM_HINTS, LIST)?,
                self.ask(window, a._GTK_FRAME_EXTENTS, 4)?,
                self.ask(window, a._NET_WM_WINDOW_OPACITY, 1)?,
            )),
            false => None,
        };
        let shape = if wants(SHAPE) { Some(self.x.shape_query_extents(window)?) } else { None };

        if let Some((new, old)) = title {
            let (new, old) = (bytes(new)?, bytes(old)?);
            let named = new.filter(|(_, name)| !name.is_empty());
            into.title = match (named, old) {
                (Some((_, name)), _) => parse::text(&name, true),
                (None, Some((kind, name))) => parse::text(&name, kind == a.UTF8_STRING),
                (None, None) => String::new(),
            };
        }
        if let Some((class, pid, application)) = class {
            let class = bytes(class)?.unwrap_or_default().1;
            (into.instance, into.class) = parse::class(&class);
            into.pid = values(pid)?.first().copied().unwrap_or_default();
            let application = bytes(application)?.unwrap_or_default().1;
            into.application = match applications::launched_as(into.pid) {
                Some(id) => id,
                None => parse::text(&application, true),
            };
        }
        if let Some((hints, normal, transient, protocols, kinds, counter)) = hints {
            into.hints = parse::hints(&values(hints)?);
            into.normal = parse::normal_hints(&values(normal)?);
            let transient = values(transient)?;
            into.transient_for = transient.first().copied().unwrap_or(NONE);
            let protocols = values(protocols)?;
            into.takes_focus = protocols.contains(&a.WM_TAKE_FOCUS);
            into.deletes = protocols.contains(&a.WM_DELETE_WINDOW);
            into.pings = protocols.contains(&a._NET_WM_PING);
            into.syncs = protocols.contains(&a._NET_WM_SYNC_REQUEST);
            into.counter = values(counter)?.first().copied().unwrap_or_default();
            let kinds = values(kinds)?;
            let known = kinds.iter().find_map(|kind| self.kind(*kind));
            // A window of another that says nothing of its type is a dialog (EWMH, _NET_WM_WINDOW_TYPE).
            let dialog = into.transient_for != NONE;
            let unsaid = if dialog { WindowKind::Dialog } else { WindowKind::Normal };
            into.kind = known.unwrap_or(unsaid);
        }
        if let Some((motif, shadow, opacity)) = look {
            into.undecorated = parse::motif_undecorated(&values(motif)?);
            into.shadow = parse::extents(&values(shadow)?);
            // 32 bits to 16; not quite nothing where 0 would mean that nothing is said.
            let opacity = values(opacity)?.first().copied();
            into.opacity =
                opacity.filter(|all| *all != u32::MAX).map_or(0, |all| (all >> 16).max(1));
        }
        if let Some(shape) = shape {
            into.shape.clear();
            if answer(shape.reply())?.is_some_and(|shape| shape.bounding_shaped) {
                let asked = self.x.shape_get_rectangles(window, SK::BOUNDING)?;
                let border = self.clients.get(&window).map_or(0, |client| client.border);
                let border = i32::from(border);
                // The server's are relative to the window inside its border.
                let rectangles = answer(asked.reply())?.map(|reply| reply.rectangles);
                into.shape = rectangles
                    .unwrap_or_default()
                    .iter()
                    .map(|r| Rectangle {
                        x: i32::from(r.x) + border,
                        y: i32::from(r.y) + border,
                        width: u32::from(r.width),
                        height: u32::from(r.height),
                    })
                    .collect();
                if into.shape.is_empty() {
                    // Nothing of it is there, which the protocol cannot say: one pixel.
                    into.shape.push(Rectangle { x: 0, y: 0, width: 1, height: 1 });
                }
            }
        }
        Ok(())
    }

    fn kind(&self, atom: Atom) -> Option<WindowKind> {
        let a = &self.atoms;
        let known = [
            (a._NET_WM_WINDOW_TYPE_NORMAL, WindowKind::Normal),
            (a._NET_WM_WINDOW_TYPE_DESKTOP, WindowKind::Normal),
            (a._NET_WM_WINDOW_TYPE_DOCK, WindowKind::Utility),
            (a._NET_WM_WINDOW_TYPE_TOOLBAR, WindowKind::Utility),
            (a._NET_WM_WINDOW_TYPE_UTILITY, WindowKind::Utility),
            (a._NET_WM_WINDOW_TYPE_SPLASH, WindowKind::Splash),
            (a._NET_WM_WINDOW_TYPE_DIALOG, WindowKind::Dialog),
            (a._NET_WM_WINDOW_TYPE_MENU, WindowKind::Menu),
            (a._NET_WM_WINDOW_TYPE_POPUP_MENU, WindowKind::Menu),
            (a._NET_WM_WINDOW_TYPE_DROPDOWN_MENU, WindowKind::Dropdown),
            (a._NET_WM_WINDOW_TYPE_COMBO, WindowKind::Combo),
            (a._NET_WM_WINDOW_TYPE_TOOLTIP, WindowKind::Tooltip),
            (a._NET_WM_WINDOW_TYPE_NOTIFICATION, WindowKind::Notification),
            (a._NET_WM_WINDOW_TYPE_DND, WindowKind::Drag),
        ];
        known.into_iter().find_map(|(name, kind)| (name == atom).then_some(kind))
    }

    /// The states that a window wants to begin with, and whether it is modal.
    pub(super) fn initial_state(&self, window: Window) -> Result<(WindowState, bool), Lost> {
        let a = &self.atoms;
        let wanted = values(self.ask(window, a._NET_WM_STATE, LIST)?)?;
        let has = |atom: Atom| wanted.contains(&atom);
        let state = WindowState {
            maximized_horizontally: has(a._NET_WM_STATE_MAXIMIZED_HORZ),
            maximized_vertically: has(a._NET_WM_STATE_MAXIMIZED_VERT),
            fullscreen: has(a._NET_WM_STATE_FULLSCREEN),
            // The window manager's to say, and left over from one before.
            minimized: false,
            above: has(a._NET_WM_STATE_ABOVE),
            below: has(a._NET_WM_STATE_BELOW),
            skip_taskbar: has(a._NET_WM_STATE_SKIP_TASKBAR),
            demands_attention: has(a._NET_WM_STATE_DEMANDS_ATTENTION),
            shaded: has(a._NET_WM_STATE_SHADED),
        };
        Ok((state, has(a._NET_WM_STATE_MODAL)))
    }

    /// Tells the largest of a window's icons that is within the limit, else the pixmap that it has.
    pub(super) fn tell_icon(&mut self, window: Window, teller: &mut Teller) -> Result<(), Lost> {
        let atom = self.atoms._NET_WM_ICON;
        let part = |offset: u32, length: u32| {
            self.x.get_property(false, window, atom, AtomEnum::CARDINAL, offset, length)
        };
        let (mut at, mut best): (u32, Option<IconAt>) = (0, None);
        for _ in 0..ICONS {
            let Some(header) = answer(part(at, 2)?.reply())? else { return Ok(()) };
            let values: Vec<u32> = header.value32().map(Iterator::collect).unwrap_or_default();
            let length = at + u32::try_from(values.len()).unwrap_or(0) + header.bytes_after / 4;
            let Some((icon, next)) = parse::icon(at, &values, length) else { break };
            at = next;
            let fits = icon.width <= limits::ICON && icon.height <= limits::ICON;
            if fits && best.is_none_or(|best| icon.width > best.width) {
                best = Some(icon);
            }
        }
        let Some(icon) = best else { return self.tell_pixmap(window, teller) };
        let count = icon.width * icon.height;
        let Some(reply) = answer(part(icon.offset, count)?.reply())? else { return Ok(()) };
        let argb: Vec<u32> = reply.value32().map(Iterator::collect).unwrap_or_default();
        if argb.len() == count as usize {
            let (width, height) = (icon.width, icon.height);
            teller.icon(WindowIcon { window, width, height, pixels: parse::pixels(&argb) });
        }
        Ok(())
    }
}
