//! A guest's window as it was told, checked: every number within the limits, every text fit to be shown.

use super::rect::{Insets, Rect};
use super::refusals::{Refusal, Refusals};
use super::text;
use super::untrusted::Untrusted;
use proto::v1::{self, WindowKind};
use window_link::limits;

/// What a window is to the desktop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// An application's window.
    #[default]
    Normal,
    /// Of another window.
    Dialog,
    /// A palette.
    Utility,
    /// While an application starts.
    Splash,
    /// A menu by its own (right click).
    Menu,
    /// A menu of a bar.
    Dropdown,
    /// The list of a combo box.
    Combo,
    /// Explains what the pointer is over.
    Tooltip,
    /// Tells that something has happened.
    Notification,
    /// What is dragged.
    Drag,
}

impl Kind {
    fn of(told: i32) -> Self {
        match WindowKind::try_from(told) {
            Ok(WindowKind::Dialog) => Self::Dialog,
            Ok(WindowKind::Utility) => Self::Utility,
            Ok(WindowKind::Splash) => Self::Splash,
            Ok(WindowKind::Menu) => Self::Menu,
            Ok(WindowKind::Dropdown) => Self::Dropdown,
            Ok(WindowKind::Combo) => Self::Combo,
            Ok(WindowKind::Tooltip) => Self::Tooltip,
            Ok(WindowKind::Notification) => Self::Notification,
            Ok(WindowKind::Drag) => Self::Drag,
            Ok(WindowKind::Normal | WindowKind::Unspecified) | Err(_) => Self::Normal,
        }
    }

    /// Goes with its owner, past the window manager.
    fn is_popup(self) -> bool {
        !matches!(self, Self::Normal | Self::Dialog | Self::Utility | Self::Splash)
    }
}

/// What a window manager has made of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one of _NET_WM_STATE")]
pub struct State {
    /// As wide as the work area.
    pub maximized_horizontally: bool,
    /// As high as the work area.
    pub maximized_vertically: bool,
    /// Covers its monitor.
    pub fullscreen: bool,
    /// Only in the task bar.
    pub minimized: bool,
    /// Above others.
    pub above: bool,
    /// Below others.
    pub below: bool,
    /// Not in the task bar.
    pub skip_taskbar: bool,
    /// Wants to be looked at.
    pub demands_attention: bool,
    /// Only its title bar.
    pub shaded: bool,
}

impl From<v1::WindowState> for State {
    fn from(told: v1::WindowState) -> Self {
        Self {
            maximized_horizontally: told.maximized_horizontally,
            maximized_vertically: told.maximized_vertically,
            fullscreen: told.fullscreen,
            minimized: told.minimized,
            above: told.above,
            below: told.below,
            skip_taskbar: told.skip_taskbar,
            demands_attention: told.demands_attention,
            shaded: told.shaded,
        }
    }
}

impl From<State> for v1::WindowState {
    fn from(state: State) -> Self {
        Self {
            maximized_horizontally: state.maximized_horizontally,
            maximized_vertically: state.maximized_vertically,
            fullscreen: state.fullscreen,
            minimized: state.minimized,
            above: state.above,
            below: state.below,
            skip_taskbar: state.skip_taskbar,
            demands_attention: state.demands_attention,
            shaded: state.shaded,
        }
    }
}

/// How a window may be sized; pixels, 0 where nothing is wished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Smallest width and height.
    pub min: [u32; 2],
    /// Largest; 0 or not below the smallest.
    pub max: [u32; 2],
    /// What steps are counted from.
    pub base: [u32; 2],
    /// Steps.
    pub increment: [u32; 2],
}

/// A window as the guest has told it.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "a window has many properties")]
pub struct Record {
    /// Where it is, its shadow included.
    pub rect: Rect,
    /// What it is.
    pub kind: Kind,
    /// Past the window manager, without a frame.
    pub popup: bool,
    /// Title without the VM's name, not cleaned: `View` has that.
    pub title: String,
    /// First half of WM_CLASS.
    pub instance: String,
    /// Second half of WM_CLASS.
    pub class: String,
    /// Id of the application, empty where unknown.
    pub application: String,
    /// The window it belongs to, as told: there may be none.
    pub transient_for: u32,
    /// Its owner waits for it.
    pub modal: bool,
    /// It draws its own frame.
    pub undecorated: bool,
    /// Shadow that is part of `rect` and of the pixels, but not to be shown.
    pub shadow: Insets,
    /// Some pixels are not opaque.
    pub alpha: bool,
    /// What there is of it, relative to `rect`; empty: all.
    pub shape: Vec<Rect>,
    /// How it may be sized.
    pub hints: Hints,
    /// What its window manager made of it.
    pub state: State,
    /// 65535ths, at least [`limits::OPACITY`]; 0 not set.
    pub opacity: u16,
    /// Wants the keyboard.
    pub focusable: bool,
}

