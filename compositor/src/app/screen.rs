//! The guest's screen in one window: desktop mode. Frames come from the VM process over the crate `display`;
//! keys, pointer and the size of the window go back.

use super::display::{Connection, News, gather};
use super::{App, AppError, Wake, window::Open};
use crate::model::{CursorPicture, Hints, Insets, Kind, Rect, Seen, State, View, border};
use crate::paint::Content;
use crate::windowing::Windowing;
use compositor_control::Mode;
use display::message::{LARGEST_CURSOR, MOST_WHEEL, POINTER_RANGE};
use display::{CursorImage, FromViewer, Rectangle, Size, ViewerError};
use rustix::event::{PollFd, PollFlags, poll};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use winit::event_loop::ActiveEventLoop;

/// Id of the window: no window of a guest has it.
pub(super) const WINDOW: u32 = 0;

/// The VM's display.
pub(super) struct Screen {
    number: u64,
    connection: Connection,
    /// It woke the loop, and hears when all is drawn.
    woke: bool,
    /// An acknowledgement that the VM process did not take: without it no other picture comes.
    owed: Cell<bool>,
    size: Option<Size>,
    cursor: CursorPicture,
    /// Of the window, without its border.
    inner: Rect,
    state: State,
    held: BTreeSet<u16>,
    view: Option<View>,
}

impl Screen {
    /// Its window, while it is open.
    pub(super) fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// The pixels are drawn.
    pub(super) fn painted(&self) {
        self.tell(None);
    }

    /// Says something; acknowledges without anything to say. Input that the VM does not take is lost.
    fn tell(&self, say: Option<FromViewer>) {
        let viewer = &self.connection.viewer;
        if say.is_none() || self.owed.get() {
            self.owed.set(matches!(viewer.acknowledge(), Err(ViewerError::Busy)));
        }
        if let Some(Err(error)) = say.map(|say| viewer.send(say)) {
            // The next event says the same where it is the end.
            tracing::debug!("the VM's display: {error}");
        }
    }

    /// The display has woken the loop.
    pub(super) fn woke(&mut self, number: u64) {
        self.woke |= self.number == number;
    }

    /// All that was taken is drawn: what came meanwhile gets its turn, after whatever else waits.
    pub(super) fn drawn(&mut self) {
        if std::mem::take(&mut self.woke) {
            self.connection.taken();
        }
    }

    fn hold(&mut self, code: u16, pressed: bool, say: FromViewer) {
        let changes = if pressed { self.held.insert(code) } else { self.held.remove(&code) };
        if changes {
            self.tell(Some(say));
        }
    }

    /// What is held when the keyboard goes elsewhere is released.
    fn release(&mut self) {
        for code in std::mem::take(&mut self.held) {
            let pressed = false;
            let button = (BTN_LEFT..=BTN_EXTRA).contains(&code);
            self.tell(Some(if button {
                FromViewer::Button { code, pressed }
            } else {
                FromViewer::Key { code, pressed }
            }));
        }
    }
}

/// linux/input-event-codes.h.
const BTN_LEFT: u16 = 0x110;
const BTN_RIGHT: u16 = 0x111;
const BTN_MIDDLE: u16 = 0x112;
const BTN_SIDE: u16 = 0x113;
const BTN_EXTRA: u16 = 0x114;

impl App {
    /// Takes the place of the display before.
    pub(super) fn connect_screen(
        &mut self,
        event_loop: &ActiveEventLoop,
        connection: OwnedFd,
    ) -> Result<(), AppError> {
        self.links += 1;
        let number = self.links;
        let watched = connection.as_fd().try_clone_to_owned()?;
        let (connection, wait) = Connection::over(connection);
        let proxy = self.proxy.clone();
        std::thread::Builder::new().name("display".into()).spawn(move || {
            loop {
                match poll(&mut [PollFd::new(&watched, PollFlags::IN)], None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return,
                }
                // Neither a loop nor a screen any longer.
                if proxy.send_event(Wake::Display(number)).is_err() || wait.recv().is_err() {
                    return;
                }
            }
        })?;
        self.screen = None;
        self.shut_screen();
        self.screen = Some(Screen {
            number,
            connection,
            woke: false,
            owed: Cell::new(false),
            size: None,
            cursor: CursorPicture::Named("left_ptr".into(), None),
            inner: Rect::default(),
            state: State::default(),
            held: BTreeSet::new(),
            view: None,
        });
        self.screen_shows(event_loop, number)
    }

