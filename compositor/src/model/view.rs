//! What the desktop is to show of a guest's window.

use super::record::{Hints, Kind, Record, State};
use super::rect::{Insets, Rect};
use super::text;

/// Border of an ordinary window at 100 %, in pixels.
const BORDER: u32 = 2;
/// The strip with the VM's name above a window that has no title bar of the host, at 100 %.
const LABEL: u32 = 12;

/// A window of the host's desktop, as it is to be.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "a window has many properties")]
pub struct View {
    /// Where the guest's pixels go, without shadow.
    pub content: Rect,
    /// The host's border around the content.
    pub border: Insets,
    /// Of the guest's pixels, on each side not shown.
    pub shadow: Insets,
    /// The border says the VM's name.
    pub label: bool,
    /// Percent that the border is drawn at.
    pub scale: u32,
    /// What it is.
    pub kind: Kind,
    /// Past the window manager.
    pub popup: bool,
    /// With the VM's name.
    pub title: String,
    /// First half of WM_CLASS.
    pub instance: String,
    /// Second half: the name of the application's launcher.
    pub class: String,
    /// An open window that this one belongs to.
    pub transient_for: Option<u32>,
    /// Its owner waits for it.
    pub modal: bool,
    /// The host's window manager draws a frame.
    pub decorated: bool,
    /// Some pixels are not opaque.
    pub alpha: bool,
    /// Relative to the content; empty: all.
    pub shape: Vec<Rect>,
    /// Of the content.
    pub hints: Hints,
    /// As wished, then as it is.
    pub state: State,
    /// 65535ths, at least `limits::OPACITY`; 0 not set.
    pub opacity: u16,
    /// Takes the keyboard.
    pub focusable: bool,
    /// It may have the keyboard when it appears.
    pub comes_forward: bool,
    /// The guest has a wish where it is; else the host's window manager finds a place.
    pub placed: bool,
}

impl View {
    /// The host's window: content and border. Its place fits X11's 16 bits.
    #[must_use]
    pub fn native(&self) -> Rect {
        let rect = self.content.with(&self.border);
        let fit = |at: i32| at.clamp(i16::MIN.into(), i16::MAX.into());
        Rect { x: fit(rect.x), y: fit(rect.y), ..rect }
    }

    /// The guest's window: content and shadow.
    #[must_use]
    pub fn guest(&self) -> Rect {
        self.content.with(&self.shadow)
    }

    /// Of a guest's window: `rect` and `state` are what guest and host agree on now. `titles`: the desktop puts
    /// titles over windows that it frames.
    #[must_use]
    pub fn of(
        record: &Record,
        vm: &str,
        scale: u32,
        rect: Rect,
        state: State,
        transient_for: Option<u32>,
        titles: bool,
    ) -> Self {
        let shadow = if state.fullscreen { Insets::default() } else { record.shadow };
        let content = rect.without(&shadow);
        // A title bar of the host says it where there is one; menus and tooltips have the colour.
        let label = !record.popup && (record.is_frameless() || state.fullscreen || !titles);
        let border = border(label, scale);
        let whole = Rect { x: 0, y: 0, width: content.width, height: content.height };
        let shape = record
            .shape
            .iter()
            .filter_map(|part| {
                let part = Rect {
                    x: part.x.saturating_sub_unsigned(shadow.left),
                    y: part.y.saturating_sub_unsigned(shadow.top),
                    ..*part
                };
                part.common(&whole)
            })
            .collect();
        Self {
            content,
            border,
            shadow,
            label,
            scale,
            kind: record.kind,
            popup: record.popup,
            title: text::title(vm, &record.title).0,
            instance: instance(vm, record),
            class: host_names::host_id(vm, application(record)),
            transient_for,
            modal: record.modal && transient_for.is_some(),
            decorated: !record.undecorated && !record.popup,
            alpha: record.alpha,
            shape,
            hints: without(record.hints, &shadow),
            state,
            opacity: record.opacity,
            focusable: record.focusable && !record.popup,
            comes_forward: false,
            placed: record.popup || (rect.x, rect.y) != (0, 0),
        }
    }
}

/// The border at this scale.
#[must_use]
pub fn border(label: bool, scale: u32) -> Insets {
    let thick = scaled(BORDER, scale);
    Insets { top: if label { scaled(LABEL, scale) } else { thick }, ..Insets::all(thick) }
}

/// Pixels at `percent`, at least one.
fn scaled(pixels: u32, percent: u32) -> u32 {
    ((pixels * percent + 50) / 100).max(1)
}

/// The first half of WM_CLASS, which nothing is found by: the VM's as well, so that none passes for the host's.
fn instance(vm: &str, record: &Record) -> String {
    let own = [&record.instance, &record.class, &record.application];
    let own = own.into_iter().find(|name| !name.is_empty()).map_or("unknown", String::as_str);
    let mut name = host_names::host_id(vm, own);
    // It is ASCII.
    name.truncate(window_link::limits::CLASS);
    name
}

/// What the launcher of this application is named by: its id, or the class that its windows have.
fn application(record: &Record) -> &str {
    [&record.application, &record.class, &record.instance]
        .into_iter()
        .find(|name| !name.is_empty())
        .map_or("unknown", String::as_str)
}

fn without(hints: Hints, shadow: &Insets) -> Hints {
    let less = |[width, height]: [u32; 2]| {
        let less =
            |pixels: u32, by: u32| if pixels == 0 { 0 } else { pixels.saturating_sub(by).max(1) };
        [less(width, shadow.left + shadow.right), less(height, shadow.top + shadow.bottom)]
    };
    Hints {
        min: less(hints.min),
        max: less(hints.max),
        base: less(hints.base),
        increment: hints.increment,
    }
}
