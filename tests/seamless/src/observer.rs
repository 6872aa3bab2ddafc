//! Whoever sits before the host's screen: presses keys (XTEST) and sees what is shown.
//!
//! It does not poll: the X server says that something was drawn (DAMAGE on the root window), then a few
//! pixels are read. So it sees all that is drawn, at once, and takes little of the CPU that it measures.

use crate::failure::{Failure, Result};
use crate::subject::{CALM, FRAME, HEIGHT, MARK, WIDTH};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use window_link::latency;
use x11rb::NONE;
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::damage::{ConnectionExt as _, Damage, ReportLevel};
use x11rb::protocol::xproto::{
    AtomEnum, BUTTON_PRESS_EVENT, BUTTON_RELEASE_EVENT, ConnectionExt as _, ImageFormat,
    KEY_PRESS_EVENT, KEY_RELEASE_EVENT, MOTION_NOTIFY_EVENT, Window,
};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;

/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Keycode of a letter (XKB evdev: 38 is A).
const KEY: u8 = 38;

/// See the module.
pub(crate) struct Observer {
    x: RustConnection,
    root: Window,
    size: (u16, u16),
    damage: Damage,
    logs: PathBuf,
}

/// Where the subject's marks are on the screen: a pixel in the middle of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    first: (i16, i16),
    last: (i16, i16),
}

/// A key, and what came of it: nanoseconds as `window_link::latency::now` counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) struck: u64,
    pub(crate) seen: u64,
}

impl Strike {
    /// How long it took.
    pub(crate) fn took(self) -> Duration {
        Duration::from_nanos(self.seen - self.struck)
    }
}

/// What an animation showed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Different frames.
    pub(crate) frames: usize,
    /// Looks at which the two marks were of different frames.
    pub(crate) torn: usize,
}

impl Observer {
    /// Before this display.
    pub(crate) fn new(display: &str, logs: &Path) -> Result<Self> {
        let (x, screen) = RustConnection::connect(Some(display))?;
        let setup = &x.setup().roots[screen];
        let (root, size) = (setup.root, (setup.width_in_pixels, setup.height_in_pixels));
        x.damage_query_version(1, 1)?.reply()?;
        let damage = x.generate_id()?;
        x.damage_create(damage, root, ReportLevel::NON_EMPTY)?;
        x.flush()?;
        Ok(Self { x, root, size, damage, logs: logs.to_owned() })
    }

    fn late<T>(&self, what: &str) -> Result<T> {
        let (what, seconds, logs) = (what.to_owned(), PATIENCE.as_secs(), self.logs.clone());
        Err(Failure::Late { what, seconds, logs })
    }

    /// Waits until the window manager says that it is one.
    pub(crate) fn wait_for_manager(&self) -> Result {
        let name = b"_NET_SUPPORTING_WM_CHECK";
        let atom = self.x.intern_atom(false, name)?.reply()?.atom;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let asked = self.x.get_property(false, self.root, atom, AtomEnum::ANY, 0, 1)?;
            if asked.reply()?.length > 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.late("the window manager")
    }

