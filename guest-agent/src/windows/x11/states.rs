//! States of windows (_NET_WM_STATE), asked for by programs or made by the host.

use proto::v1::{Extents, WindowState};
use x11rb::protocol::xproto::{Atom, AtomEnum, PropMode, Window};
use x11rb::wrapper::ConnectionExt as _;

use super::client::RECORD;
use super::{Lost, X11};

/// How a program changes a state (EWMH, _NET_WM_STATE).
const REMOVE: u32 = 0;
const ADD: u32 = 1;
const TOGGLE: u32 = 2;

impl X11 {
    /// A program asks for up to two changes at once.
    pub(super) fn state_requested(&mut self, window: Window, data: [u32; 5]) -> Result<(), Lost> {
        let a = self.atoms;
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        let before = client.state;
        let (mut state, mut modal) = (client.state, client.modal);
        for atom in [data[1], data[2]] {
            let flag = match atom {
                0 => continue,
                atom if atom == a._NET_WM_STATE_MODAL => &mut modal,
                atom => match flag(&a, &mut state, atom) {
                    Some(flag) => flag,
                    None => continue,
                },
            };
            match data[0] {
                REMOVE => *flag = false,
                ADD => *flag = true,
                TOGGLE => *flag = !*flag,
                _ => {}
            }
        }
        client.modal = modal;
        // Minimizing has a way of its own.
        let minimized = state.minimized;
        state.minimized = before.minimized;
        client.state = state;
        self.refit(window, before)?;
        match (before.minimized, minimized) {
            (false, true) => self.minimize(window)?,
            (true, false) => self.restore(window)?,
            _ => self.write_state(window)?,
        }
        self.touch(window, RECORD);
        Ok(())
    }

    /// Gives a window the size that its states ask for, or the one it had before.
    fn refit(&mut self, window: Window, before: WindowState) -> Result<(), Lost> {
        let large = |state: WindowState| {
            (state.fullscreen, state.maximized_horizontally, state.maximized_vertically)
        };
        let Some(client) = self.clients.get(&window) else { return Ok(()) };
        if large(client.state) == large(before) {
            return Ok(());
        }
        self.fill(window)
    }

    /// As large as its states say.
    pub(super) fn fill(&mut self, window: Window) -> Result<(), Lost> {
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        let (state, geometry) = (client.state, client.geometry);
        let restore = *client.restore.get_or_insert(geometry);
        let frame = client.frame;
        let mut place = restore;
        if state.fullscreen {
            place = self.monitor_of(geometry, true);
        } else {
            let area = self.monitor_of(geometry, false);
            let shift = |value: u32| i32::try_from(value).unwrap_or(0);
            if state.maximized_horizontally {
                place.x = area.x + shift(frame.left);
                place.width = area.width.saturating_sub(frame.left + frame.right);
            }
            if state.maximized_vertically {
                place.y = area.y + shift(frame.top);
                place.height = area.height.saturating_sub(frame.top + frame.bottom);
            }
            if !state.maximized_horizontally
                && !state.maximized_vertically
                && let Some(client) = self.clients.get_mut(&window)
            {
                client.restore = None;
            }
        }
        self.put(window, place)
    }

    /// Shows a window's states to its program.
    pub(super) fn write_state(&self, window: Window) -> Result<(), Lost> {
        let Some(client) = self.clients.get(&window) else { return Ok(()) };
        let a = &self.atoms;
        let mut state = client.state;
        let mut atoms: Vec<Atom> = Vec::new();
        for atom in [
            a._NET_WM_STATE_MAXIMIZED_HORZ,
            a._NET_WM_STATE_MAXIMIZED_VERT,
            a._NET_WM_STATE_FULLSCREEN,
            a._NET_WM_STATE_HIDDEN,
            a._NET_WM_STATE_ABOVE,
            a._NET_WM_STATE_BELOW,
            a._NET_WM_STATE_SKIP_TASKBAR,
            a._NET_WM_STATE_DEMANDS_ATTENTION,
            a._NET_WM_STATE_SHADED,
        ] {
            if flag(a, &mut state, atom).is_some_and(|flag| *flag) {
                atoms.push(atom);
            }
        }
        if client.modal {
            atoms.push(a._NET_WM_STATE_MODAL);
        }
        if self.focused == window {
            atoms.push(a._NET_WM_STATE_FOCUSED);
        }
        let (replace, name) = (PropMode::REPLACE, a._NET_WM_STATE);
        self.x.change_property32(replace, window, name, AtomEnum::ATOM, &atoms)?;
        Ok(())
    }

    /// Says what may be done with a window: everything.
    pub(super) fn allow(&self, window: Window) -> Result<(), Lost> {
        let a = &self.atoms;
        let all = [
            a._NET_WM_ACTION_MOVE,
            a._NET_WM_ACTION_RESIZE,
            a._NET_WM_ACTION_MINIMIZE,
            a._NET_WM_ACTION_MAXIMIZE_HORZ,
            a._NET_WM_ACTION_MAXIMIZE_VERT,
            a._NET_WM_ACTION_FULLSCREEN,
            a._NET_WM_ACTION_CLOSE,
        ];
        let (replace, name) = (PropMode::REPLACE, a._NET_WM_ALLOWED_ACTIONS);
        self.x.change_property32(replace, window, name, AtomEnum::ATOM, &all)?;
        Ok(())
    }

    /// Says how large the host's frame around a window is.
    pub(super) fn tell_frame(&self, window: Window, frame: Extents) -> Result<(), Lost> {
        let values = [frame.left, frame.right, frame.top, frame.bottom];
        let (replace, name) = (PropMode::REPLACE, self.atoms._NET_FRAME_EXTENTS);
        self.x.change_property32(replace, window, name, AtomEnum::CARDINAL, &values)?;
        Ok(())
    }
}

/// The state of this name.
fn flag<'a>(a: &super::Atoms, state: &'a mut WindowState, atom: Atom) -> Option<&'a mut bool> {
    Some(match atom {
        atom if atom == a._NET_WM_STATE_MAXIMIZED_HORZ => &mut state.maximized_horizontally,
        atom if atom == a._NET_WM_STATE_MAXIMIZED_VERT => &mut state.maximized_vertically,
        atom if atom == a._NET_WM_STATE_FULLSCREEN => &mut state.fullscreen,
        atom if atom == a._NET_WM_STATE_HIDDEN => &mut state.minimized,
        atom if atom == a._NET_WM_STATE_ABOVE => &mut state.above,
        atom if atom == a._NET_WM_STATE_BELOW => &mut state.below,
        atom if atom == a._NET_WM_STATE_SKIP_TASKBAR => &mut state.skip_taskbar,
        atom if atom == a._NET_WM_STATE_DEMANDS_ATTENTION => &mut state.demands_attention,
        atom if atom == a._NET_WM_STATE_SHADED => &mut state.shaded,
        _ => return None,
    })
}
