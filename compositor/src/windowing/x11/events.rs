//! What winit and the X server report.

use super::{Native, X11};
use crate::model::{Kind, Rect, Seen, State};
use crate::windowing::{Notice, WindowingError};
use winit::dpi::PhysicalSize;
use winit::event::{ElementState, MouseButton, MouseScrollDelta, WindowEvent};
use x11rb::protocol::Event;
use x11rb::protocol::xinput::{KeyEventFlags, KeyPressEvent};
use x11rb::protocol::xproto::{AtomEnum, ConnectionExt as _, ModMask, Visibility};

/// X11 counts keys from 8 (XKB, evdev rules).
const FIRST_KEY: u32 = 8;
/// linux/input-event-codes.h.
const KEY_ENTER: u32 = 28;
const KEY_BACKSPACE: u32 = 14;
/// A frame of so many pixels above a window has room for a title.
const TITLE: u32 = 8;
/// A notch of a wheel.
const NOTCH: f64 = 120.0;

/// Whether a title bar is over this window on a desktop that has any.
fn has_title(native: &Native, state: State) -> bool {
    let view = &native.view;
    let full = state.fullscreen || state.maximized_vertically || state.minimized;
    view.decorated && !full && matches!(view.kind, Kind::Normal | Kind::Dialog)
}

fn fixed(number: f64, by: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates; what is not a number is 0")]
    let fixed = (number * by).round() as i32;
    fixed
}

impl X11 {
    pub(super) fn of_winit(&mut self, id: u32, event: WindowEvent) {
        let time = self.now();
        match event {
            WindowEvent::CloseRequested => self.see(Seen::Close(id)),
            WindowEvent::RedrawRequested => self.notices.push(Notice::Exposed(id)),
            WindowEvent::Focused(true) => {
                self.focus = Some(id);
                self.focus_changed = true;
            }
            WindowEvent::Focused(false) if self.focus == Some(id) => {
                self.focus = None;
                self.focus_changed = true;
            }
            WindowEvent::CursorMoved { position, .. } => {
                self.pointer = Some(id);
                let (x, y) = (fixed(position.x, 256.0), fixed(position.y, 256.0));
                // Of a fast pointer only the last place in a batch counts.
                if let Some(Notice::Seen(Seen::Motion { window, .. })) = self.notices.last()
                    && *window == id
                {
                    self.notices.pop();
                }
                self.see(Seen::Motion { window: id, x, y, time });
            }
            WindowEvent::CursorLeft { .. } if self.pointer == Some(id) => {
                self.pointer = None;
                self.pointer_left = true;
            }
            WindowEvent::MouseInput { state, button, .. } => {
                let button = match button {
                    MouseButton::Left => 1,
                    MouseButton::Middle => 2,
                    MouseButton::Right => 3,
                    MouseButton::Back => 8,
                    MouseButton::Forward => 9,
                    MouseButton::Other(_) => return,
                };
                let pressed = state == ElementState::Pressed;
                if pressed
                    && let Some(native) = self.windows.get(&id)
                    && let Err(error) = self.ask_time(native.xid)
                {
                    tracing::debug!("window {id}: {error}");
                }
                self.see(Seen::Button { window: id, button, pressed, time });
            }
            WindowEvent::MouseWheel { delta, .. } => {
                // winit says where the content goes, the protocol where the wheel goes.
                let (horizontal, vertical) = match delta {
                    MouseScrollDelta::LineDelta(x, y) => (-f64::from(x), -f64::from(y)),
                    // A notch is about three lines of text.
                    MouseScrollDelta::PixelDelta(by) => (-by.x / 50.0, -by.y / 50.0),
                };
                let (horizontal, vertical) = (fixed(horizontal, NOTCH), fixed(vertical, NOTCH));
                if (horizontal, vertical) != (0, 0) {
                    self.see(Seen::Scroll { window: id, horizontal, vertical, time });
                }
            }
            WindowEvent::ScaleFactorChanged { mut inner_size_writer, .. } => {
                // Guest pixels stay physical pixels.
                if let Some(native) = self.windows.get(&id) {
                    let size = PhysicalSize::new(native.rect.width, native.rect.height);
                    if let Err(error) = inner_size_writer.request_inner_size(size) {
                        tracing::debug!("window {id}: {error}");
                    }
                }
                self.notices.push(Notice::Monitors);
            }
            _ => {}
        }
    }

    pub(super) fn of_server(&mut self, event: Event) {
        tracing::trace!(?event);
        match event {
            Event::ConfigureNotify(event) if event.window == self.root => {
                self.notices.push(Notice::Monitors);
            }
            Event::ConfigureNotify(event) => self.changed(event.window),
            Event::ReparentNotify(event) => self.changed(event.window),
            Event::MapNotify(event) => self.mapped(event.window, true),
            Event::UnmapNotify(event) => self.mapped(event.window, false),
            Event::VisibilityNotify(event) => {
                let id = self.by_xid.get(&event.window);
                if let Some(native) = id.and_then(|id| self.windows.get_mut(id)) {
                    native.obscured = event.state == Visibility::FULLY_OBSCURED;
                    self.changed(event.window);
                }
            }
            Event::PropertyNotify(event) if event.window == self.root => {
                let atoms = &self.atoms;
                if [atoms._NET_WORKAREA, atoms._GTK_WORKAREAS_D0, atoms._NET_CURRENT_DESKTOP]
                    .contains(&event.atom)
                    || event.atom == u32::from(AtomEnum::RESOURCE_MANAGER)
                {
                    self.notices.push(Notice::Monitors);
                } else if event.atom == atoms._XKB_RULES_NAMES {
                    self.notices.push(Notice::Keyboard);
                }
            }
            Event::PropertyNotify(event) if event.atom == self.atoms._MACROHARD_NOW => {
                self.user_time = event.time;
            }
            Event::PropertyNotify(event) => {
                let atoms = &self.atoms;
                if [atoms._NET_WM_STATE, atoms.WM_STATE, atoms._NET_FRAME_EXTENTS]
                    .contains(&event.atom)
                {
                    self.changed(event.window);
                }
            }
            Event::RandrNotify(_) | Event::RandrScreenChangeNotify(_) => {
                self.notices.push(Notice::Monitors);
            }
            Event::XinputKeyPress(event) => self.key(&event, true),
            Event::XinputKeyRelease(event) => self.key(&event, false),
            Event::ShmCompletion(event) => {
                if let Some(id) = self.by_xid.get(&event.drawable) {
                    self.notices.push(Notice::Copied(*id));
                }
            }
            // Of windows that were closed while something was asked of them.
            Event::Error(error) => tracing::debug!("the X server refused: {error:?}"),
            _ => {}
        }
    }

