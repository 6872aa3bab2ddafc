//! X11. winit opens the windows, reports the pointer and the focus, and gives wgpu what it draws into. A second
//! connection (x11rb) does what winit has no words for: owners, states, size hints, shapes, icons, cursors,
//! work areas. Keys are read there too: winit hands them to the host's input method first, which would keep
//! dead keys and compositions that are the guest's to make.
//!
//! Windows have static gravity: where they are is where their pixels are, whatever frame stands around.

mod atoms;
mod cursor;
mod desktop;
mod events;
mod properties;

use super::{Notice, Place, Windowing, WindowingError};
use crate::model::{CursorPicture, Icon, Insets, Kind, Rect, Seen, State, View};
use crate::paint::Target;
use atoms::Atoms;
use log_limits::Seldom;
use proto::v1::{self, MoveResizeDirection};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use winit::dpi::{PhysicalPosition, PhysicalSize};
use winit::event::WindowEvent;
use winit::event_loop::ActiveEventLoop;
use winit::platform::x11::{WindowAttributesExtX11, WindowType};
use winit::raw_window_handle::{HasWindowHandle, RawWindowHandle};
use winit::window::{ResizeDirection, Window, WindowId};
use x11rb::connection::Connection;
use x11rb::protocol::randr::{self, ConnectionExt as _};
use x11rb::protocol::render::{self, ConnectionExt as _};
use x11rb::protocol::xinput::{self, ConnectionExt as _};
use x11rb::protocol::xproto::{
    ChangeWindowAttributesAux, ConfigureWindowAux, ConnectionExt as _, EventMask, Gravity,
    StackMode,
};
use x11rb::resource_manager;
use x11rb::rust_connection::RustConnection;

/// XIAllMasterDevices (XI2.h).
const ALL_MASTERS: u16 = 1;

/// A window of the desktop.
#[derive(Debug)]
struct Native {
    window: Arc<Window>,
    xid: u32,
    /// As last asked for.
    view: View,
    /// As it is.
    rect: Rect,
    state: State,
    frame: Insets,
    mapped: bool,
    obscured: bool,
}

/// Lines about what a guest asked for and the window manager does not do.
static REFUSED: Seldom = Seldom::new();

/// The desktop of an X server.
pub struct X11 {
    connection: Arc<RustConnection>,
    root: u32,
    atoms: Atoms,
    colour: u32,
    windows: BTreeMap<u32, Native>,
    by_xid: BTreeMap<u32, u32>,
    by_winit: BTreeMap<WindowId, u32>,
    cursor: u32,
    /// Those of the theme that were used last, the very last at the end. They are kept when others are shown.
    named: VecDeque<(String, u32)>,
    theme: Option<x11rb::cursor::Handle>,
    cursor_format: Option<render::Pictformat>,
    /// Windows whose place or state may have changed.
    stale: BTreeSet<u32>,
    /// The window manager puts titles over windows.
    titles: bool,
    focus: Option<u32>,
    focus_changed: bool,
    pointer: Option<u32>,
    pointer_left: bool,
    /// When the user last pressed something in a window, as the X server counts; 0 never.
    user_time: u32,
    /// Since the process began to count.
    start: std::time::Instant,
    notices: Vec<Notice>,
}

impl std::fmt::Debug for X11 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X11").field("windows", &self.windows).finish_non_exhaustive()
    }
}

impl X11 {
    /// On the X server that `DISPLAY` names. `colour` is that of the VM: what is not drawn yet has it.
    ///
    /// # Errors
    /// See [`WindowingError`].
    pub fn new(colour: [u8; 3]) -> Result<Self, WindowingError> {
        let (connection, screen) = x11rb::connect(None)?;
        let root = connection.setup().roots[screen].root;
        let atoms = Atoms::new(&connection)?.reply()?;
        let mask = EventMask::PROPERTY_CHANGE | EventMask::STRUCTURE_NOTIFY;
        connection
            .change_window_attributes(root, &ChangeWindowAttributesAux::new().event_mask(mask))?;
        let changes = randr::NotifyMask::SCREEN_CHANGE | randr::NotifyMask::CRTC_CHANGE;
        connection.randr_query_version(1, 5)?.reply()?;
        connection.randr_select_input(root, changes)?;
        connection.xinput_xi_query_version(2, 2)?.reply()?;
        connection.render_query_version(0, 11)?.reply()?;
        let formats = connection.render_query_pict_formats()?.reply()?;
        // Alpha first in a number, as guests' pixels are.
        let cursor_format = formats.formats.iter().find(|format| {
            let direct = format.direct;
            format.depth == 32
                && (direct.alpha_shift, direct.red_shift, direct.green_shift, direct.blue_shift)
                    == (24, 16, 8, 0)
                && direct.alpha_mask == 255
        });
        let cursor_format = cursor_format.map(|format| format.id);
        let database = resource_manager::new_from_default(&connection)?;
        let theme = x11rb::cursor::Handle::new(&connection, screen, &database)?.reply();
        let theme = match theme {
            Ok(theme) => Some(theme),
            Err(error) => {
                tracing::warn!("no cursor theme: {error}");
                None
            }
        };
        let [red, green, blue] = colour;
        Ok(Self {
            connection: Arc::new(connection),
            root,
            atoms,
            colour: u32::from_be_bytes([255, red, green, blue]),
            windows: BTreeMap::new(),
            by_xid: BTreeMap::new(),
            by_winit: BTreeMap::new(),
            cursor: x11rb::NONE,
            named: VecDeque::new(),
            theme,
            cursor_format,
            stale: BTreeSet::new(),
            titles: true,
            focus: None,
            focus_changed: false,
            pointer: None,
            pointer_left: false,
            user_time: x11rb::CURRENT_TIME,
            start: std::time::Instant::now(),
            notices: Vec::new(),
        })
    }

