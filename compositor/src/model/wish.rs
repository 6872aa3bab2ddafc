//! What a guest may do by itself with the keyboard and the screen. Without the user it may neither take the
//! keyboard nor cover a monitor: what it wishes then is refused, counted, and its window asks to be looked at.
//!
//! The user is behind a guest's wish when one of the guest's windows has the keyboard and a key or button was
//! pressed in one of them since the keyboard came from elsewhere ([`User::acted`]), or when an application
//! of it was launched a moment ago ([`User::launched`]): one window for each launch.

use super::record::Kind;
use super::{Act, Model, Record, Refusal, State};
use proto::v1;
use std::time::Duration;

/// How long after a launch a window counts as what was launched: a machine without hardware virtualization
/// takes that long to start a large application.
const LAUNCH: Duration = Duration::from_secs(60);
/// Launches that are waited for at once.
const LAUNCHES: u32 = 8;

/// What the user did in this guest's windows, and asked of it.
#[derive(Debug, Default)]
pub(super) struct User {
    /// A key or button was pressed since the keyboard came to this guest, or since the user took a window
    /// from the whole screen.
    acted: bool,
    /// It was not followed by a window that put itself on top.
    raises: bool,
    /// Launches whose window has not come.
    launches: u32,
    /// How long they are waited for.
    left: Duration,
}

impl User {
    /// Presses a key or a button in a window of this guest.
    pub(super) fn press(&mut self) {
        (self.acted, self.raises) = (true, true);
    }

    /// Has gone elsewhere.
    pub(super) fn leave(&mut self) {
        (self.acted, self.raises) = (false, false);
    }

    /// Has taken a window from the whole screen: it does not go back by itself.
    pub(super) fn shrink(&mut self) {
        self.acted = false;
    }

    fn take_launch(&mut self) -> bool {
        let any = self.launches > 0;
        self.launches = self.launches.saturating_sub(1);
        any
    }
}

impl Record {
    /// It can be what a launch was for.
    fn is_application(&self) -> bool {
        self.focusable && !self.popup && matches!(self.kind, Kind::Normal | Kind::Dialog)
    }
}

impl Model {
    /// The user has launched an application of this guest: its window may take the keyboard.
    pub fn launched(&mut self) {
        self.user.launches = (self.user.launches + 1).min(LAUNCHES);
        self.user.left = LAUNCH;
    }

    /// So much time has passed.
    pub fn pass(&mut self, time: Duration) {
        self.user.left = self.user.left.saturating_sub(time);
        if self.user.left.is_zero() {
            self.user.launches = 0;
        }
        self.openings.pass(time);
    }

    /// Whether a window that appears now may have the keyboard.
    pub(super) fn may_come_forward(&mut self, id: u32) -> bool {
        let application =
            self.windows.get(&id).is_some_and(|window| window.record.is_application());
        let launched = application && self.user.take_launch();
        launched || self.focus.is_some()
    }

    /// Of the state that a guest wishes for a window that is in state `now`, what it may have.
    pub(super) fn grant(&mut self, id: u32, record: &Record, now: State) -> State {
        let launched = self.user.launches > 0 && record.is_application();
        let called = launched || (self.focus.is_some() && self.user.acted);
        let mut state = record.state;
        // Where no key comes no key leads out of it.
        let able = record.focusable && !record.popup;
        state.fullscreen &= able && (now.fullscreen || called);
        state.above &= now.above || called;
        if now.minimized && !state.minimized && !called {
            (state.minimized, state.demands_attention) = (true, true);
        }
        if state != record.state {
            self.refusals.count(
                Refusal::Uncalled,
                format_args!("window {id}: a state that the user has not asked for"),
            );
        }
        state
    }

    /// A guest may order its own windows: once for each key or button that was pressed in them. It gets the
    /// keyboard only for one of its windows that follows another of them, or that was launched; else its
    /// window asks to be looked at.
    pub(super) fn raised(&mut self, told: v1::WindowRaised) {
        let id = told.window;
        let Some(window) = self.windows.get_mut(&id).filter(|window| window.shown.is_some()) else {
            self.refusals.count(Refusal::UnknownWindow, format_args!("window {id} is raised"));
            return;
        };
        let launched = told.activate && window.record.is_application() && self.user.take_launch();
        if launched || (self.focus.is_some() && std::mem::take(&mut self.user.raises)) {
            // The last one would be on top of those before.
            self.acts.retain(|act| !matches!(act, Act::Raise(_) | Act::Activate(_)));
            self.acts.push(if told.activate { Act::Activate(id) } else { Act::Raise(id) });
            return;
        }
        if told.activate && self.focus != Some(id) {
            window.dirty |= !std::mem::replace(&mut window.state.demands_attention, true);
        }
        self.refusals.count(Refusal::Uncalled, format_args!("window {id} raises itself"));
    }
}