/// What a message of a window says beside the window.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Of the guest, not 0.
    pub id: u32,
    /// Grows.
    pub generation: u64,
    /// Last `Configure` that was carried out.
    pub configured: u64,
}

impl Record {
    /// Checks what a guest says; counts what had to be changed.
    #[must_use]
    pub fn check(told: Untrusted<v1::Window>, refusals: &mut Refusals) -> (Header, Self) {
        let told = told.into_inner();
        let header =
            Header { id: told.id, generation: told.generation, configured: told.configured };
        let id = told.id;
        let (rect, cut) = Rect::clamped(&told.geometry.unwrap_or_default());
        if cut {
            let told = told.geometry.unwrap_or_default();
            refusals.count(Refusal::Geometry, format_args!("window {id}: geometry {told:?}"));
        }
        let mut class = |text: &str, most: usize| {
            let (clean, changed) = text::line(text, most);
            if changed {
                refusals.count(Refusal::Class, format_args!("window {id}: class {clean:?}"));
            }
            clean
        };
        let instance = class(&told.instance, limits::CLASS);
        let wm_class = class(&told.class, limits::CLASS);
        let application = class(&told.application, limits::APPLICATION);
        let (title, changed) = text::line(&told.title, limits::TITLE);
        if changed {
            refusals.count(Refusal::Title, format_args!("window {id}: title {title:?}"));
        }
        let kind = Kind::of(told.kind);
        let record = Self {
            rect,
            kind,
            popup: told.override_redirect || kind.is_popup(),
            title,
            instance,
            class: wm_class,
            application,
            transient_for: told.transient_for,
            modal: told.modal,
            undecorated: told.undecorated,
            shadow: shadow(id, told.shadow, &rect, refusals),
            alpha: told.alpha,
            shape: shape(id, &told.shape, &rect, refusals),
            hints: hints(id, told.size_hints.unwrap_or_default(), refusals),
            state: told.state.unwrap_or_default().into(),
            opacity: opacity(id, told.opacity, refusals),
            focusable: !told.no_focus,
        };
        (header, record)
    }
}

/// The window manager makes the border as transparent as the pixels: it has to be seen.
fn opacity(id: u32, told: u32, refusals: &mut Refusals) -> u16 {
    let opacity = u16::try_from(told).unwrap_or(u16::MAX);
    if (1..limits::OPACITY).contains(&opacity) {
        refusals.count(Refusal::Opacity, format_args!("window {id}: {told} of 65535 opaque"));
        return limits::OPACITY;
    }
    opacity
}

/// At least one pixel of the window has to remain.
fn shadow(id: u32, told: Option<v1::Extents>, rect: &Rect, refusals: &mut Refusals) -> Insets {
    let told = told.unwrap_or_default();
    let v1::Extents { left, right, top, bottom } = told;
    let sides = [left, right, top, bottom];
    if sides.iter().any(|side| *side > limits::SHADOW)
        || left + right >= rect.width
        || top + bottom >= rect.height
    {
        if sides != [0; 4] {
            refusals.count(Refusal::Shadow, format_args!("window {id}: shadow {told:?}"));
        }
        return Insets::default();
    }
    Insets { left, right, top, bottom }
}

/// A shape that cannot be is none: the window is shown as a whole, in its border.
fn shape(id: u32, told: &[v1::Rectangle], rect: &Rect, refusals: &mut Refusals) -> Vec<Rect> {
    if told.len() > limits::SHAPE {
        refusals.count(Refusal::Shape, format_args!("window {id}: {} rectangles", told.len()));
        return Vec::new();
    }
    let whole = Rect { x: 0, y: 0, width: rect.width, height: rect.height };
    let mut shape = Vec::with_capacity(told.len());
    for told in told {
        let (part, cut) = Rect::clamped(told);
        let common = part.common(&whole);
        if cut || common != Some(part) {
            refusals.count(Refusal::Shape, format_args!("window {id}: {told:?} in its shape"));
        }
        shape.extend(common);
    }
    shape
}

fn hints(id: u32, told: v1::SizeHints, refusals: &mut Refusals) -> Hints {
    let mut cut = false;
    let mut side = |pixels: u32| {
        cut |= pixels > limits::SIDE;
        pixels.min(limits::SIDE)
    };
    let min = [side(told.min_width), side(told.min_height)];
    let mut max = [side(told.max_width), side(told.max_height)];
    let base = [side(told.base_width), side(told.base_height)];
    let increment = [side(told.width_increment), side(told.height_increment)];
    for (max, min) in max.iter_mut().zip(min) {
        if *max != 0 && *max < min {
            *max = 0;
            cut = true;
        }
    }
    if cut {
        refusals.count(Refusal::Hints, format_args!("window {id}: {told:?}"));
    }
    Hints { min, max, base, increment }
}
