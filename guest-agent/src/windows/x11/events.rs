//! What the X server says, and what programs ask of their window manager.

use proto::v1::{MoveResize, MoveResizeDirection, Rectangle};
use x11rb::NONE;
use x11rb::protocol::Event;
use x11rb::protocol::shape::SK;
use x11rb::protocol::xproto::{
    ClientMessageEvent, ConfigWindow, ConfigureNotifyEvent, ConfigureRequestEvent,
    ConfigureWindowAux, ConnectionExt as _, EventMask, StackMode, Window,
};

use super::client::{self, RECORD, SHAPE, configure_aux, outer};
use super::{Lost, X11};
use crate::windows::record;
use crate::windows::telling::Teller;

impl X11 {
    /// Does what an event asks for.
    pub(super) fn handle(&mut self, event: Event, teller: &mut Teller) -> Result<(), Lost> {
        if self.desktop.is_given() && concerns_windows(&event) {
            return Ok(());
        }
        match event {
            Event::DamageNotify(event) => {
                window_link::latency::pass("injected", "damaged");
                let area = event.area;
                // Of the window inside its border; pixels count from outside.
                let border =
                    self.clients.get(&event.drawable).map_or(0, |client| i32::from(client.border));
                let (x, y) = (i32::from(area.x) + border, i32::from(area.y) + border);
                let size = (u32::from(area.width), u32::from(area.height));
                teller.damaged(event.drawable, x, y, size.0, size.1);
                Ok(())
            }
            Event::PropertyNotify(event) => {
                if let Some(part) = self.names.get(&event.atom) {
                    self.touch(event.window, 1 << part);
                }
                Ok(())
            }
            Event::MapRequest(event) => self.map_requested(event.window),
            Event::MapNotify(event) if event.event == self.root => {
                if event.override_redirect {
                    self.adopt(event.window)?;
                } else {
                    self.mapped(event.window)?;
                    self.focus_bare(Some(event.window))?;
                }
                if !self.is_own(event.window) {
                    self.input.top = NONE;
                }
                Ok(())
            }
            Event::UnmapNotify(event) if event.event == self.root => {
                self.unmapped(event.window, event.response_type & 0x80 != 0, teller)
            }
            Event::DestroyNotify(event) => self.leave(event.window, true, teller),
            Event::ReparentNotify(event)
                if event.event == self.root && event.parent != self.root =>
            {
                self.leave(event.window, false, teller)
            }
            Event::ConfigureNotify(event) if event.window == self.root => {
                self.size = (event.width, event.height);
                Ok(())
            }
            Event::ConfigureNotify(event) if event.response_type & 0x80 == 0 => {
                self.configured(&event);
                Ok(())
            }
            Event::ConfigureRequest(event) => self.configure_requested(&event, teller),
            Event::ClientMessage(event) => self.message(&event, teller),
            Event::ShapeNotify(event) if event.shape_kind == SK::BOUNDING => {
                self.touch(event.affected_window, SHAPE);
                Ok(())
            }
            Event::ButtonPress(event) => self.clicked(&event),
            Event::MotionNotify(event) => self.dragged(&event),
            Event::ButtonRelease(_) => {
                self.desktop.moved = None;
                Ok(())
            }
            Event::RandrNotify(_) | Event::RandrScreenChangeNotify(_) => {
                match self.desktop.is_on() {
                    true => self.light(),
                    false => Ok(()),
                }
            }
            Event::SyncAlarmNotify(event) => self.drawn(event.alarm),
            Event::XfixesCursorNotify(_) => {
                self.cursor.changed = true;
                Ok(())
            }
            Event::XkbBellNotify(_) => {
                self.rung = true;
                Ok(())
            }
            Event::SelectionClear(event) if event.selection == self.atoms.WM_S0 => {
                // Another window manager has come, and the windows are its now.
                match self.desktop.is_on() {
                    true => Ok(()),
                    false => Err(Lost("another window manager has taken over".to_owned())),
                }
            }
            Event::Error(error) => {
                tracing::trace!(?error, "the X server refuses");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn unmapped(
        &mut self,
        window: Window,
        synthetic: bool,
        teller: &mut Teller,
    ) -> Result<(), Lost> {
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        if !synthetic && client.unmaps > 0 {
            client.unmaps -= 1;
            client.renew = true;
            self.touch(window, RECORD);
            return Ok(());
        }
        self.leave(window, false, teller)
    }

    fn configured(&mut self, event: &ConfigureNotifyEvent) {
        if self.input.top != event.window && !self.is_own(event.window) {
            self.input.top = NONE;
        }
        let e = event;
        let Some(client) = self.clients.get_mut(&event.window) else { return };
        let place = outer(e.x, e.y, e.width, e.height, e.border_width);
        let size = |place: Rectangle| (place.width, place.height);
        client.renew |= size(place) != size(client.seen);
        client.seen = place;
        client.border = event.border_width;
        // What the window manager has asked for since is on its way; what it asked for is told already.
        if client.override_redirect {
            client.geometry = place;
        }
        self.touch(event.window, RECORD);
    }

    /// A program wants its window elsewhere, or of another size, or over others.
    fn configure_requested(
        &mut self,
        event: &ConfigureRequestEvent,
        teller: &mut Teller,
    ) -> Result<(), Lost> {
        let window = event.window;
        let asks = |what: ConfigWindow| event.value_mask.contains(what);
        let Some(client) = self.clients.get(&window) else {
            // Not mapped yet: nothing to do with it but what it wants, within the limits.
            let wanted = Rectangle {
                x: i32::from(event.x),
                y: i32::from(event.y),
                width: u32::from(event.width),
                height: u32::from(event.height),
            };
            let place = record::place(wanted);
            let mut aux = ConfigureWindowAux::new();
            aux.x = asks(ConfigWindow::X).then_some(place.x);
            aux.y = asks(ConfigWindow::Y).then_some(place.y);
            aux.width = asks(ConfigWindow::WIDTH).then_some(place.width);
            aux.height = asks(ConfigWindow::HEIGHT).then_some(place.height);
            aux.border_width =
                asks(ConfigWindow::BORDER_WIDTH).then_some(u32::from(event.border_width));
            self.x.configure_window(window, &aux)?;
            return Ok(());
        };
        let mut place = client.geometry;
        let state = client.state;
        let fixed = state.fullscreen || state.maximized_horizontally || state.maximized_vertically;
        if !fixed {
            if asks(ConfigWindow::X) {
                place.x = i32::from(event.x);
            }
            if asks(ConfigWindow::Y) {
                place.y = i32::from(event.y);
            }
            if asks(ConfigWindow::WIDTH) {
                place.width = u32::from(event.width);
            }
            if asks(ConfigWindow::HEIGHT) {
                place.height = u32::from(event.height);
            }
        }
        self.put(window, place)?;
        if asks(ConfigWindow::STACK_MODE)
            && event.stack_mode == StackMode::ABOVE
            && event.sibling == NONE
        {
            teller.raised(window, false);
        }
        Ok(())
    }

    /// Puts a window somewhere. Its program is told, also where nothing changes (ICCCM 4.1.5).
    pub(super) fn put(&mut self, window: Window, place: Rectangle) -> Result<(), Lost> {
        let place = record::place(place);
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        if place != client.geometry {
            client.geometry = place;
            self.x.configure_window(window, &configure_aux(place))?;
        } else {
            let short = |value: i32| i16::try_from(value).unwrap_or(0);
            let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
            let notify = ConfigureNotifyEvent {
                response_type: x11rb::protocol::xproto::CONFIGURE_NOTIFY_EVENT,
                sequence: 0,
                event: window,
                window,
                above_sibling: NONE,
                x: short(place.x),
                y: short(place.y),
                width: size(place.width),
                height: size(place.height),
                border_width: 0,
                override_redirect: false,
            };
            self.x.send_event(false, window, EventMask::STRUCTURE_NOTIFY, notify)?;
        }
        self.touch(window, RECORD);
        Ok(())
    }

    fn message(&mut self, event: &ClientMessageEvent, teller: &mut Teller) -> Result<(), Lost> {
        if event.format != 32 {
            return Ok(());
        }
        let (a, window, data) = (self.atoms, event.window, event.data.as_data32());
        if event.type_ == a.WM_PROTOCOLS && window == self.root && data[0] == a._NET_WM_PING {
            if let Some(client) = self.clients.get_mut(&data[2])
                && client.pinged == Some(data[1])
            {
                client.pinged = None;
            }
            return Ok(());
        }
        if event.type_ == a._NET_REQUEST_FRAME_EXTENTS {
            return self.tell_frame(window, self.frame);
        }
        let Some(client) = self.clients.get(&window) else { return Ok(()) };
        if client.override_redirect {
            return Ok(());
        }
        if event.type_ == a._NET_WM_STATE {
            return self.state_requested(window, data);
        }
        if event.type_ == a.WM_CHANGE_STATE {
            return if data[0] == 3 { self.minimize(window) } else { Ok(()) };
        }
        if event.type_ == a._NET_ACTIVE_WINDOW {
            if client.state.minimized {
                self.restore(window)?;
            }
            teller.raised(window, true);
            return Ok(());
        }
        if event.type_ == a._NET_CLOSE_WINDOW {
            return self.close(window);
        }
        if event.type_ == a._NET_MOVERESIZE_WINDOW {
            let mut place = client.geometry;
            let has = |bit: u32| data[0] & (1 << bit) != 0;
            // Signed numbers in fields without sign.
            let coordinate = |value: u32| i32::from_ne_bytes(value.to_ne_bytes());
            if has(8) {
                place.x = coordinate(data[1]);
            }
            if has(9) {
                place.y = coordinate(data[2]);
            }
            if has(10) {
                place.width = data[3];
            }
            if has(11) {
                place.height = data[4];
            }
            return self.put(window, place);
        }
        if event.type_ == a._NET_WM_MOVERESIZE {
            let Some(direction) = direction(data[2]) else { return Ok(()) };
            let button = if (1..=3).contains(&data[3]) { data[3] } else { 1 };
            teller.move_resize(MoveResize { window, direction: direction.into(), button });
            // The host has the pointer from here on; its release may never come.
            self.release_buttons()?;
        }
        Ok(())
    }

    /// Everything of a window is to be told again.
    pub(super) fn touch_all(&mut self, window: Window) {
        self.touch(window, client::ALL);
    }
}

/// Whether an event is of windows, which are another window manager's business in desktop mode.
fn concerns_windows(event: &Event) -> bool {
    !matches!(
        event,
        Event::RandrNotify(_)
            | Event::RandrScreenChangeNotify(_)
            | Event::SelectionClear(_)
            | Event::XfixesCursorNotify(_)
            | Event::XkbBellNotify(_)
            | Event::Error(_)
    )
}

/// EWMH, _NET_WM_MOVERESIZE. Moves by the keyboard are the host's window manager's own.
fn direction(number: u32) -> Option<MoveResizeDirection> {
    use MoveResizeDirection as D;
    let all = [
        D::TopLeft,
        D::Top,
        D::TopRight,
        D::Right,
        D::BottomRight,
        D::Bottom,
        D::BottomLeft,
        D::Left,
        D::Move,
    ];
    match number {
        11 => Some(D::Cancel),
        _ => all.get(usize::try_from(number).ok()?).copied(),
    }
}
