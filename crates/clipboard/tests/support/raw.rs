//! A bare X11 program: the owners and requestors that no sound program would be.

use std::time::{Duration, Instant};

use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ConnectionExt as _, CreateWindowAux, EventMask, PropMode, Property,
    SELECTION_NOTIFY_EVENT, SelectionNotifyEvent, SelectionRequestEvent, Window, WindowClass,
};
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;
use x11rb::{CURRENT_TIME, NONE};

pub struct Raw {
    pub connection: RustConnection,
    pub window: Window,
}

impl Raw {
    pub fn new(display: &str) -> Self {
        let (connection, screen) = x11rb::connect(Some(display)).unwrap();
        let root = connection.setup().roots[screen].root;
        let window = connection.generate_id().unwrap();
        let watched = CreateWindowAux::new().event_mask(EventMask::PROPERTY_CHANGE);
        let class = WindowClass::INPUT_ONLY;
        connection
            .create_window(0, window, root, 0, 0, 1, 1, 0, class, 0, &watched)
            .unwrap()
            .check()
            .unwrap();
        Self { connection, window }
    }

    pub fn atom(&self, name: &str) -> Atom {
        self.connection.intern_atom(false, name.as_bytes()).unwrap().reply().unwrap().atom
    }

    pub fn own(&self, selection: &str) {
        let selection = self.atom(selection);
        self.connection.set_selection_owner(self.window, selection, CURRENT_TIME).unwrap();
        let owner = self.connection.get_selection_owner(selection).unwrap().reply().unwrap().owner;
        assert_eq!(owner, self.window);
    }

    /// The next event, within a limit.
    pub fn event(&self, within: Duration) -> Option<Event> {
        let end = Instant::now() + within;
        loop {
            if let Some(event) = self.connection.poll_for_event().unwrap() {
                return Some(event);
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The next request for what this program owns.
    pub fn request(&self, within: Duration) -> Option<SelectionRequestEvent> {
        let end = Instant::now() + within;
        while let Some(event) = self.event(end.saturating_duration_since(Instant::now())) {
            if let Event::SelectionRequest(request) = event {
                return Some(request);
            }
        }
        None
    }

    pub fn answer(&self, request: &SelectionRequestEvent, property: Atom) {
        let event = SelectionNotifyEvent {
            response_type: SELECTION_NOTIFY_EVENT,
            sequence: 0,
            time: request.time,
            requestor: request.requestor,
            selection: request.selection,
            target: request.target,
            property,
        };
        self.connection.send_event(false, request.requestor, EventMask::NO_EVENT, event).unwrap();
        // The server forgets what a program has sent that closes its connection at once.
        self.connection.sync().unwrap();
    }

    pub fn give(&self, request: &SelectionRequestEvent, kind: Atom, bytes: &[u8]) {
        let Self { connection, .. } = self;
        connection
            .change_property8(PropMode::REPLACE, request.requestor, request.property, kind, bytes)
            .unwrap();
        self.answer(request, request.property);
    }

    pub fn give_words(&self, request: &SelectionRequestEvent, kind: Atom, words: &[u32]) {
        let Self { connection, .. } = self;
        connection
            .change_property32(PropMode::REPLACE, request.requestor, request.property, kind, words)
            .unwrap();
        self.answer(request, request.property);
    }

    /// Answers questions for TARGETS with these, and gives the first request for something else.
    pub fn offer_until_asked(
        &self,
        names: &[&str],
        within: Duration,
    ) -> Option<SelectionRequestEvent> {
        let targets = self.atom("TARGETS");
        let names: Vec<Atom> = names.iter().map(|name| self.atom(name)).collect();
        loop {
            let request = self.request(within)?;
            if request.target != targets {
                return Some(request);
            }
            self.give_words(&request, AtomEnum::ATOM.into(), &names);
        }
    }

    /// Waits until the requestor has deleted a property; its window must be listened to.
    pub fn deleted(&self, window: Window, within: Duration) -> bool {
        let end = Instant::now() + within;
        while let Some(event) = self.event(end.saturating_duration_since(Instant::now())) {
            match event {
                Event::PropertyNotify(event)
                    if event.window == window && event.state == Property::DELETE =>
                {
                    return true;
                }
                Event::DestroyNotify(event) if event.window == window => return false,
                _ => {}
            }
        }
        false
    }

    /// Asks the owner of the clipboard and gives the property it answers with.
    pub fn convert(&self, target: &str, property: &str) -> Option<Atom> {
        let [selection, target, property] =
            [self.atom("CLIPBOARD"), self.atom(target), self.atom(property)];
        let Self { connection, window } = self;
        connection.convert_selection(*window, selection, target, property, CURRENT_TIME).unwrap();
        connection.flush().unwrap();
        let end = Instant::now() + super::LIMIT;
        while let Some(event) = self.event(end.saturating_duration_since(Instant::now())) {
            if let Event::SelectionNotify(event) = event {
                return Some(event.property).filter(|property| *property != NONE);
            }
        }
        panic!("no answer to a request");
    }

    /// Type, format and bytes of a property of the own window, which is deleted.
    pub fn take(&self, property: Atom) -> (Atom, u8, Vec<u8>) {
        let any = AtomEnum::ANY;
        let reply = self
            .connection
            .get_property(true, self.window, property, any, 0, u32::MAX / 4)
            .unwrap()
            .reply()
            .unwrap();
        (reply.type_, reply.format, reply.value)
    }
}