    /// For a thread that waits for events, and for the painter.
    #[must_use]
    pub fn connection(&self) -> Arc<RustConnection> {
        Arc::clone(&self.connection)
    }

    fn prepare(&self, xid: u32, view: &View, rect: &Rect) -> Result<(), WindowingError> {
        let connection = &*self.connection;
        let events =
            EventMask::STRUCTURE_NOTIFY | EventMask::PROPERTY_CHANGE | EventMask::VISIBILITY_CHANGE;
        let attributes = ChangeWindowAttributesAux::new()
            .event_mask(events)
            // What the guest has not drawn yet looks like border, never like something else.
            .background_pixel(self.colour)
            .bit_gravity(Gravity::NORTH_WEST)
            .cursor(self.cursor);
        connection.change_window_attributes(xid, &attributes)?;
        let keys = xinput::XIEventMask::KEY_PRESS | xinput::XIEventMask::KEY_RELEASE;
        let keys = xinput::EventMask { deviceid: ALL_MASTERS, mask: vec![keys] };
        connection.xinput_xi_select_events(xid, &[keys])?;
        // Files are not dropped into guests: winit says otherwise.
        connection.delete_property(xid, self.atoms.XdndAware)?;
        self.set_class(xid, view)?;
        self.set_hints(xid, view)?;
        self.set_transient_for(xid, view)?;
        self.set_initial_state(xid, view)?;
        self.set_opacity(xid, view)?;
        if !view.comes_forward {
            self.set_no_user_time(xid)?;
        }
        if !view.shape.is_empty() {
            self.set_shape(xid, view, rect)?;
        }
        // Done before winit, on its own connection, maps it.
        connection.get_input_focus()?.reply()?;
        Ok(())
    }

    fn configure(&self, native: &Native, wanted: &Rect) -> Result<(), WindowingError> {
        let geometry = ConfigureWindowAux::new()
            .x(wanted.x)
            .y(wanted.y)
            .width(wanted.width)
            .height(wanted.height);
        self.connection.configure_window(native.xid, &geometry)?;
        Ok(())
    }

    /// Whether a button of the pointer is down; true where the X server does not say.
    fn any_button(&self) -> bool {
        use x11rb::protocol::xproto::KeyButMask;
        let buttons = u16::from(
            KeyButMask::BUTTON1
                | KeyButMask::BUTTON2
                | KeyButMask::BUTTON3
                | KeyButMask::BUTTON4
                | KeyButMask::BUTTON5,
        );
        let pointer = self.connection.query_pointer(self.root).ok().and_then(|it| it.reply().ok());
        pointer.is_none_or(|pointer| u16::from(pointer.mask) & buttons != 0)
    }

    fn xid(&self, id: u32) -> Option<u32> {
        self.windows.get(&id).map(|native| native.xid)
    }

    /// Milliseconds since the start, wraps.
    fn now(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "it wraps")]
        let milliseconds = self.start.elapsed().as_millis() as u32;
        milliseconds
    }
}

fn window_type(kind: Kind) -> WindowType {
    match kind {
        Kind::Normal => WindowType::Normal,
        Kind::Dialog => WindowType::Dialog,
        Kind::Utility => WindowType::Utility,
        Kind::Splash => WindowType::Splash,
        Kind::Menu => WindowType::PopupMenu,
        Kind::Dropdown => WindowType::DropdownMenu,
        Kind::Combo => WindowType::Combo,
        Kind::Tooltip => WindowType::Tooltip,
        Kind::Notification => WindowType::Notification,
        Kind::Drag => WindowType::Dnd,
    }
}

