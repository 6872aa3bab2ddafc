//! What a window tells the window manager, and what the window manager says of it.

use super::{Native, X11};
use crate::model::{Icon, Insets, Rect, State, View};
use crate::windowing::WindowingError;
use x11rb::properties::{WmHints, WmHintsState, WmSizeHints, WmSizeHintsSpecification};
use x11rb::protocol::shape::{self, ConnectionExt as _};
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ClipOrdering, ConnectionExt as _, EventMask, Gravity, PropMode,
    Rectangle,
};
use x11rb::wrapper::ConnectionExt as _;

/// `_NET_WM_STATE` messages (EWMH).
const REMOVE: u32 = 0;
const ADD: u32 = 1;
/// An ordinary application sends it.
const APPLICATION: u32 = 1;
/// WM_STATE and WM_CHANGE_STATE (ICCCM 4.1.3.1).
const ICONIC: u32 = 3;

fn whole(pixels: u32) -> i32 {
    i32::try_from(pixels).unwrap_or(i32::MAX)
}

/// A coordinate or size within a window, as 16 bits hold it.
fn short(pixels: i32) -> i16 {
    i16::try_from(pixels).unwrap_or(if pixels < 0 { i16::MIN } else { i16::MAX })
}

fn size(pixels: u32) -> u16 {
    u16::try_from(pixels).unwrap_or(u16::MAX)
}

impl X11 {
    /// Each bit of a state with its name.
    fn states(&self, state: &State) -> [(u32, bool); 8] {
        let atoms = &self.atoms;
        [
            (atoms._NET_WM_STATE_MAXIMIZED_HORZ, state.maximized_horizontally),
            (atoms._NET_WM_STATE_MAXIMIZED_VERT, state.maximized_vertically),
            (atoms._NET_WM_STATE_FULLSCREEN, state.fullscreen),
            (atoms._NET_WM_STATE_ABOVE, state.above),
            (atoms._NET_WM_STATE_BELOW, state.below),
            (atoms._NET_WM_STATE_SKIP_TASKBAR, state.skip_taskbar),
            (atoms._NET_WM_STATE_DEMANDS_ATTENTION, state.demands_attention),
            (atoms._NET_WM_STATE_SHADED, state.shaded),
        ]
    }

    /// Before a window is mapped its properties say its state.
    pub(super) fn set_initial_state(&self, xid: u32, view: &View) -> Result<(), WindowingError> {
        let mut atoms: Vec<u32> = self
            .states(&view.state)
            .into_iter()
            .filter_map(|(atom, set)| set.then_some(atom))
            .collect();
        if view.modal {
            atoms.push(self.atoms._NET_WM_STATE_MODAL);
        }
        self.connection.change_property32(
            PropMode::REPLACE,
            xid,
            self.atoms._NET_WM_STATE,
            AtomEnum::ATOM,
            &atoms,
        )?;
        Ok(())
    }

    /// Zero: the window manager is not to give it the keyboard when it is mapped (EWMH).
    pub(super) fn set_no_user_time(&self, xid: u32) -> Result<(), WindowingError> {
        self.connection.change_property32(
            PropMode::REPLACE,
            xid,
            self.atoms._NET_WM_USER_TIME,
            AtomEnum::CARDINAL,
            &[0],
        )?;
        Ok(())
    }

    /// Has the X server say what time it is: it reports the change of a property with it.
    pub(super) fn ask_time(&self, xid: u32) -> Result<(), WindowingError> {
        let property = self.atoms._MACROHARD_NOW;
        self.connection.change_property8(PropMode::APPEND, xid, property, AtomEnum::STRING, &[])?;
        Ok(())
    }

    /// Later the window manager is asked.
    pub(super) fn change_state(
        &self,
        native: &Native,
        wanted: &View,
    ) -> Result<(), WindowingError> {
        let now = self.states(&native.state);
        for ((atom, wanted), (_, now)) in self.states(&wanted.state).into_iter().zip(now) {
            if wanted != now {
                self.ask_state(native.xid, atom, wanted)?;
            }
        }
        if wanted.modal != native.view.modal {
            self.ask_state(native.xid, self.atoms._NET_WM_STATE_MODAL, wanted.modal)?;
        }
        if wanted.state.minimized != native.state.minimized {
            if wanted.state.minimized {
                self.ask(native.xid, self.atoms.WM_CHANGE_STATE, [ICONIC, 0, 0, 0, 0])?;
            } else {
                self.connection.map_window(native.xid)?;
            }
        }
        Ok(())
    }

