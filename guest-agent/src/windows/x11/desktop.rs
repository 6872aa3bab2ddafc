//! Desktop mode: the screen shows the windows as any X server does, under a window manager of the guest where
//! one is installed ([`manager`]), else as the agent itself can ([`super::bare`]). Programs go on as they are;
//! only who manages their windows changes, and where they are to be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proto::v1::Rectangle;
use x11rb::connection::Connection as _;
use x11rb::protocol::composite::{ConnectionExt as _, Redirect};
use x11rb::protocol::xproto::{
    AtomEnum, ChangeWindowAttributesAux, ConnectionExt as _, EventMask, PropMode, Window,
};
use x11rb::wrapper::ConnectionExt as _;
use x11rb::{CURRENT_TIME, NONE};

use super::bare::Moved;
use super::manager::{self, Manager};
use super::monitors::shifted;
use super::outputs::Wanted;
use super::{Lost, X11, answer, client, role};
use crate::windows::telling::Teller;

/// How long another window manager may take to let go of the role, and one that was started to take it.
const PATIENCE: Duration = Duration::from_secs(3);
const TO_START: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked whether the window manager still runs.
const LOOK: Duration = Duration::from_secs(1);
/// One that ends sooner than this is not started again.
const SHORT: Duration = Duration::from_secs(10);

/// A window when desktop mode began.
#[derive(Debug)]
struct Before {
    /// Its place in seamless mode.
    host: Rectangle,
    /// Its place when it was looked at last, and whether that is where the window manager has put it.
    desktop: Option<Rectangle>,
    settled: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Desktop {
    on: bool,
    /// The guest's window manager.
    manager: Option<Manager>,
    /// Those that do not run here.
    failed: BTreeSet<PathBuf>,
    look: Option<Instant>,
    before: BTreeMap<Window, Before>,
    /// What the outputs show.
    pub(super) shown: Vec<Wanted>,
    /// The agent manages windows itself.
    pub(super) bare: bool,
    pub(super) moved: Option<Moved>,
    /// The window that had the keyboard when desktop mode ended: the first that the host is told of, for to come
    /// back to seamless mode is a launch, and the first window is what was launched.
    pub(super) active: Window,
}

impl Desktop {
    /// Whether the screen shows the desktop.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Whether the windows are another window manager's.
    pub(super) fn is_given(&self) -> bool {
        self.manager.is_some()
    }

    /// When [`X11::look_after_manager`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look
    }
}

impl X11 {
    /// Shows the windows on the screen.
    pub(super) fn show_desktop(&mut self, teller: &mut Teller) -> Result<(), Lost> {
        if self.desktop.on {
            return Ok(());
        }
        self.desktop.on = true;
        self.desktop.active = NONE;
        self.release_all()?;
        self.forget_pointer()?;
        let managed = self.clients.iter().filter(|(_, client)| !client.override_redirect);
        let places = managed.map(|(window, client)| {
            (*window, Before { host: client.geometry, desktop: None, settled: false })
        });
        self.desktop.before = places.collect();
        self.x.composite_unredirect_subwindows(self.root, Redirect::MANUAL)?;
        self.forget_monitors()?;
        self.light()?;
        self.set_repeat()?;
        for client in self.clients.values_mut() {
            client.renew = true;
        }
        self.desktop.failed.clear();
        self.give_away(teller)
    }