impl Windowing for X11 {
    type Event = x11rb::protocol::Event;

    fn open(
        &mut self,
        event_loop: &ActiveEventLoop,
        id: u32,
        view: &View,
    ) -> Result<Target, WindowingError> {
        let rect = view.native();
        let attributes = Window::default_attributes()
            .with_visible(false)
            .with_title(view.title.as_str())
            .with_inner_size(PhysicalSize::new(rect.width, rect.height))
            .with_position(PhysicalPosition::new(rect.x, rect.y))
            .with_decorations(view.decorated)
            .with_transparent(view.alpha)
            .with_override_redirect(view.popup)
            .with_x11_window_type(vec![window_type(view.kind)]);
        let window = Arc::new(event_loop.create_window(attributes)?);
        let xid = match window.window_handle().map(|handle| handle.as_raw()) {
            Ok(RawWindowHandle::Xlib(handle)) => u32::try_from(handle.window).ok(),
            Ok(RawWindowHandle::Xcb(handle)) => Some(handle.window.get()),
            _ => None,
        };
        let xid = xid.ok_or(WindowingError::Foreign)?;
        self.prepare(xid, view, &rect)?;
        let depth = self.connection.get_geometry(xid)?.reply()?.depth;
        let native = Native {
            window: Arc::clone(&window),
            xid,
            view: view.clone(),
            rect,
            state: view.state,
            frame: Insets::default(),
            mapped: false,
            obscured: false,
        };
        self.by_xid.insert(xid, id);
        self.by_winit.insert(window.id(), id);
        self.windows.insert(id, native);
        // It may take the place of one that others belong to.
        for other in self.windows.values() {
            if other.view.transient_for == Some(id) {
                self.set_transient_for(other.xid, &other.view)?;
            }
        }
        window.set_visible(true);
        Ok(Target { id: xid, depth, window })
    }

    fn change(&mut self, id: u32, view: &View) -> Result<(), WindowingError> {
        let Some(native) = self.windows.get(&id) else { return Ok(()) };
        let (xid, before) = (native.xid, &native.view);
        if view.title != before.title {
            native.window.set_title(&view.title);
        }
        if view.decorated != before.decorated {
            native.window.set_decorations(view.decorated);
        }
        if (&view.class, &view.instance) != (&before.class, &before.instance) {
            self.set_class(xid, view)?;
        }
        if view.transient_for != before.transient_for {
            self.set_transient_for(xid, view)?;
        }
        if view.opacity != before.opacity {
            self.set_opacity(xid, view)?;
        }
        let rect = view.native();
        if (view.hints, view.border, view.focusable, view.state.demands_attention)
            != (before.hints, before.border, before.focusable, before.state.demands_attention)
        {
            self.set_hints(xid, view)?;
        }
        if !view.popup {
            self.change_state(native, view)?;
        }
        let by_the_desktop = view.state.fullscreen
            || (view.state.maximized_horizontally && view.state.maximized_vertically);
        if rect != native.rect {
            if view.popup || !by_the_desktop {
                self.configure(native, &rect)?;
            } else {
                // The guest has it otherwise than it is (it may have given up its shadow): it is told again.
                self.stale.insert(id);
            }
        }
        let size = |rect: &Rect| (rect.width, rect.height);
        if view.shape != before.shape
            || (!view.shape.is_empty() && size(&rect) != size(&before.native()))
        {
            self.set_shape(xid, view, &rect)?;
        }
        if let Some(native) = self.windows.get_mut(&id) {
            native.view = view.clone();
        }
        Ok(())
    }

    fn shut(&mut self, id: u32) {
        if let Some(native) = self.windows.remove(&id) {
            self.by_xid.remove(&native.xid);
            self.by_winit.remove(&native.window.id());
        }
        self.stale.remove(&id);
        if self.focus == Some(id) {
            self.focus = None;
            self.focus_changed = true;
        }
        if self.pointer == Some(id) {
            self.pointer = None;
            self.pointer_left = true;
        }
    }

    fn icon(&mut self, id: u32, icon: &Icon) -> Result<(), WindowingError> {
        self.xid(id).map_or(Ok(()), |xid| self.set_icon(xid, icon))
    }

    fn cursor(&mut self, cursor: &CursorPicture) -> Result<(), WindowingError> {
        self.set_cursor(cursor)
    }

    fn raise(&mut self, id: u32) -> Result<(), WindowingError> {
        if let Some(xid) = self.xid(id) {
            let above = ConfigureWindowAux::new().stack_mode(StackMode::ABOVE);
            self.connection.configure_window(xid, &above)?;
        }
        Ok(())
    }

