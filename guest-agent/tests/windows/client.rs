//! A program of the session, as bad as it likes.

use crate::host::Desk;
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    ClientMessageEvent, ConnectionExt as _, CreateWindowAux, EventMask, Window, WindowClass,
};
use x11rb::rust_connection::RustConnection;

pub struct Client {
    pub x: RustConnection,
    pub root: Window,
}

impl Client {
    pub fn new(desk: &Desk) -> Self {
        let (x, screen) = RustConnection::connect(Some(&desk.display)).unwrap();
        let root = x.setup().roots[screen].root;
        Self { x, root }
    }

    pub fn atom(&self, name: &str) -> u32 {
        self.x.intern_atom(false, name.as_bytes()).unwrap().reply().unwrap().atom
    }

    /// A window, not mapped yet; the server's answer when it does not make it.
    pub fn window(&self, place: (i16, i16, u16, u16), colour: u32, passes_by: bool) -> Window {
        let window = self.x.generate_id().unwrap();
        let aux = CreateWindowAux::new()
            .background_pixel(colour)
            .override_redirect(u32::from(passes_by))
            .event_mask(EventMask::KEY_PRESS | EventMask::KEY_RELEASE | EventMask::BUTTON_PRESS);
        let (x, y, width, height) = place;
        let class = WindowClass::INPUT_OUTPUT;
        self.x.create_window(0, window, self.root, x, y, width, height, 0, class, 0, &aux).unwrap();
        window
    }

    pub fn map(&self, window: Window) {
        self.x.map_window(window).unwrap();
        self.x.flush().unwrap();
    }

    /// Tells the window manager something of a window.
    pub fn message(&self, window: Window, name: &str, data: [u32; 5]) {
        let message = ClientMessageEvent::new(32, window, self.atom(name), data);
        let events = EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY;
        self.x.send_event(false, self.root, events, message).unwrap();
        self.x.flush().unwrap();
    }

    /// Until the server has done all that was asked.
    pub fn settle(&self) {
        self.x.get_input_focus().unwrap().reply().unwrap();
    }
}
