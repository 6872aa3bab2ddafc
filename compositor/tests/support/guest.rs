//! A guest's agent that the test plays.

use super::{Desktop, LOOK};
use proto::v1::{self, FromGuest, FromHost, from_guest, from_host};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use window_link::Decoder;
use window_memory::{Allocator, Area, Span, WindowMemory};

/// See [`Guest::flood`].
pub(crate) struct Flood {
    ends: Arc<AtomicBool>,
    said: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    /// Messages so far.
    pub(crate) fn said(&self) -> u64 {
        self.said.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A guest's agent.
pub(crate) struct Guest {
    stream: UnixStream,
    decoder: Decoder<FromHost>,
    memory: WindowMemory,
    allocator: Allocator,
    generation: u64,
    sequence: u64,
    /// Of each window the last configure that was heard.
    carried_out: BTreeMap<u32, u64>,
    /// The same, whole.
    last: BTreeMap<u32, v1::Configure>,
}

pub(crate) fn rectangle(x: i32, y: i32, width: u32, height: u32) -> v1::Rectangle {
    v1::Rectangle { x, y, width, height }
}

/// An application's window.
pub(crate) fn window(id: u32, x: i32, y: i32, width: u32, height: u32) -> v1::Window {
    v1::Window {
        id,
        geometry: Some(rectangle(x, y, width, height)),
        kind: v1::WindowKind::Normal.into(),
        title: format!("window {id}"),
        instance: "instance".into(),
        class: "Class".into(),
        ..v1::Window::default()
    }
}

/// A menu.
pub(crate) fn menu(id: u32, owner: u32, x: i32, y: i32, width: u32, height: u32) -> v1::Window {
    v1::Window {
        kind: v1::WindowKind::Menu.into(),
        override_redirect: true,
        transient_for: owner,
        ..window(id, x, y, width, height)
    }
}

impl Guest {
    /// One that has said nothing.
    pub(super) fn new(stream: UnixStream, memory: WindowMemory) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            allocator: Allocator::new(memory.len()),
            memory,
            generation: 0,
            sequence: 0,
            carried_out: BTreeMap::new(),
            last: BTreeMap::new(),
        }
    }

    pub(crate) fn hello(&mut self) {
        self.say(from_guest::Message::Hello(v1::WindowsHello {
            version: window_link::VERSION,
            window_memory: self.memory.len(),
            program: "test".into(),
        }));
    }

    pub(crate) fn say(&mut self, message: from_guest::Message) {
        self.try_say(message).unwrap();
    }

    /// Fails when the compositor has closed the connection.
    pub(crate) fn try_say(&mut self, message: from_guest::Message) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        window_link::encode(&FromGuest { message: Some(message) }, &mut bytes).unwrap();
        self.stream.write_all(&bytes)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Of the last window that was told.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Tells of a window, with the next generation.
    pub(crate) fn tell(&mut self, mut window: v1::Window) {
        self.generation += 1;
        window.generation = self.generation;
        self.say(from_guest::Message::Window(window));
    }

    /// Tells of a window until it has become so, after all that the host had to say of it.
    pub(crate) fn insist(&mut self, desktop: &Desktop, wish: &v1::Window, done: impl Fn() -> bool) {
        let mut told = None;
        desktop.until("what the guest wishes", || {
            self.settle();
            let configured = self.carried_out.get(&wish.id).copied().unwrap_or(0);
            if told != Some(configured) && !done() {
                self.tell(v1::Window { configured, ..wish.clone() });
                told = Some(configured);
            }
            done().then_some(())
        });
    }