    /// Takes some of what the display has sent.
    pub(super) fn screen_shows(
        &mut self,
        event_loop: &ActiveEventLoop,
        number: u64,
    ) -> Result<(), AppError> {
        let Some(screen) = self.screen.as_mut().filter(|screen| screen.number == number) else {
            return Ok(());
        };
        let News { configured, damaged, cursor: image, end } =
            gather(&mut screen.connection.viewer);
        if let Some(error) = end {
            match error {
                ViewerError::Closed => tracing::info!("the VM's display is gone"),
                error => tracing::warn!("{error}"),
            }
            self.screen = None;
            self.shut_screen();
            return Ok(());
        }
        if let Some(image) = image {
            screen.cursor = image.map_or(CursorPicture::Hidden, cursor);
            if self.windows.contains_key(&WINDOW) {
                self.windowing.cursor(&screen.cursor)?;
            }
        }
        if let Some(size) = configured {
            screen.size = size;
            self.show_screen(event_loop)?;
        }
        if !damaged.is_empty() {
            self.paint_screen(&damaged, true);
        }
        Ok(())
    }

    /// Copies and draws; `answer` when the VM process waits to hear that it was read.
    fn paint_screen(&mut self, damage: &[Rectangle], answer: bool) {
        let Some(screen) = &self.screen else { return };
        let (Some(window), Some(frame)) =
            (self.windows.get_mut(&WINDOW), screen.connection.viewer.frame())
        else {
            if answer {
                screen.painted();
            }
            return;
        };
        match Content::take_frame(&mut window.content, frame, damage) {
            Ok(areas) if answer => window.present(areas, 0),
            Ok(areas) => window.refresh(areas),
            Err(error) => {
                if let Some(kept) = self.undrawn.due() {
                    tracing::error!(kept, "the guest's screen is not drawn: {error}");
                }
                if answer {
                    screen.painted();
                }
            }
        }
    }

    fn shut_screen(&mut self) {
        if let Some(mut window) = self.windows.remove(&WINDOW) {
            self.windowing.shut(WINDOW);
            // Nobody will draw what the VM process waits for.
            if window.drop_answer().is_some()
                && let Some(screen) = &self.screen
            {
                screen.painted();
            }
        }
    }

    /// Brings the window in line with mode and size of the screen.
    pub(super) fn show_screen(&mut self, event_loop: &ActiveEventLoop) -> Result<(), AppError> {
        let Some(screen) = &mut self.screen else {
            self.shut_screen();
            return Ok(());
        };
        let desktop = self.settings.mode == Mode::Desktop;
        if desktop && screen.size.is_none() && self.windows.contains_key(&WINDOW) {
            // A guest shows nothing for a moment while its mode changes: the window stays as it is meanwhile.
            return Ok(());
        }
        let Some(size) = screen.size.filter(|_| desktop) else {
            screen.release();
            screen.view = None;
            self.shut_screen();
            return Ok(());
        };
        let scale = self.monitors.monitors.first().map_or(100, |monitor| monitor.scale);
        let vm = &self.settings.vm;
        let view = view(vm, scale, size, &screen.inner, screen.state);
        screen.view = Some(view.clone());
        if let Some(window) = self.windows.get_mut(&WINDOW) {
            window.change(&view, vm, self.settings.colour);
            self.windowing.change(WINDOW, &view)?;
        } else {
            let target = self.windowing.open(event_loop, WINDOW, &view)?;
            let surface = self.surface(event_loop, &target)?;
            let (vm, colour) = (&self.settings.vm, self.settings.colour);
            self.windows.insert(WINDOW, Open::new(target, surface, &view, vm, colour));
            if let Some(screen) = &self.screen {
                self.windowing.cursor(&screen.cursor)?;
            }
        }
        self.paint_screen(&[size.whole()], false);
        Ok(())
    }

