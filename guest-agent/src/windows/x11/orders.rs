//! What the host says.

use proto::v1::{Configure, Monitors, WindowsMode, from_host};
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ConnectionExt as _, EventMask, InputFocus, PropMode, Window,
};
use x11rb::wrapper::ConnectionExt as _;
use x11rb::{CURRENT_TIME, NONE};

use super::client::RECORD;
use super::monitors::shifted;
use super::{Lost, X11};
use crate::windows::telling::Teller;

impl X11 {
    /// Does it. What the loop does itself does not come here.
    pub(super) fn carry_out(
        &mut self,
        order: from_host::Message,
        teller: &mut Teller,
    ) -> Result<(), Lost> {
        use from_host::Message as M;
        match order {
            M::Monitors(Monitors { monitors }) => self.monitors(monitors),
            M::Keyboard(keyboard) => self.keyboard(&keyboard),
            M::Mode(mode) if mode.mode() == WindowsMode::Desktop => self.show_desktop(teller),
            M::Mode(mode) if mode.mode() == WindowsMode::Seamless => self.hide_desktop(teller),
            // Of windows that the host does not show any longer.
            _ if self.desktop.is_on() => Ok(()),
            M::Configure(configure) => self.configure(&configure),
            M::Focus(focus) => self.focus(focus.window),
            M::Close(close) => self.close(close.window),
            M::Motion(motion) => self.motion(&motion),
            M::Button(button) => self.button(&button),
            M::Scroll(scroll) => self.scroll(&scroll),
            M::Key(key) => self.key(&key),
            M::Mode(_) | M::Hello(_) | M::Ack(_) | M::Resync(_) | M::Ping(_) => Ok(()),
        }
    }

    fn configure(&mut self, configure: &Configure) -> Result<(), Lost> {
        let window = configure.window;
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        if client.override_redirect {
            self.touch(window, RECORD);
            return Ok(());
        }
        if let Some(frame) = configure.frame
            && frame != client.frame
        {
            client.frame = frame;
            self.frame = frame;
            self.tell_frame(window, frame)?;
        }
        if let Some(mut state) = configure.state
            && let Some(client) = self.clients.get_mut(&window)
        {
            let minimized = state.minimized;
            state.minimized = client.state.minimized;
            // What the host has no word for is the program's own.
            if client.state != state {
                let before = client.state;
                client.state = state;
                let large = |state: &proto::v1::WindowState| {
                    state.fullscreen || state.maximized_horizontally || state.maximized_vertically
                };
                if large(&state) && !large(&before) {
                    client.restore.get_or_insert(client.geometry);
                } else if !large(&state) {
                    client.restore = None;
                }
                self.write_state(window)?;
            }
            match minimized {
                true => self.minimize(window)?,
                false if state.minimized => self.restore(window)?,
                false => {}
            }
        }
        if let Some(place) = configure.geometry {
            self.put_in_time(window, shifted(place, (-self.origin.0, -self.origin.1)))?;
        }
        self.touch(window, RECORD);
        Ok(())
    }

    /// Gives the keyboard to a window, or to none.
    pub(super) fn focus(&mut self, window: Window) -> Result<(), Lost> {
        let before = self.focused;
        if before != window {
            self.release_keys()?;
        }
        let client = self.clients.get(&window).filter(|client| client.mapped);
        let Some(client) = client else {
            self.focused = NONE;
            // To the agent's own window, so that keys go nowhere.
            self.x.set_input_focus(InputFocus::POINTER_ROOT, self.own, CURRENT_TIME)?;
            return self.focus_told(before);
        };
        let (input, takes) = (client.properties.hints.input, client.properties.takes_focus);
        self.focused = window;
        // Of now, so that no later change of the focus makes it one of the past (ICCCM 4.1.7).
        let time = self.time()?;
        if input {
            self.x.set_input_focus(InputFocus::POINTER_ROOT, window, time)?;
        }
        if takes {
            self.say(window, [self.atoms.WM_TAKE_FOCUS, time, 0, 0, 0])?;
        }
        self.focus_told(before)
    }

    fn focus_told(&mut self, before: Window) -> Result<(), Lost> {
        let active = self.atoms._NET_ACTIVE_WINDOW;
        let value = [self.focused];
        self.x.change_property32(PropMode::REPLACE, self.root, active, AtomEnum::WINDOW, &value)?;
        for window in [before, self.focused] {
            if self.clients.get(&window).is_some_and(|client| !client.override_redirect) {
                self.write_state(window)?;
            }
        }
        self.listed = true;
        Ok(())
    }

    /// Asks a window to close. One that cannot be asked, or that has not answered since it was asked before,
    /// loses its program.
    pub(super) fn close(&mut self, window: Window) -> Result<(), Lost> {
        let Some(client) = self.clients.get(&window) else { return Ok(()) };
        let (deletes, pings, pinged) =
            (client.properties.deletes, client.properties.pings, client.pinged.is_some());
        if !deletes || pinged {
            tracing::info!(
                window,
                answers = !pinged,
                "a window that cannot be asked to close is ended"
            );
            self.x.kill_client(window)?;
            return Ok(());
        }
        let time = self.time()?;
        self.say(window, [self.atoms.WM_DELETE_WINDOW, time, 0, 0, 0])?;
        if pings {
            self.say(window, [self.atoms._NET_WM_PING, time, window, 0, 0])?;
            if let Some(client) = self.clients.get_mut(&window) {
                client.pinged = Some(time);
            }
        }
        Ok(())
    }

    pub(super) fn say(&self, window: Window, data: [u32; 5]) -> Result<(), Lost> {
        let message = ClientMessageEvent::new(32, window, self.atoms.WM_PROTOCOLS, data);
        self.x.send_event(false, window, EventMask::NO_EVENT, message)?;
        Ok(())
    }
}