    fn activate(&mut self, id: u32) -> Result<(), WindowingError> {
        // As of an application whose window has the focus (EWMH).
        let current = self.focus.and_then(|focus| self.xid(focus)).unwrap_or(x11rb::NONE);
        match self.xid(id) {
            Some(xid) => {
                let time = self.user_time;
                self.ask(xid, self.atoms._NET_ACTIVE_WINDOW, [1, time, current, 0, 0])
            }
            None => Ok(()),
        }
    }

    fn move_resize(&mut self, id: u32, direction: MoveResizeDirection) {
        let Some(native) = self.windows.get(&id) else { return };
        let resize = match direction {
            MoveResizeDirection::TopLeft => ResizeDirection::NorthWest,
            MoveResizeDirection::Top => ResizeDirection::North,
            MoveResizeDirection::TopRight => ResizeDirection::NorthEast,
            MoveResizeDirection::Right => ResizeDirection::East,
            MoveResizeDirection::BottomRight => ResizeDirection::SouthEast,
            MoveResizeDirection::Bottom => ResizeDirection::South,
            MoveResizeDirection::BottomLeft => ResizeDirection::SouthWest,
            MoveResizeDirection::Left => ResizeDirection::West,
            MoveResizeDirection::Move => {
                if let Err(error) = native.window.drag_window()
                    && let Some(kept) = REFUSED.due()
                {
                    tracing::warn!(kept, "window {id} cannot be moved: {error}");
                }
                return;
            }
            // The window manager ends it when the button is released.
            MoveResizeDirection::Cancel | MoveResizeDirection::Unspecified => return,
        };
        if let Err(error) = native.window.drag_resize_window(resize)
            && let Some(kept) = REFUSED.due()
        {
            tracing::warn!(kept, "window {id} cannot be resized: {error}");
        }
    }

    fn bell(&mut self) -> Result<(), WindowingError> {
        self.connection.bell(0)?;
        Ok(())
    }

    fn monitors(&self) -> Result<v1::Monitors, WindowingError> {
        self.read_monitors()
    }

    fn keyboard(&self) -> Result<v1::Keyboard, WindowingError> {
        self.read_keyboard()
    }

    fn place(&self, id: u32) -> Option<Place> {
        let native = self.windows.get(&id)?;
        Some(Place { native: native.xid.into(), rect: native.rect })
    }

    fn stacking(&self) -> Result<Vec<u32>, WindowingError> {
        let managed = self.cardinals(self.root, self.atoms._NET_CLIENT_LIST_STACKING)?;
        let mut order: Vec<u32> =
            managed.iter().filter_map(|xid| self.by_xid.get(xid)).copied().collect();
        // Those that no window manager knows are above, or there is none.
        order.extend(
            self.windows.keys().filter(|id| !order.contains(id)).copied().collect::<Vec<_>>(),
        );
        Ok(order)
    }

    fn set_colour(&mut self, [red, green, blue]: [u8; 3]) -> Result<(), WindowingError> {
        self.colour = u32::from_be_bytes([255, red, green, blue]);
        let attributes = ChangeWindowAttributesAux::new().background_pixel(self.colour);
        for native in self.windows.values() {
            self.connection.change_window_attributes(native.xid, &attributes)?;
        }
        Ok(())
    }

    fn winit_event(&mut self, window: WindowId, event: WindowEvent) {
        if let Some(id) = self.by_winit.get(&window) {
            self.of_winit(*id, event);
        }
    }

    fn event(&mut self, event: x11rb::protocol::Event) {
        self.of_server(event);
    }

    fn settle(&mut self) -> Vec<Notice> {
        let (titles, before) = (self.titles, self.notices.len());
        for id in std::mem::take(&mut self.stale) {
            // A window that is being closed answers no more.
            if let Err(error) = self.look(id) {
                tracing::debug!("window {id}: {error}");
            }
        }
        if titles != self.titles {
            // Before where windows are: the name takes its room from the window that the window manager has placed.
            self.notices.insert(before, Notice::Titles(self.titles));
        }
        if std::mem::take(&mut self.focus_changed) {
            self.notices.push(Notice::Seen(Seen::Focus(self.focus)));
            if self.focus.is_some() {
                self.notices.push(Notice::Keyboard);
            }
        }
        if std::mem::take(&mut self.pointer_left) && self.pointer.is_none() {
            let held = self.any_button();
            self.notices.push(Notice::Seen(Seen::Left { held, time: self.now() }));
        }
        // What was asked for goes out now.
        if let Err(error) = self.connection.flush() {
            tracing::debug!("the X server: {error}");
        }
        std::mem::take(&mut self.notices)
    }
}