    /// The next message; `None` at the end.
    pub(crate) fn hear(&mut self) -> Option<from_host::Message> {
        loop {
            if let Some(message) = self.decoder.take().unwrap() {
                let message = message.message.expect("a message");
                if let from_host::Message::Configure(told) = &message {
                    self.carried_out.insert(told.window, told.generation);
                    self.last.insert(told.window, *told);
                }
                return Some(message);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(length) => self.decoder.give(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("what was waited for did not come: {error}"),
            }
        }
    }

    /// The next message that `pick` takes.
    pub(crate) fn expect<T>(
        &mut self,
        mut pick: impl FnMut(&from_host::Message) -> Option<T>,
    ) -> T {
        loop {
            let message = self.hear().expect("the compositor has closed the connection");
            if let Some(picked) = pick(&message) {
                return picked;
            }
        }
    }

    /// The next configure of this window that `pick` takes.
    pub(crate) fn configured(
        &mut self,
        id: u32,
        pick: impl Fn(&v1::Configure) -> bool,
    ) -> v1::Configure {
        self.expect(|message| match message {
            from_host::Message::Configure(configure)
                if configure.window == id && pick(configure) =>
            {
                Some(*configure)
            }
            _ => None,
        })
    }

    /// As [`Guest::configured`], also one that was heard already.
    pub(crate) fn now_configured(
        &mut self,
        id: u32,
        pick: impl Fn(&v1::Configure) -> bool,
    ) -> v1::Configure {
        match self.last.get(&id) {
            Some(last) if pick(last) => *last,
            _ => self.configured(id, pick),
        }
    }

    /// Puts pixels into window memory.
    pub(crate) fn buffer(&mut self, width: u32, height: u32, pixels: &[u8]) -> Span {
        let span = self.allocator.allocate(u64::from(width * height * 4)).unwrap();
        self.draw(&span, width, height, pixels);
        span
    }

    pub(crate) fn draw(&mut self, span: &Span, width: u32, height: u32, pixels: &[u8]) {
        let stride = (width * 4) as usize;
        let area = Area { x: 0, y: 0, width, height };
        self.memory.copy_in(span, stride, area, pixels, stride);
    }

    pub(crate) fn present(&mut self, id: u32, span: &Span, width: u32, height: u32) -> v1::Present {
        self.sequence += 1;
        v1::Present {
            window: id,
            sequence: self.sequence,
            offset: span.offset(),
            stride: width * 4,
            width,
            height,
            damage: Vec::new(),
        }
    }

    /// Says what `next` makes of 1, 2, 3 ..., and takes all answers, until what is given back is dropped.
    pub(crate) fn flood(
        &self,
        next: impl Fn(u64) -> from_guest::Message + Send + 'static,
    ) -> Flood {
        let (mut writing, mut reading) =
            (self.stream.try_clone().unwrap(), self.stream.try_clone().unwrap());
        let (ends, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (Arc::clone(&ends), Arc::clone(&said));
        let writer = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let message = Some(next(count.fetch_add(1, Ordering::Relaxed) + 1));
                let mut bytes = Vec::new();
                window_link::encode(&FromGuest { message }, &mut bytes).unwrap();
                if writing.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        let end = Arc::clone(&ends);
        let reader = std::thread::spawn(move || {
            reading.set_read_timeout(Some(LOOK)).unwrap();
            let mut bytes = [0; 65536];
            while !end.load(Ordering::Relaxed) {
                // Nothing for a moment, or the end.
                let _ = reading.read(&mut bytes);
            }
        });
        Flood { ends, said, threads: vec![writer, reader] }
    }

    /// Presents and waits for the answer.
    pub(crate) fn show(&mut self, present: v1::Present) {
        let expected = v1::PresentAck { window: present.window, sequence: present.sequence };
        self.say(from_guest::Message::Present(present));
        self.expect(|message| (*message == from_host::Message::Ack(expected)).then_some(()));
    }

    /// Waits until all that was said is done: the answer of a present to no window comes after it.
    pub(crate) fn settle(&mut self) {
        self.sequence += 1;
        let present =
            v1::Present { window: u32::MAX, sequence: self.sequence, ..v1::Present::default() };
        self.show(present);
    }
}

/// A picture whose every pixel is its own.
pub(crate) fn pattern(width: u32, height: u32, seed: u8) -> Vec<u8> {
    (0..height)
        .flat_map(|y| {
            (0..width)
                .flat_map(move |x| [(x ^ y) as u8 ^ seed, (x * 3) as u8, (y * 5) as u8 ^ seed, 255])
        })
        .collect()
}

/// Without alpha.
pub(crate) fn opaque(pixels: &[u8]) -> Vec<[u8; 3]> {
    pixels.chunks_exact(4).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
}