    /// Waits until something was drawn; false at `end`. What is drawn after its return is told again.
    fn drawn(&self, end: Instant) -> Result<bool> {
        loop {
            let mut found = false;
            while let Some(event) = self.x.poll_for_event()? {
                found |= matches!(event, Event::DamageNotify(_));
            }
            if found {
                self.x.damage_subtract(self.damage, NONE, NONE)?;
                return Ok(true);
            }
            let now = Instant::now();
            if now >= end {
                return Ok(false);
            }
            self.x.flush()?;
            let left =
                Timespec::try_from(end - now).map_err(|error| Failure::X(error.to_string()))?;
            let mut watched = [PollFd::from_borrowed_fd(self.x.stream().as_fd(), PollFlags::IN)];
            match poll(&mut watched, Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::X(error.to_string())),
            }
        }
    }

    fn read(&self, x: i16, y: i16, width: u16, height: u16) -> Result<Vec<u32>> {
        let image = self.x.get_image(ImageFormat::Z_PIXMAP, self.root, x, y, width, height, !0)?;
        let data = image.reply()?.data;
        let (pixels, _) = data.as_chunks::<4>();
        Ok(pixels.iter().map(|pixel| u32::from_le_bytes(*pixel) & 0xff_ff_ff).collect())
    }

    fn pixel(&self, at: (i16, i16)) -> Result<u32> {
        self.read(at.0, at.1, 1, 1)?.first().copied().ok_or_else(|| Failure::X("no pixel".into()))
    }

    /// Waits until the whole window of the still subject is to be seen; where it is.
    pub(crate) fn appear(&self) -> Result<Marks> {
        self.wait_for(PATIENCE, "the window", || self.find(|colour| colour == CALM))
    }

    /// The same for the animated one.
    pub(crate) fn appear_animated(&self) -> Result<Marks> {
        self.wait_for(PATIENCE, "the animation", || {
            self.find(|colour| (FRAME..FRAME * 2).contains(&colour))
        })
    }

    /// Waits until nothing of the still subject is to be seen.
    pub(crate) fn vanish(&self, marks: Marks) -> Result {
        self.wait_for(PATIENCE, "the window's end", || {
            Ok((self.pixel(marks.first)? != CALM).then_some(()))
        })
    }

    fn wait_for<T>(
        &self,
        patience: Duration,
        what: &str,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + patience;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if !self.drawn(end)? {
                return self.late(what);
            }
        }
    }

    /// A row of pixels finds the first mark; the last is where it must be then, or is not there.
    fn find(&self, is: impl Fn(u32) -> bool) -> Result<Option<Marks>> {
        let (width, height) = self.size;
        let mark = usize::from(MARK);
        // Each second half mark: some row of it is read.
        for y in (0..height).step_by(mark / 2) {
            let Ok(y) = i16::try_from(y) else { break };
            let row = self.read(0, y, width, 1)?;
            let Some(left) = row.windows(mark).position(|part| part.iter().all(|one| is(*one)))
            else {
                continue;
            };
            let Ok(left) = i16::try_from(left) else { break };
            let column = self.read(left, 0, 1, height)?;
            let top = column.windows(mark).position(|part| part.iter().all(|one| is(*one)));
            let Some(top) = top.and_then(|top| i16::try_from(top).ok()) else { continue };
            let (half, far) = (MARK.cast_signed() / 2, MARK.cast_signed() / 2);
            let first = (left + half, top + half);
            let last = (left + WIDTH.cast_signed() - far, top + HEIGHT.cast_signed() - far);
            let inside = last.0 < width.cast_signed() && last.1 < height.cast_signed();
            if inside && is(self.pixel(last)?) {
                return Ok(Some(Marks { first, last }));
            }
            return Ok(None);
        }
        Ok(None)
    }

    /// Clicks into the window, so that keys go there.
    pub(crate) fn click(&self, marks: Marks) -> Result {
        let (x, y) = marks.last;
        let fake =
            |kind, detail| self.x.xtest_fake_input(kind, detail, 0, self.root, x - 100, y - 100, 0);
        fake(MOTION_NOTIFY_EVENT, 0)?;
        fake(BUTTON_PRESS_EVENT, 1)?;
        fake(BUTTON_RELEASE_EVENT, 1)?;
        self.x.flush()?;
        Ok(())
    }

    /// Presses a key and waits until the first mark has another colour. None when it did not come within
    /// `patience`.
    pub(crate) fn strike(&self, marks: Marks, patience: Duration) -> Result<Option<Strike>> {
        // What was drawn before is none of this key's.
        while self.drawn(Instant::now())? {}
        let before = self.pixel(marks.first)?;
        let struck = latency::now();
        self.x.xtest_fake_input(KEY_PRESS_EVENT, KEY, 0, self.root, 0, 0, 0)?;
        self.x.flush()?;
        let end = Instant::now() + patience;
        let mut took = None;
        while took.is_none() && self.drawn(end)? {
            if self.pixel(marks.first)? != before {
                took = Some(Strike { struck, seen: latency::now() });
            }
        }
        self.x.xtest_fake_input(KEY_RELEASE_EVENT, KEY, 0, self.root, 0, 0, 0)?;
        self.x.flush()?;
        Ok(took)
    }

    /// Watches the animation.
    pub(crate) fn watch(&self, marks: Marks, time: Duration) -> Result<Seen> {
        let end = Instant::now() + time;
        let (mut frames, mut torn) = (BTreeSet::new(), 0);
        while self.drawn(end)? {
            let asked = [marks.first, marks.last]
                .map(|(x, y)| self.x.get_image(ImageFormat::Z_PIXMAP, self.root, x, y, 1, 1, !0));
            let mut colours = [0; 2];
            for (colour, asked) in colours.iter_mut().zip(asked) {
                let data = asked?.reply()?.data;
                let pixel = data.first_chunk::<4>().copied().unwrap_or_default();
                *colour = u32::from_le_bytes(pixel) & 0xff_ff_ff;
            }
            if colours[0] == colours[1] {
                frames.insert(colours[0]);
            } else {
                torn += 1;
            }
            if Instant::now() >= end {
                break;
            }
        }
        Ok(Seen { frames: frames.len(), torn })
    }
}
