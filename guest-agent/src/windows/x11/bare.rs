//! Desktop mode in a guest without a window manager: windows lie on the screen without frames, and a click raises
//! one and gives it the keyboard. With Alt held down the first button moves it.

use proto::v1::Rectangle;
use x11rb::NONE;
use x11rb::protocol::xproto::{
    Allow, ButtonIndex, ButtonPressEvent, ConfigureWindowAux, ConnectionExt as _, EventMask,
    GrabMode, KeyButMask, ModMask, MotionNotifyEvent, StackMode, Window,
};

use super::{Lost, X11};

/// A window that the pointer moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    window: Window,
    /// From the window's place to the pointer's.
    from: (i32, i32),
}

impl X11 {
    /// Begins to manage windows so.
    pub(super) fn begin_bare(&mut self) -> Result<(), Lost> {
        tracing::info!("no window manager is installed: the desktop shows windows without frames");
        let events =
            EventMask::BUTTON_PRESS | EventMask::BUTTON_RELEASE | EventMask::BUTTON1_MOTION;
        self.x.grab_button(
            false,
            self.root,
            events,
            // Until it is known whose the click is.
            GrabMode::SYNC,
            GrabMode::ASYNC,
            NONE,
            NONE,
            ButtonIndex::M1,
            ModMask::ANY,
        )?;
        self.desktop.bare = true;
        self.bring_in()?;
        self.note_places();
        let active = self.active().unwrap_or(NONE);
        self.bring_to_front(active)
    }

    pub(super) fn end_bare(&mut self) -> Result<(), Lost> {
        self.x.ungrab_button(ButtonIndex::M1, self.root, ModMask::ANY)?;
        self.desktop.bare = false;
        self.desktop.moved = None;
        Ok(())
    }

    /// A window that was mapped, or that is left when the one with the keyboard has gone.
    pub(super) fn focus_bare(&mut self, window: Option<Window>) -> Result<(), Lost> {
        if !self.desktop.bare {
            return Ok(());
        }
        let last = self.order.iter().rev().copied();
        let mut candidates = window.into_iter().chain(last.filter(|_| self.focused == NONE));
        match candidates.find(|window| self.takes_keys(*window)) {
            Some(window) => self.bring_to_front(window),
            None => Ok(()),
        }
    }

    /// The window that has the keyboard, else the last one.
    pub(super) fn active(&self) -> Option<Window> {
        let all = std::iter::once(&self.focused).chain(self.order.iter().rev());
        all.copied().find(|window| self.takes_keys(*window))
    }

    fn takes_keys(&self, window: Window) -> bool {
        self.clients.get(&window).is_some_and(|client| !client.override_redirect && client.mapped)
    }

    pub(super) fn raise(&self, window: Window) -> Result<(), Lost> {
        if window != NONE {
            let aux = ConfigureWindowAux::new().stack_mode(StackMode::ABOVE);
            self.x.configure_window(window, &aux)?;
        }
        Ok(())
    }

    fn bring_to_front(&mut self, window: Window) -> Result<(), Lost> {
        self.raise(window)?;
        self.focus(window)
    }

    /// A click somewhere.
    pub(super) fn clicked(&mut self, event: &ButtonPressEvent) -> Result<(), Lost> {
        if !self.desktop.bare || event.event != self.root {
            return Ok(());
        }
        let window = event.child;
        let known = self.takes_keys(window);
        if known {
            self.bring_to_front(window)?;
        }
        let place = self.clients.get(&window).filter(|_| known).map(|client| client.geometry);
        let moves = place.filter(|_| event.state.contains(KeyButMask::MOD1));
        self.desktop.moved = moves.map(|place| Moved {
            window,
            from: (i32::from(event.root_x) - place.x, i32::from(event.root_y) - place.y),
        });
        let allow = if moves.is_some() { Allow::ASYNC_POINTER } else { Allow::REPLAY_POINTER };
        self.x.allow_events(allow, event.time)?;
        Ok(())
    }

    /// The pointer moves with a window.
    pub(super) fn dragged(&mut self, event: &MotionNotifyEvent) -> Result<(), Lost> {
        let Some(moved) = self.desktop.moved else { return Ok(()) };
        let Some(client) = self.clients.get(&moved.window) else { return Ok(()) };
        let (x, y) =
            (i32::from(event.root_x) - moved.from.0, i32::from(event.root_y) - moved.from.1);
        let place = Rectangle { x, y, ..client.geometry };
        self.put(moved.window, place)
    }

    /// Brings windows that are outside of the screen into it.
    fn bring_in(&mut self) -> Result<(), Lost> {
        let (width, height) = (i32::from(self.size.0), i32::from(self.size.1));
        let mut windows = self.order.clone();
        windows.retain(|window| self.takes_keys(*window));
        for window in windows {
            let Some(place) = self.clients.get(&window).map(|client| client.geometry) else {
                continue;
            };
            let within = |start: i32, length: u32, most: i32| {
                let length = i32::try_from(length).unwrap_or(most);
                start.min(most - length).max(0)
            };
            let x = within(place.x, place.width, width);
            let y = within(place.y, place.height, height);
            self.put(window, Rectangle { x, y, ..place })?;
        }
        Ok(())
    }
}