    pub(super) fn ask_state(&self, xid: u32, atom: u32, set: bool) -> Result<(), WindowingError> {
        let action = if set { ADD } else { REMOVE };
        self.ask(xid, self.atoms._NET_WM_STATE, [action, atom, 0, APPLICATION, 0])
    }

    pub(super) fn ask(&self, xid: u32, message: u32, data: [u32; 5]) -> Result<(), WindowingError> {
        let event = ClientMessageEvent::new(32, xid, message, data);
        let mask = EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY;
        self.connection.send_event(false, self.root, mask, event)?;
        Ok(())
    }

    /// WM_NORMAL_HINTS and WM_HINTS. With static gravity a position is that of the window and not of its frame.
    pub(super) fn set_hints(&self, xid: u32, view: &View) -> Result<(), WindowingError> {
        let rect = view.native();
        let border = [view.border.left + view.border.right, view.border.top + view.border.bottom];
        let outer = |[width, height]: [u32; 2]| {
            (whole(width.saturating_add(border[0])), whole(height.saturating_add(border[1])))
        };
        let given = |sides: [u32; 2]| sides != [0, 0];
        let hints = view.hints;
        let by = WmSizeHintsSpecification::UserSpecified;
        let max = hints.max.map(|side| if side == 0 { window_link::limits::SIDE } else { side });
        let steps = given(hints.increment);
        WmSizeHints {
            position: view.placed.then_some((by, rect.x, rect.y)),
            size: Some((by, whole(rect.width), whole(rect.height))),
            min_size: Some(outer(hints.min.map(|side| side.max(1)))),
            max_size: given(hints.max).then(|| outer(max)),
            size_increment: steps.then(|| {
                let [width, height] = hints.increment.map(|side| whole(side.max(1)));
                (width, height)
            }),
            base_size: (steps || given(hints.base)).then(|| outer(hints.base)),
            win_gravity: Some(Gravity::STATIC),
            ..WmSizeHints::default()
        }
        .set_normal_hints(&*self.connection, xid)?;
        let initial =
            if view.state.minimized { WmHintsState::Iconic } else { WmHintsState::Normal };
        WmHints {
            input: Some(view.focusable),
            initial_state: Some(initial),
            urgent: view.state.demands_attention,
            ..WmHints::default()
        }
        .set(&*self.connection, xid)?;
        Ok(())
    }

    pub(super) fn set_transient_for(&self, xid: u32, view: &View) -> Result<(), WindowingError> {
        let owner = view.transient_for.and_then(|owner| self.windows.get(&owner));
        match owner {
            Some(owner) => {
                self.connection.change_property32(
                    PropMode::REPLACE,
                    xid,
                    AtomEnum::WM_TRANSIENT_FOR,
                    AtomEnum::WINDOW,
                    &[owner.xid],
                )?;
            }
            None => {
                self.connection.delete_property(xid, AtomEnum::WM_TRANSIENT_FOR.into())?;
            }
        }
        Ok(())
    }

    pub(super) fn set_class(&self, xid: u32, view: &View) -> Result<(), WindowingError> {
        let instance = if view.instance.is_empty() { &view.class } else { &view.instance };
        let class = format!("{instance}\0{}\0", view.class);
        self.connection.change_property8(
            PropMode::REPLACE,
            xid,
            AtomEnum::WM_CLASS,
            AtomEnum::STRING,
            class.as_bytes(),
        )?;
        Ok(())
    }

    pub(super) fn set_opacity(&self, xid: u32, view: &View) -> Result<(), WindowingError> {
        let property = self.atoms._NET_WM_WINDOW_OPACITY;
        if view.opacity == 0 || view.opacity == u16::MAX {
            self.connection.delete_property(xid, property)?;
        } else {
            // 16 bits to 32: both ends stay ends.
            let opacity = u32::from(view.opacity) * 0x1_0001;
            self.connection.change_property32(
                PropMode::REPLACE,
                xid,
                property,
                AtomEnum::CARDINAL,
                &[opacity],
            )?;
        }
        Ok(())
    }

