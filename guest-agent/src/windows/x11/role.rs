//! Taking the window manager's role and saying so on the root window (ICCCM 2.8, 4.3; EWMH).

use x11rb::connection::Connection;
use x11rb::protocol::composite::{ConnectionExt as _, Redirect};
use x11rb::protocol::damage::ConnectionExt as _;
use x11rb::protocol::randr::ConnectionExt as _;
use x11rb::protocol::shape::ConnectionExt as _;
use x11rb::protocol::xfixes::ConnectionExt as _;
use x11rb::protocol::xkb::ConnectionExt as _;
use x11rb::protocol::xproto::{
    AtomEnum, ChangeWindowAttributesAux, ClientMessageEvent, ConnectionExt as _, CreateWindowAux,
    EventMask, ImageOrder, PropMode, Window, WindowClass,
};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;
use x11rb::{COPY_DEPTH_FROM_PARENT, CURRENT_TIME, NONE};

use super::atoms::Atoms;
use super::{Lost, StartError, X11, answer};

/// What a session's only window manager has.
pub(super) struct Role {
    pub(super) atoms: Atoms,
    pub(super) own: Window,
    pub(super) shield: Window,
}

/// Whether the server knows the extension.
fn asked<T>(
    reply: Result<x11rb::cookie::Cookie<'_, RustConnection, T>, x11rb::errors::ConnectionError>,
) -> Result<Option<T>, Lost>
where
    T: x11rb::x11_utils::TryParse,
{
    match reply {
        Ok(cookie) => answer(cookie.reply()),
        Err(x11rb::errors::ConnectionError::UnsupportedExtension) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What all window managers ask of the root window.
pub(super) fn root_events() -> EventMask {
    EventMask::SUBSTRUCTURE_REDIRECT
        | EventMask::SUBSTRUCTURE_NOTIFY
        | EventMask::STRUCTURE_NOTIFY
        | EventMask::PROPERTY_CHANGE
}

/// Checks the extensions and takes the role.
pub(super) fn take(x: &RustConnection, screen: usize, display: &str) -> Result<Role, StartError> {
    let lacks = |what: &'static str| StartError::Lacks { display: display.to_owned(), lacks: what };
    let lost = Lost::from;
    asked(x.composite_query_version(0, 4))?.ok_or_else(|| lacks("the extension Composite"))?;
    asked(x.damage_query_version(1, 1))?.ok_or_else(|| lacks("the extension DAMAGE"))?;
    asked(x.xfixes_query_version(5, 0))?.ok_or_else(|| lacks("the extension XFIXES"))?;
    asked(x.shape_query_version())?.ok_or_else(|| lacks("the extension SHAPE"))?;
    asked(x.xtest_get_version(2, 2))?.ok_or_else(|| lacks("the extension XTEST"))?;
    asked(x.xkb_use_extension(1, 0))?
        .filter(|reply| reply.supported)
        .ok_or_else(|| lacks("the extension XKEYBOARD"))?;
    asked(x.randr_query_version(1, 5))?.ok_or_else(|| lacks("the extension RANDR"))?;
    let setup = x.setup();
    let bits = |depth| setup.pixmap_formats.iter().find(|format| format.depth == depth);
    if setup.image_byte_order != ImageOrder::LSB_FIRST
        || setup.roots[screen].root_depth != 24
        || bits(24).is_none_or(|format| format.bits_per_pixel != 32)
    {
        return Err(lacks("pixels of 24 bits in four bytes, the lowest first"));
    }
    let atoms = Atoms::new(x).map_err(lost)?.reply();
    let atoms = answer(atoms)?.ok_or_else(|| lacks("room for names"))?;
    let root = setup.roots[screen].root;
    let managed = || StartError::Managed(display.to_owned());
    let owner = answer(x.get_selection_owner(atoms.WM_S0).map_err(lost)?.reply())?;
    if owner.is_none_or(|owner| owner.owner != NONE) {
        return Err(managed());
    }
    let events = ChangeWindowAttributesAux::new().event_mask(root_events());
    if answer(x.change_window_attributes(root, &events).map_err(lost)?.check())?.is_none() {
        return Err(managed());
    }
    let window = |class, aux: &CreateWindowAux| -> Result<Window, Lost> {
        let window = x.generate_id()?;
        let depth = if class == WindowClass::INPUT_ONLY { 0 } else { COPY_DEPTH_FROM_PARENT };
        x.create_window(depth, window, root, -1, -1, 1, 1, 0, class, 0, aux)?;
        Ok(window)
    };
    let aux = CreateWindowAux::new().override_redirect(1).event_mask(EventMask::PROPERTY_CHANGE);
    let own = window(WindowClass::INPUT_OUTPUT, &aux)?;
    let shield = window(WindowClass::INPUT_ONLY, &CreateWindowAux::new().override_redirect(1))?;
    // Mapped, for a window that is not cannot have the focus.
    x.map_window(own).map_err(lost)?;
    x.set_selection_owner(own, atoms.WM_S0, CURRENT_TIME).map_err(lost)?;
    x.composite_redirect_subwindows(root, Redirect::MANUAL).map_err(lost)?;
    let message = ClientMessageEvent::new(32, root, atoms.MANAGER, [0, atoms.WM_S0, own, 0, 0]);
    x.send_event(false, root, EventMask::STRUCTURE_NOTIFY, message).map_err(lost)?;
    Ok(Role { atoms, own, shield })
}

impl X11 {
    /// Says on the root window what this window manager can do.
    pub(super) fn announce(&mut self) -> Result<(), Lost> {
        let a = &self.atoms;
        let supported = [
            a._NET_SUPPORTED,
            a._NET_SUPPORTING_WM_CHECK,
            a._NET_CLIENT_LIST,
            a._NET_CLIENT_LIST_STACKING,
            a._NET_ACTIVE_WINDOW,
            a._NET_NUMBER_OF_DESKTOPS,
            a._NET_CURRENT_DESKTOP,
            a._NET_DESKTOP_GEOMETRY,
            a._NET_DESKTOP_VIEWPORT,
            a._NET_WORKAREA,
            a._NET_CLOSE_WINDOW,
            a._NET_MOVERESIZE_WINDOW,
            a._NET_REQUEST_FRAME_EXTENTS,
            a._NET_FRAME_EXTENTS,
            a._NET_WM_ALLOWED_ACTIONS,
            a._NET_WM_NAME,
            a._NET_WM_ICON,
            a._NET_WM_PID,
            a._NET_WM_PING,
            a._NET_WM_SYNC_REQUEST,
            a._NET_WM_DESKTOP,
            a._NET_WM_MOVERESIZE,
            a._NET_WM_WINDOW_OPACITY,
            a._GTK_FRAME_EXTENTS,
            a._NET_WM_STATE,
            a._NET_WM_STATE_MODAL,
            a._NET_WM_STATE_MAXIMIZED_HORZ,
            a._NET_WM_STATE_MAXIMIZED_VERT,
            a._NET_WM_STATE_FULLSCREEN,
            a._NET_WM_STATE_HIDDEN,
            a._NET_WM_STATE_ABOVE,
            a._NET_WM_STATE_BELOW,
            a._NET_WM_STATE_SKIP_TASKBAR,
            a._NET_WM_STATE_SKIP_PAGER,
            a._NET_WM_STATE_DEMANDS_ATTENTION,
            a._NET_WM_STATE_SHADED,
            a._NET_WM_STATE_FOCUSED,
            a._NET_WM_WINDOW_TYPE,
            a._NET_WM_WINDOW_TYPE_DESKTOP,
            a._NET_WM_WINDOW_TYPE_DOCK,
            a._NET_WM_WINDOW_TYPE_TOOLBAR,
            a._NET_WM_WINDOW_TYPE_MENU,
            a._NET_WM_WINDOW_TYPE_UTILITY,
            a._NET_WM_WINDOW_TYPE_SPLASH,
            a._NET_WM_WINDOW_TYPE_DIALOG,
            a._NET_WM_WINDOW_TYPE_DROPDOWN_MENU,
            a._NET_WM_WINDOW_TYPE_POPUP_MENU,
            a._NET_WM_WINDOW_TYPE_TOOLTIP,
            a._NET_WM_WINDOW_TYPE_NOTIFICATION,
            a._NET_WM_WINDOW_TYPE_COMBO,
            a._NET_WM_WINDOW_TYPE_DND,
            a._NET_WM_WINDOW_TYPE_NORMAL,
        ];
        let (x, root) = (&self.x, self.root);
        let replace = PropMode::REPLACE;
        x.change_property32(replace, root, a._NET_SUPPORTED, AtomEnum::ATOM, &supported)?;
        for window in [root, self.own] {
            let check = [self.own];
            x.change_property32(
                replace,
                window,
                a._NET_SUPPORTING_WM_CHECK,
                AtomEnum::WINDOW,
                &check,
            )?;
        }
        let name = b"macrohard-guest-agent";
        x.change_property8(replace, self.own, a._NET_WM_NAME, a.UTF8_STRING, name)?;
        let number = |atom, value: u32| {
            x.change_property32(replace, root, atom, AtomEnum::CARDINAL, &[value])
        };
        number(a._NET_NUMBER_OF_DESKTOPS, 1)?;
        number(a._NET_CURRENT_DESKTOP, 0)?;
        x.change_property32(replace, root, a._NET_DESKTOP_VIEWPORT, AtomEnum::CARDINAL, &[0, 0])?;
        x.change_property32(replace, root, a._NET_ACTIVE_WINDOW, AtomEnum::WINDOW, &[NONE])?;
        self.listed = true;
        Ok(())
    }

    /// Lists the windows on the root window.
    pub(super) fn list(&mut self) -> Result<(), Lost> {
        let managed = |window: &&Window| {
            self.clients.get(window).is_some_and(|client| !client.override_redirect)
        };
        let mut list: Vec<Window> = self.order.iter().filter(managed).copied().collect();
        let (a, replace) = (&self.atoms, PropMode::REPLACE);
        self.x.change_property32(
            replace,
            self.root,
            a._NET_CLIENT_LIST,
            AtomEnum::WINDOW,
            &list,
        )?;
        // The stacking is the host's; of it the guest knows which window is used.
        if let Some(at) = list.iter().position(|window| *window == self.focused) {
            let focused = list.remove(at);
            list.push(focused);
        }
        let atom = a._NET_CLIENT_LIST_STACKING;
        self.x.change_property32(replace, self.root, atom, AtomEnum::WINDOW, &list)?;
        Ok(())
    }
}
