//! Resizing at the pace of the program (_NET_WM_SYNC_REQUEST): its window gets another size only after it has
//! drawn the last one, and what is half drawn is not presented. A program that does not answer is not waited
//! for.

use std::time::{Duration, Instant};

use proto::v1::Rectangle;
use x11rb::connection::Connection as _;
use x11rb::errors::ConnectionError;
use x11rb::protocol::sync::{
    Alarm, ConnectionExt as _, CreateAlarmAux, Int64, TESTTYPE, VALUETYPE,
};
use x11rb::protocol::xproto::Window;
use x11rb::rust_connection::RustConnection;

use super::client::RECORD;
use super::{Lost, X11, answer};

/// How long a program may take to draw a size.
const PATIENCE: Duration = Duration::from_millis(200);

/// A size that a program has not drawn yet.
#[derive(Debug)]
pub(super) struct Awaited {
    alarm: Alarm,
    until: Instant,
    /// The host has said another size since.
    again: bool,
}

/// Whether the server counts for programs.
pub(super) fn begin(x: &RustConnection) -> Result<bool, Lost> {
    match x.sync_initialize(3, 1) {
        Ok(asked) => Ok(answer(asked.reply())?.is_some()),
        Err(ConnectionError::UnsupportedExtension) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl X11 {
    /// Gives a window the place and size that the host wants, now or when its program is ready.
    pub(super) fn put_in_time(&mut self, window: Window, place: Rectangle) -> Result<(), Lost> {
        let size = |place: Rectangle| (place.width, place.height);
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        let place = crate::windows::record::place(place);
        if let Some(awaited) = &mut client.awaited {
            // The host is told that it is done: it will be, in a moment.
            awaited.again = true;
            client.geometry = place;
            self.touch(window, RECORD);
            return Ok(());
        }
        let counter = client.properties.counter;
        if self.counts
            && client.mapped
            && client.properties.syncs
            && counter != 0
            && size(place) != size(client.geometry)
        {
            self.ask_to_draw(window, counter)?;
        }
        self.put(window, place)
    }

    /// Asks the program to say when it has drawn what comes next.
    fn ask_to_draw(&mut self, window: Window, counter: u32) -> Result<(), Lost> {
        let Some(now) = answer(self.x.sync_query_counter(counter)?.reply())? else {
            return Ok(());
        };
        let Int64 { hi, lo } = now.counter_value;
        let value = ((i64::from(hi) << 32) | i64::from(lo)).wrapping_add(1);
        let halves = Int64 { hi: (value >> 32) as i32, lo: value as u32 };
        let alarm = self.x.generate_id()?;
        let aux = CreateAlarmAux::new()
            .counter(counter)
            .value_type(VALUETYPE::ABSOLUTE)
            .value(halves)
            .test_type(TESTTYPE::POSITIVE_COMPARISON)
            .delta(Int64 { hi: 0, lo: 0 })
            .events(1);
        self.x.sync_create_alarm(alarm, &aux)?;
        let time = self.time()?;
        let atom = self.atoms._NET_WM_SYNC_REQUEST;
        self.say(window, [atom, time, halves.lo, halves.hi as u32, 0])?;
        if let Some(client) = self.clients.get_mut(&window) {
            client.awaited =
                Some(Awaited { alarm, until: Instant::now() + PATIENCE, again: false });
            self.awaiting.insert(window);
        }
        Ok(())
    }

    /// A program has drawn.
    pub(super) fn drawn(&mut self, alarm: Alarm) -> Result<(), Lost> {
        let is = |window: &&Window| {
            let awaited = self.clients.get(*window).and_then(|client| client.awaited.as_ref());
            awaited.is_some_and(|awaited| awaited.alarm == alarm)
        };
        match self.awaiting.iter().find(is).copied() {
            Some(window) => self.drawn_by(window),
            None => Ok(()),
        }
    }

    fn drawn_by(&mut self, window: Window) -> Result<(), Lost> {
        self.awaiting.remove(&window);
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        let Some(awaited) = client.awaited.take() else { return Ok(()) };
        self.x.sync_destroy_alarm(awaited.alarm)?;
        self.touch(window, RECORD);
        if !awaited.again {
            return Ok(());
        }
        // What the host has said last, as if it said it now.
        let Some(client) = self.clients.get_mut(&window) else { return Ok(()) };
        let (wanted, seen) = (client.geometry, client.seen);
        client.geometry = seen;
        self.put_in_time(window, wanted)
    }

    /// When a program has been waited for long enough.
    pub(super) fn patience(&self) -> Option<Instant> {
        let awaited = self.awaiting.iter().filter_map(|window| self.clients.get(window));
        awaited.filter_map(|client| Some(client.awaited.as_ref()?.until)).min()
    }

    /// Goes on without those that were waited for long enough.
    pub(super) fn lose_patience(&mut self) -> Result<(), Lost> {
        if self.awaiting.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let late = |window: &&Window| {
            let client = self.clients.get(*window);
            client.is_none_or(|client| {
                client.awaited.as_ref().is_none_or(|awaited| awaited.until <= now)
            })
        };
        let late: Vec<Window> = self.awaiting.iter().filter(late).copied().collect();
        for window in late {
            self.drawn_by(window)?;
        }
        Ok(())
    }
}