    /// What there is of a shaped window, and always its border: nothing of a guest lies on the desktop without.
    pub(super) fn set_shape(
        &self,
        xid: u32,
        view: &View,
        native: &Rect,
    ) -> Result<(), WindowingError> {
        if view.shape.is_empty() {
            self.connection.shape_mask(
                shape::SO::SET,
                shape::SK::BOUNDING,
                xid,
                0,
                0,
                x11rb::NONE,
            )?;
            return Ok(());
        }
        let Insets { left, right, top, bottom } = view.border;
        let (width, height) = (native.width, native.height);
        let part = |x: u32, y: u32, width: u32, height: u32| Rectangle {
            x: short(whole(x)),
            y: short(whole(y)),
            width: size(width),
            height: size(height),
        };
        let mut parts = vec![
            part(0, 0, width, top),
            part(0, height.saturating_sub(bottom), width, bottom),
            part(0, 0, left, height),
            part(width.saturating_sub(right), 0, right, height),
        ];
        parts.extend(view.shape.iter().map(|rect| Rectangle {
            x: short(rect.x.saturating_add_unsigned(left)),
            y: short(rect.y.saturating_add_unsigned(top)),
            width: size(rect.width),
            height: size(rect.height),
        }));
        self.connection.shape_rectangles(
            shape::SO::SET,
            shape::SK::BOUNDING,
            ClipOrdering::UNSORTED,
            xid,
            0,
            0,
            &parts,
        )?;
        Ok(())
    }

    pub(super) fn set_icon(&self, xid: u32, icon: &Icon) -> Result<(), WindowingError> {
        let mut numbers = vec![icon.width, icon.height];
        numbers.extend(icon.pixels.chunks_exact(4).map(|pixel| {
            // Blue first in bytes is alpha first in a number.
            u32::from_le_bytes([pixel[0], pixel[1], pixel[2], pixel[3]])
        }));
        self.connection.change_property32(
            PropMode::REPLACE,
            xid,
            self.atoms._NET_WM_ICON,
            AtomEnum::CARDINAL,
            &numbers,
        )?;
        Ok(())
    }

    /// What the window manager made of a window: state and frame.
    pub(super) fn read_state(&self, xid: u32) -> Result<(State, Insets), WindowingError> {
        let property =
            |atom: u32| self.connection.get_property(false, xid, atom, AtomEnum::ANY, 0, 64);
        let cookies = [
            property(self.atoms._NET_WM_STATE)?,
            property(self.atoms.WM_STATE)?,
            property(self.atoms._NET_FRAME_EXTENTS)?,
        ];
        let [states, icccm, frame] = cookies.map(|cookie| {
            cookie
                .reply()
                .map(|reply| reply.value32().map(Iterator::collect::<Vec<u32>>).unwrap_or_default())
        });
        let (states, icccm, frame) = (states?, icccm?, frame?);
        let has = |atom: u32| states.contains(&atom);
        let atoms = &self.atoms;
        let shaded = has(atoms._NET_WM_STATE_SHADED);
        let state = State {
            maximized_horizontally: has(atoms._NET_WM_STATE_MAXIMIZED_HORZ),
            maximized_vertically: has(atoms._NET_WM_STATE_MAXIMIZED_VERT),
            fullscreen: has(atoms._NET_WM_STATE_FULLSCREEN),
            minimized: icccm.first() == Some(&ICONIC)
                || (has(atoms._NET_WM_STATE_HIDDEN) && !shaded),
            above: has(atoms._NET_WM_STATE_ABOVE),
            below: has(atoms._NET_WM_STATE_BELOW),
            skip_taskbar: has(atoms._NET_WM_STATE_SKIP_TASKBAR),
            demands_attention: has(atoms._NET_WM_STATE_DEMANDS_ATTENTION),
            shaded,
        };
        let side =
            |index: usize| frame.get(index).copied().unwrap_or(0).min(window_link::limits::SHADOW);
        let frame = Insets { left: side(0), right: side(1), top: side(2), bottom: side(3) };
        Ok((state, frame))
    }
}
