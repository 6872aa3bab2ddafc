//! What the desktop reports of a guest's windows, made into what the guest is told.

use super::{Act, Insets, Model, Rect, State, Window};
use proto::v1::{self, from_host};
use std::collections::BTreeSet;

/// What happened on the desktop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    /// Where a window is and what the window manager made of it.
    Placed {
        /// Which.
        window: u32,
        /// The host's window, border included.
        native: Rect,
        /// Of it.
        state: State,
        /// What the window manager drew around it.
        frame: Insets,
        /// Nothing of it can be seen.
        hidden: bool,
    },
    /// The keyboard goes to this window; none of the guest.
    Focus(Option<u32>),
    /// The user wants it closed.
    Close(u32),
    /// The pointer is over a window, or has left all.
    Motion {
        /// Which.
        window: u32,
        /// 256ths of a pixel from the left of the host's window.
        x: i32,
        /// 256ths of a pixel from its top.
        y: i32,
        /// Milliseconds, wraps.
        time: u32,
    },
    /// It is over none.
    Left {
        /// A button is down.
        held: bool,
        /// Milliseconds.
        time: u32,
    },
    /// A button of the pointer.
    Button {
        /// The window under it when it was pressed.
        window: u32,
        /// As in `PointerButton`.
        button: u32,
        /// Or released.
        pressed: bool,
        /// Milliseconds.
        time: u32,
    },
    /// The wheel, 120ths of a notch, right and down.
    Scroll {
        /// The window under the pointer.
        window: u32,
        /// Right.
        horizontal: i32,
        /// Down.
        vertical: i32,
        /// Milliseconds.
        time: u32,
    },
    /// A key, as in linux/input-event-codes.h.
    Key {
        /// The window with the keyboard.
        window: u32,
        /// 1 to 247.
        code: u32,
        /// Or released.
        pressed: bool,
        /// Milliseconds.
        time: u32,
    },
}

/// What is held down.
#[derive(Debug, Default)]
pub(super) struct Pressed {
    buttons: BTreeSet<(u32, u32)>,
    keys: BTreeSet<(u32, u32)>,
}

impl Pressed {
    /// This button was pressed over this window and is not released.
    pub(super) fn is_down(&self, window: u32, button: u32) -> bool {
        self.buttons.contains(&(window, button))
    }

    /// A button was pressed over this window and is not released.
    pub(super) fn any_of(&self, window: u32) -> bool {
        self.buttons.range((window, 0)..=(window, u32::MAX)).next().is_some()
    }

    /// The window is gone.
    pub(super) fn forget(&mut self, window: u32) {
        self.buttons.retain(|(of, _)| *of != window);
        self.keys.retain(|(of, _)| *of != window);
    }
}

/// `(pressed, set)`: whether this changes what is held.
fn changes(held: &mut BTreeSet<(u32, u32)>, key: (u32, u32), pressed: bool) -> bool {
    if pressed { held.insert(key) } else { held.remove(&key) }
}

impl Model {
    /// Takes what happened on the desktop. Of windows that are not shown any longer nothing is told.
    pub fn see(&mut self, seen: Seen) {
        use from_host::Message;
        match seen {
            Seen::Placed { window, native, state, frame, hidden } => {
                self.placed(window, &native, state, frame, hidden);
            }
            Seen::Focus(window) => self.focused(window),
            Seen::Close(window) if self.is_shown(window) => {
                self.tell(Message::Close(v1::CloseWindow { window }));
            }
            Seen::Motion { window, x, y, time } => self.motion(window, x, y, time),
            Seen::Left { held, time } => {
                self.pointer = None;
                // Their release was somebody else's.
                let lost =
                    if held { BTreeSet::new() } else { std::mem::take(&mut self.pressed.buttons) };
                for (window, button) in lost {
                    let button = v1::PointerButton { window, button, pressed: false, time };
                    self.tell(Message::Button(button));
                }
                self.tell(Message::Motion(v1::PointerMotion { window: 0, x: 0, y: 0, time }));
            }
            Seen::Button { window, button, pressed, time } if self.is_shown(window) => {
                // The border is the host's.
                if pressed && self.pointer == Some((window, false)) {
                    return;
                }
                if pressed {
                    self.user.press();
                }
                if changes(&mut self.pressed.buttons, (window, button), pressed) {
                    let button = v1::PointerButton { window, button, pressed, time };
                    self.tell(Message::Button(button));
                }
            }
            Seen::Scroll { window, horizontal, vertical, time }
                if self.is_shown(window) && self.pointer != Some((window, false)) =>
            {
                let scroll = v1::PointerScroll { window, horizontal, vertical, time };
                self.tell(Message::Scroll(scroll));
            }
            Seen::Key { window, code, pressed, time } if self.is_shown(window) => {
                if (1..=window_link::limits::KEY).contains(&code)
                    && changes(&mut self.pressed.keys, (window, code), pressed)
                {
                    if pressed {
                        self.user.press();
                    }
                    self.tell(Message::Key(v1::Key { window, code, pressed, time }));
                }
            }
            Seen::Close(_) | Seen::Button { .. } | Seen::Scroll { .. } | Seen::Key { .. } => {}
        }
    }