    /// Gives the windows to the first window manager that runs here.
    fn give_away(&mut self, teller: &mut Teller) -> Result<(), Lost> {
        let candidates = manager::installed();
        let mut candidates =
            candidates.into_iter().filter(|program| !self.desktop.failed.contains(program));
        let Some(program) = candidates.next() else {
            self.manage_again()?;
            return self.begin_bare();
        };
        // It gives the keyboard to the window that had it, in front of all others.
        let active = self.active().unwrap_or(NONE);
        self.raise(active)?;
        let windows: Vec<Window> = self.clients.keys().copied().collect();
        for window in windows {
            self.leave_to_others(window, teller)?;
        }
        let (name, kind) = (self.atoms._NET_ACTIVE_WINDOW, AtomEnum::WINDOW);
        self.x.change_property32(PropMode::REPLACE, self.root, name, kind, &[active])?;
        let events = EventMask::SUBSTRUCTURE_NOTIFY | EventMask::STRUCTURE_NOTIFY;
        let aux = ChangeWindowAttributesAux::new().event_mask(events | EventMask::PROPERTY_CHANGE);
        self.x.change_window_attributes(self.root, &aux)?;
        self.x.set_selection_owner(NONE, self.atoms.WM_S0, CURRENT_TIME)?;
        answer(self.x.get_input_focus()?.reply())?;
        let (authority, folder) = (self.authority.as_deref(), self.folder.as_deref());
        match Manager::start(program.clone(), &self.display, authority, folder) {
            Ok(manager) => {
                tracing::info!(program = %program.display(), "the desktop has a window manager");
                self.desktop.manager = Some(manager);
                self.desktop.look = Some(Instant::now() + LOOK);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, program = %program.display(), "no window manager");
                self.desktop.failed.insert(program);
                self.give_away(teller)
            }
        }
    }

    /// Whether the window manager is one, and still there; where it puts windows.
    pub(super) fn look_after_manager(&mut self, teller: &mut Teller) -> Result<(), Lost> {
        let now = Instant::now();
        if self.desktop.look.is_none_or(|look| look > now) {
            return Ok(());
        }
        self.desktop.look = None;
        let Some(mut manager) = self.desktop.manager.take() else { return Ok(()) };
        let age = now.saturating_duration_since(manager.since);
        let ended = manager.has_ended();
        if ended || (age > TO_START && !self.is_managed()?) {
            let program = manager.program.clone();
            tracing::warn!(ended, program = %program.display(), "the desktop has lost its window manager");
            manager.end();
            if !ended || age < SHORT {
                self.desktop.failed.insert(program);
            }
            return self.give_away(teller);
        }
        self.desktop.manager = Some(manager);
        self.desktop.look = Some(now + LOOK);
        self.look_where_windows_are()
    }

    /// Whether somebody has the role.
    fn is_managed(&self) -> Result<bool, Lost> {
        let asked = answer(self.x.get_window_attributes(self.root)?.reply())?;
        let all = asked.map(|attributes| attributes.all_event_masks);
        Ok(all.is_some_and(|all| all.contains(EventMask::SUBSTRUCTURE_REDIRECT)))
    }

    /// A window has its place in desktop mode when it is framed and has stayed where it is for a while.
    fn look_where_windows_are(&mut self) -> Result<(), Lost> {
        let waiting = self.desktop.before.iter().filter(|(_, before)| !before.settled);
        let waiting: Vec<Window> = waiting.map(|(window, _)| *window).collect();
        for window in waiting {
            let tree = answer(self.x.query_tree(window)?.reply())?;
            let place = self.content(window)?;
            let framed = tree.is_some_and(|tree| tree.parent != self.root);
            if let Some(before) = self.desktop.before.get_mut(&window) {
                before.settled = framed && place.is_some() && before.desktop == place;
                before.desktop = place;
            }
        }
        Ok(())
    }

    /// Windows that the agent itself manages have their places at once.
    pub(super) fn note_places(&mut self) {
        for (window, before) in &mut self.desktop.before {
            before.desktop = self.clients.get(window).map(|client| client.geometry);
            before.settled = before.desktop.is_some();
        }
    }

    /// Windows go back to places that have been moved by so much.
    pub(super) fn shift_places(&mut self, by: (i32, i32)) {
        for before in self.desktop.before.values_mut() {
            before.host = shifted(before.host, by);
        }
    }

    /// Where a window is on the screen, within whatever frame.
    fn content(&self, window: Window) -> Result<Option<Rectangle>, Lost> {
        let size = self.x.get_geometry(window)?;
        let place = self.x.translate_coordinates(window, self.root, 0, 0)?;
        let (size, place) = (answer(size.reply())?, answer(place.reply())?);
        Ok(size.zip(place).map(|(size, place)| {
            client::outer(place.dst_x, place.dst_y, size.width, size.height, 0)
        }))
    }

    /// Each window by itself again.
    pub(super) fn hide_desktop(&mut self, _: &mut Teller) -> Result<(), Lost> {
        if !self.desktop.on {
            return Ok(());
        }
        let mut places = BTreeMap::new();
        let mut active = self.focused;
        if let Some(manager) = self.desktop.manager.take() {
            active =
                self.root_windows(self.atoms._NET_ACTIVE_WINDOW)?.first().copied().unwrap_or(NONE);
            for window in self.root_windows(self.atoms._NET_CLIENT_LIST)? {
                places.extend(self.content(window)?.map(|place| (window, place)));
            }
            manager.end();
            // What happened to the windows until now is seen from how they are.
            answer(self.x.get_input_focus()?.reply())?;
            self.backlog.clear();
            while self.x.poll_for_event()?.is_some() {}
            self.cursor.changed = true;
            self.manage_again()?;
        } else {
            self.end_bare()?;
            places.extend(self.clients.iter().map(|(window, client)| (*window, client.geometry)));
        }
        self.desktop.look = None;
        self.desktop.on = false;
        self.set_repeat()?;
        self.focus(NONE)?;
        self.dark()?;
        self.follow_monitors()?;
        self.x.composite_redirect_subwindows(self.root, Redirect::MANUAL)?;
        let before = std::mem::take(&mut self.desktop.before);
        let windows: Vec<Window> = self.clients.keys().copied().collect();
        for window in windows {
            let Some(client) = self.clients.get_mut(&window) else { continue };
            client.renew = true;
            if !client.override_redirect {
                let now = places.get(&window).copied();
                if let Some(place) = back(before.get(&window), now) {
                    self.put(window, place)?;
                }
                self.tell_frame(window, self.frame)?;
            }
            self.touch_all(window);
        }
        self.desktop.active = active;
        Ok(())
    }

    /// The windows that a property of the root window names.
    fn root_windows(&self, name: u32) -> Result<Vec<Window>, Lost> {
        let most = u32::try_from(window_link::limits::WINDOWS).unwrap_or(u32::MAX);
        let asked = self.x.get_property(false, self.root, name, AtomEnum::WINDOW, 0, most)?.reply();
        let windows = answer(asked)?.and_then(|reply| Some(reply.value32()?.collect()));
        Ok(windows.unwrap_or_default())
    }

    /// Takes the role back, as soon as nobody else has it.
    fn manage_again(&mut self) -> Result<(), Lost> {
        let aux = ChangeWindowAttributesAux::new().event_mask(role::root_events());
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

/// Where a window goes when desktop mode ends: where it was, unless the user has moved or resized it there.
fn back(before: Option<&Before>, now: Option<Rectangle>) -> Option<Rectangle> {
    let Some(before) = before else { return now };
    let (Some(now), Some(then)) = (now, before.desktop.filter(|_| before.settled)) else {
        return Some(before.host);
    };
    let mut place = before.host;
    if (now.x, now.y) != (then.x, then.y) {
        (place.x, place.y) = (now.x, now.y);
    }
    if (now.width, now.height) != (then.width, then.height) {
        (place.width, place.height) = (now.width, now.height);
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: i32, y: i32, width: u32, height: u32) -> Rectangle {
        Rectangle { x, y, width, height }
    }

    #[test]
    fn what_the_user_has_moved_stays_there_and_the_rest_goes_back() {
        let before = |desktop, settled| Before { host: at(900, 700, 300, 200), desktop, settled };
        let then = at(500, 400, 300, 200);
        let settled = before(Some(then), true);
        assert_eq!(back(Some(&settled), Some(then)), Some(at(900, 700, 300, 200)));
        assert_eq!(back(Some(&settled), Some(at(10, 30, 300, 200))), Some(at(10, 30, 300, 200)));
        assert_eq!(
            back(Some(&settled), Some(at(500, 400, 350, 200))),
            Some(at(900, 700, 350, 200))
        );
        // Nobody can have moved it before it had a place.
        assert_eq!(
            back(Some(&before(Some(then), false)), Some(at(1, 1, 9, 9))),
            Some(at(900, 700, 300, 200))
        );
        assert_eq!(back(Some(&settled), None), Some(at(900, 700, 300, 200)));
        // A window that is new.
        assert_eq!(back(None, Some(then)), Some(then));
    }
}
