//! Names of properties and messages (EWMH 1.5, ICCCM 2.0, Motif, GTK).
#![allow(missing_docs, non_snake_case, reason = "the names say it and are the specifications'")]

x11rb::atom_manager! {
    pub(super) Atoms: AtomsCookie {
        UTF8_STRING,
        WM_STATE,
        WM_CHANGE_STATE,
        WM_HINTS,
        XdndAware,
        _GTK_WORKAREAS_D0,
        _NET_ACTIVE_WINDOW,
        _NET_CLIENT_LIST_STACKING,
        _NET_CURRENT_DESKTOP,
        _NET_FRAME_EXTENTS,
        _NET_WORKAREA,
        _NET_SUPPORTING_WM_CHECK,
        _NET_WM_ICON,
        _NET_WM_STATE,
        _NET_WM_STATE_ABOVE,
        _NET_WM_STATE_BELOW,
        _NET_WM_STATE_DEMANDS_ATTENTION,
        _NET_WM_STATE_FULLSCREEN,
        _NET_WM_STATE_HIDDEN,
        _NET_WM_STATE_MAXIMIZED_HORZ,
        _NET_WM_STATE_MAXIMIZED_VERT,
        _NET_WM_STATE_MODAL,
        _NET_WM_STATE_SHADED,
        _NET_WM_STATE_SKIP_TASKBAR,
        _NET_WM_USER_TIME,
        _NET_WM_WINDOW_OPACITY,
        _MACROHARD_NOW,
        _XKB_RULES_NAMES,
    }
}