    fn tell(&mut self, message: from_host::Message) {
        self.acts.push(Act::Tell(message));
    }

    fn is_shown(&self, id: u32) -> bool {
        self.windows.get(&id).is_some_and(|window| window.shown.is_some())
    }

    fn focused(&mut self, id: Option<u32>) {
        let id = id.filter(|id| self.is_shown(*id));
        if self.focus == id {
            return;
        }
        // What is held when the keyboard goes elsewhere is released there, and the guest never hears of it.
        for (window, code) in std::mem::take(&mut self.pressed.keys) {
            self.tell(from_host::Message::Key(v1::Key { window, code, pressed: false, time: 0 }));
        }
        self.focus = id;
        if id.is_none() {
            self.user.leave();
        }
        if let Some(window) = id.and_then(|id| self.windows.get_mut(&id)) {
            window.dirty |= std::mem::take(&mut window.state.demands_attention);
        }
        self.tell(from_host::Message::Focus(v1::Focus { window: id.unwrap_or(0) }));
    }

    /// From the host's window to the guest's, whose shadow the host does not show.
    fn motion(&mut self, id: u32, x: i32, y: i32, time: u32) {
        let Some(view) = self.windows.get(&id).and_then(|window| window.shown.as_deref()) else {
            return;
        };
        let shift = |at: i32, border: u32, shadow: u32| {
            at.saturating_sub_unsigned(border * 256).saturating_add_unsigned(shadow * 256)
        };
        let x = shift(x, view.border.left, view.shadow.left);
        let y = shift(y, view.border.top, view.shadow.top);
        let inside = |at: i32, shadow: u32, pixels: u32| {
            let at = i64::from(at) - i64::from(shadow) * 256;
            (0..i64::from(pixels) * 256).contains(&at)
        };
        // The border is the host's, except for a drag that began inside.
        let inside = inside(x, view.shadow.left, view.content.width)
            && inside(y, view.shadow.top, view.content.height);
        self.pointer = Some((id, inside));
        if inside || self.pressed.any_of(id) {
            self.tell(from_host::Message::Motion(v1::PointerMotion { window: id, x, y, time }));
        }
    }

    fn placed(&mut self, id: u32, native: &Rect, state: State, frame: Insets, hidden: bool) {
        let Some(window) = self.windows.get_mut(&id) else { return };
        let Some(shown) = window.shown.as_deref() else { return };
        let state = State {
            // The host keeps this one by itself.
            demands_attention: window.state.demands_attention && state.demands_attention,
            ..state
        };
        // Border and shadow depend on the state.
        let view = super::View::of(
            &window.record,
            &self.vm,
            shown.scale,
            window.rect,
            state,
            shown.transient_for,
            self.titles,
        );
        // What is minimized is nowhere: it comes back to where it was.
        let rect = if state.minimized {
            window.rect
        } else {
            native.without(&view.border).with(&view.shadow)
        };
        let same = window.reported
            && (rect, state) == (window.rect, window.state)
            && (frame, hidden) == (window.frame, window.hidden);
        if same {
            return;
        }
        if window.state.fullscreen && !state.fullscreen {
            self.user.shrink();
        }
        (window.rect, window.state, window.frame, window.hidden) = (rect, state, frame, hidden);
        window.reported = true;
        window.dirty = true;
        let configure = window.configure(id);
        self.tell(configure);
    }
}

impl Window {
    /// What the guest is told of it, and waited for.
    pub(super) fn configure(&mut self, window: u32) -> from_host::Message {
        self.sent = self.sent.saturating_add(1);
        from_host::Message::Configure(v1::Configure {
            window,
            generation: self.sent,
            geometry: Some(self.rect.into()),
            state: Some(self.state.into()),
            frame: Some(self.frame.into()),
            hidden: self.hidden,
        })
    }
}