    fn see(&mut self, seen: Seen) {
        self.notices.push(Notice::Seen(seen));
    }

    fn changed(&mut self, xid: u32) {
        if let Some(id) = self.by_xid.get(&xid) {
            self.stale.insert(*id);
        }
    }

    fn mapped(&mut self, xid: u32, mapped: bool) {
        let id = self.by_xid.get(&xid);
        if let Some(native) = id.and_then(|id| self.windows.get_mut(id)) {
            native.mapped = mapped;
            self.changed(xid);
        }
    }

    fn key(&mut self, event: &KeyPressEvent, pressed: bool) {
        // The guest repeats by itself.
        if event.flags.contains(KeyEventFlags::KEY_REPEAT) {
            return;
        }
        let (Some(id), Some(code)) =
            (self.by_xid.get(&event.event).copied(), event.detail.checked_sub(FIRST_KEY))
        else {
            return;
        };
        let chord = u32::from(ModMask::CONTROL | ModMask::M1);
        if event.mods.effective & chord == chord && (code == KEY_ENTER || code == KEY_BACKSPACE) {
            // The user's own: no guest sees them, so that none can keep its window on the whole screen.
            if pressed && code == KEY_ENTER {
                self.toggle_fullscreen(id);
            } else if pressed {
                self.notices.push(Notice::Toggle);
            }
            return;
        }
        if pressed {
            window_link::latency::begin("pressed");
            self.user_time = event.time;
        }
        self.see(Seen::Key { window: id, code, pressed, time: event.time });
    }

    fn toggle_fullscreen(&mut self, id: u32) {
        let Some(native) = self.windows.get(&id) else { return };
        let atom = self.atoms._NET_WM_STATE_FULLSCREEN;
        if let Err(error) = self.ask_state(native.xid, atom, !native.state.fullscreen) {
            tracing::warn!("window {id} cannot change to or from the whole screen: {error}");
        }
    }

    /// Whether there is a window manager that says so (EWMH). Without one windows are as they are.
    fn is_managed(&self) -> Result<bool, WindowingError> {
        let check = self.atoms._NET_SUPPORTING_WM_CHECK;
        let asked = self.connection.get_property(false, self.root, check, AtomEnum::ANY, 0, 1)?;
        Ok(asked.reply()?.length > 0)
    }

    /// How much of its frame is above a window whose top is at `y`, whatever the window manager says.
    fn above(&self, xid: u32, y: i32) -> Result<u32, WindowingError> {
        let mut outermost = xid;
        loop {
            let parent = self.connection.query_tree(outermost)?.reply()?.parent;
            if parent == self.root || parent == x11rb::NONE {
                break;
            }
            outermost = parent;
        }
        let top = self.connection.get_geometry(outermost)?.reply()?;
        let top = i32::from(top.y) + i32::from(top.border_width);
        Ok(u32::try_from(y - top).unwrap_or(0))
    }

    /// Where a window is now and what became of it.
    pub(super) fn look(&mut self, id: u32) -> Result<(), WindowingError> {
        let Some(native) = self.windows.get(&id) else { return Ok(()) };
        let xid = native.xid;
        let geometry = self.connection.get_geometry(xid)?;
        let place = self.connection.translate_coordinates(xid, self.root, 0, 0)?;
        let (state, frame) = if native.view.popup {
            (native.view.state, native.frame)
        } else {
            self.read_state(xid)?
        };
        let (geometry, place) = (geometry.reply()?, place.reply()?);
        if native.mapped && has_title(native, state) {
            self.titles = frame.top >= TITLE
                || !self.is_managed()?
                || self.above(xid, place.dst_y.into())? >= TITLE;
        }
        let rect = Rect {
            x: place.dst_x.into(),
            y: place.dst_y.into(),
            width: geometry.width.into(),
            height: geometry.height.into(),
        };
        let Some(native) = self.windows.get_mut(&id) else { return Ok(()) };
        let size = [rect.width, rect.height];
        if size != [native.rect.width, native.rect.height] {
            self.notices.push(Notice::Sized(id, size));
        }
        native.rect = rect;
        native.state = state;
        native.frame = frame;
        // Before the window manager has had it in hand, its place means nothing.
        if native.mapped || state.minimized {
            let hidden = !native.mapped || native.obscured || state.minimized;
            self.see(Seen::Placed { window: id, native: rect, state, frame, hidden });
        }
        Ok(())
    }
}