    /// Takes what concerns the screen; gives back the rest.
    pub(super) fn screen_sees(&mut self, seen: Seen) -> Option<Seen> {
        let Some(screen) = &mut self.screen else { return Some(seen) };
        match seen {
            Seen::Close(WINDOW) => {
                if let Some(voice) = &self.settings.voice {
                    voice.wish(Mode::Seamless);
                }
            }
            Seen::Focus(window) => {
                if window != Some(WINDOW) {
                    screen.release();
                }
                return Some(Seen::Focus(window.filter(|window| *window != WINDOW)));
            }
            Seen::Placed { window: WINDOW, native, state, .. } => {
                let Some(view) = &screen.view else { return None };
                let label = state.fullscreen;
                screen.inner = native.without(&border(label, view.scale));
                screen.state = state;
                let wish = Size::new(screen.inner.width, screen.inner.height);
                if let Some(size) =
                    wish.filter(|wish| !state.minimized && Some(*wish) != screen.size)
                {
                    let (width_mm, height_mm) = (0, 0);
                    screen.tell(Some(FromViewer::Resize { size, width_mm, height_mm }));
                }
                let view = View {
                    border: border(label, view.scale),
                    label,
                    state,
                    content: screen.inner,
                    ..view.clone()
                };
                if let Some(window) = self.windows.get_mut(&WINDOW) {
                    window.change(&view, &self.settings.vm, self.settings.colour);
                }
                screen.view = Some(view);
            }
            Seen::Motion { window: WINDOW, x, y, .. } => {
                let (Some(view), Some(size)) = (&screen.view, screen.size) else { return None };
                let part = |at: i32, border: u32, pixels: u32| {
                    let at =
                        (i64::from(at) / 256 - i64::from(border)).clamp(0, i64::from(pixels) - 1);
                    let last = i64::from(pixels.max(2)) - 1;
                    u16::try_from(at * i64::from(POINTER_RANGE) / last).unwrap_or(POINTER_RANGE)
                };
                let (x, y) =
                    (part(x, view.border.left, size.width), part(y, view.border.top, size.height));
                screen.tell(Some(FromViewer::Pointer { x, y }));
            }
            Seen::Button { window: WINDOW, button, pressed, .. } => {
                let code = match button {
                    1 => BTN_LEFT,
                    2 => BTN_MIDDLE,
                    3 => BTN_RIGHT,
                    8 => BTN_SIDE,
                    9 => BTN_EXTRA,
                    _ => return None,
                };
                screen.hold(code, pressed, FromViewer::Button { code, pressed });
            }
            Seen::Scroll { window: WINDOW, horizontal, vertical, .. } => {
                let cut = |by: i32| by.clamp(-MOST_WHEEL, MOST_WHEEL);
                let (horizontal, vertical) = (cut(horizontal), cut(vertical.saturating_neg()));
                screen.tell(Some(FromViewer::Wheel { vertical, horizontal }));
            }
            Seen::Key { window: WINDOW, code, pressed, .. } => {
                let code = u16::try_from(code).ok().filter(|code| (1..=247).contains(code))?;
                screen.hold(code, pressed, FromViewer::Key { code, pressed });
            }
            other => return Some(other),
        }
        None
    }
}

fn view(vm: &str, scale: u32, size: Size, inner: &Rect, state: State) -> View {
    let label = state.fullscreen;
    View {
        content: Rect { width: size.width, height: size.height, ..*inner },
        border: border(label, scale),
        shadow: Insets::default(),
        label,
        scale,
        kind: Kind::Normal,
        popup: false,
        title: format!("[{vm}]"),
        instance: "screen".into(),
        class: host_names::host_id(vm, "screen"),
        transient_for: None,
        modal: false,
        decorated: true,
        alpha: false,
        shape: Vec::new(),
        hints: Hints::default(),
        state,
        opacity: 0,
        focusable: true,
        comes_forward: true,
        // Once it was somewhere it comes back there.
        placed: inner.area() > 0,
    }
}

/// The message's sizes are checked by the crate `display`.
fn cursor(image: CursorImage) -> CursorPicture {
    let Size { width, height } = image.size;
    let side = |pixels: u32| pixels.min(LARGEST_CURSOR);
    CursorPicture::Picture {
        width: side(width),
        height: side(height),
        hot: [image.hot_x, image.hot_y],
        pixels: image.pixels,
    }
}
