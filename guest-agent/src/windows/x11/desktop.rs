//! Desktop mode: the screen shows the windows as any X server does, under a window manager of the guest where
//! one is installed. Programs go on as they are; only who manages their windows changes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use x11rb::protocol::composite::{ConnectionExt as _, Redirect};
use x11rb::protocol::xproto::{ChangeWindowAttributesAux, ConnectionExt as _, EventMask, Window};
use x11rb::{CURRENT_TIME, NONE};

use super::{Lost, X11, answer};
use crate::windows::telling::Teller;

/// Window managers, the system's own choice first (Debian Policy 11.8.4).
const MANAGERS: [&str; 8] =
    ["x-window-manager", "openbox", "xfwm4", "marco", "metacity", "kwin_x11", "icewm", "fluxbox"];
/// How long a window manager may take to end, or to let go of the role.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Desktop {
    on: bool,
    /// The guest's window manager.
    manager: Option<Child>,
}

impl Desktop {
    /// Whether the screen shows the desktop.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }
}

impl X11 {
    /// Shows the windows on the screen.
    pub(super) fn show_desktop(&mut self, teller: &mut Teller) -> Result<(), Lost> {
        if self.desktop.on {
            return Ok(());
        }
        self.desktop.on = true;
        self.release_all()?;
        self.x.unmap_window(self.shield)?;
        self.x.composite_unredirect_subwindows(self.root, Redirect::MANUAL)?;
        let Some(program) = manager() else {
            tracing::info!(
                "no window manager is installed: the desktop shows windows without frames"
            );
            for client in self.clients.values_mut() {
                client.renew = true;
            }
            return Ok(());
        };
        let windows: Vec<Window> = self.clients.keys().copied().collect();
        for window in windows {
            self.leave_to_others(window, teller)?;
        }
        let events = EventMask::SUBSTRUCTURE_NOTIFY | EventMask::STRUCTURE_NOTIFY;
        let aux = ChangeWindowAttributesAux::new().event_mask(events | EventMask::PROPERTY_CHANGE);
        self.x.change_window_attributes(self.root, &aux)?;
        self.x.set_selection_owner(NONE, self.atoms.WM_S0, CURRENT_TIME)?;
        answer(self.x.get_input_focus()?.reply())?;
        let mut command = Command::new(&program);
        command.env("DISPLAY", &self.display);
        if let Some(file) = &self.authority {
            command.env("XAUTHORITY", file);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => self.desktop.manager = Some(child),
            Err(error) => {
                tracing::warn!(%error, program = %program.display(), "no window manager");
                self.manage_again()?;
            }
        }
        Ok(())
    }

    /// Each window by itself again.
    pub(super) fn hide_desktop(&mut self, _: &mut Teller) -> Result<(), Lost> {
        if !self.desktop.on {
            return Ok(());
        }
        if let Some(child) = self.desktop.manager.take() {
            end(child);
            self.manage_again()?;
        }
        self.desktop.on = false;
        self.x.composite_redirect_subwindows(self.root, Redirect::MANUAL)?;
        let windows: Vec<Window> = self.clients.keys().copied().collect();
        for window in windows {
            if let Some(client) = self.clients.get_mut(&window) {
                client.renew = true;
            }
            self.touch_all(window);
        }
        Ok(())
    }

    /// Takes the role back, as soon as nobody else has it.
    fn manage_again(&mut self) -> Result<(), Lost> {
        let events = EventMask::SUBSTRUCTURE_REDIRECT
            | EventMask::SUBSTRUCTURE_NOTIFY
            | EventMask::STRUCTURE_NOTIFY
            | EventMask::PROPERTY_CHANGE;
        let aux = ChangeWindowAttributesAux::new().event_mask(events);
        let deadline = Instant::now() + PATIENCE;
        while answer(self.x.change_window_attributes(self.root, &aux)?.check())?.is_none() {
            if Instant::now() > deadline {
                return Err(Lost("the guest's window manager keeps the role".to_owned()));
            }
            std::thread::sleep(PAUSE);
        }
        self.x.set_selection_owner(self.own, self.atoms.WM_S0, CURRENT_TIME)?;
        self.announce()?;
        self.adopt_all()
    }
}

/// The window manager to start.
fn manager() -> Option<PathBuf> {
    let places = std::env::var_os("PATH")?;
    let places: Vec<PathBuf> = std::env::split_paths(&places).collect();
    MANAGERS
        .iter()
        .flat_map(|name| places.iter().map(move |place| place.join(name)))
        .find(|path| path.is_file())
}

/// Asks a program to end, and ends it if it does not.
fn end(mut child: Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    let _ = child.kill();
    let _ = child.wait();
}
