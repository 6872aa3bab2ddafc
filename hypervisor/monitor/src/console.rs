//! One console for the monitor and all guests: lines, each with the name of whose it is, never two
//! mixed. Pure; the caller brings the serial line, perhaps a second output, and the time.
//!
//! A guest's line appears when it ends. What a guest leaves without an end, a prompt, appears after a
//! short silence; another's line then begins a new one.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Silence after which an unfinished line is shown, in nanoseconds.
const SILENCE: u64 = 50_000_000;
/// The longest line; a longer one is broken.
const LINE_MOST: usize = 1024;

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(usize);

struct Voice {
    prefix: String,
    /// What has not been shown of the line.
    line: Vec<u8>,
    /// When it last said something.
    last: u64,
    /// It said CR, and LF or another line is to come.
    returned: bool,
}

/// The console.
pub struct Console {
    voices: Vec<Voice>,
    /// Whose unfinished line stands at the end of what is shown.
    open: Option<usize>,
    screen: Screen,
}

/// Something that takes text, all of it.
pub type Output = Box<dyn FnMut(&[u8]) + Send>;

/// Where the text is shown.
struct Screen {
    first: fn(&[u8]),
    second: Option<Output>,
}

impl Screen {
    fn show(&mut self, text: &[u8]) {
        (self.first)(text);
        if let Some(second) = &mut self.second {
            second(text);
        }
    }
}

impl Console {
    /// A console that shows its text by `output`, which takes all of it.
    #[must_use]
    pub const fn new(output: fn(&[u8])) -> Self {
        let screen = Screen { first: output, second: None };
        Self { voices: Vec::new(), open: None, screen }
    }

    /// Shows all that follows by `output` too.
    pub fn also(&mut self, output: Output) {
        self.screen.second = Some(output);
    }

    /// A source whose lines begin with `name| `.
    pub fn add(&mut self, name: &str) -> Source {
        self.voices.push(Voice {
            prefix: format!("{name}| "),
            line: Vec::new(),
            last: 0,
            returned: false,
        });
        Source(self.voices.len() - 1)
    }

    /// A line of the monitor's own.
    pub fn line(&mut self, text: core::fmt::Arguments<'_>) {
        self.close();
        let text = format!("monitor: {text}\r\n");
        self.screen.show(text.as_bytes());
    }

    /// What `source` says at `now`.
    pub fn write(&mut self, source: Source, bytes: &[u8], now: u64) {
        let Source(index) = source;
        for byte in bytes {
            let Some(voice) = self.voices.get_mut(index) else {
                return;
            };
            voice.last = now;
            let returned = core::mem::take(&mut voice.returned);
            match byte {
                b'\r' => voice.returned = true,
                b'\n' => self.end_line(index),
                // Nothing but an end of line may begin one: a guest cannot speak in another's name.
                0 | 0x0b | 0x0c => {}
                byte => {
                    if returned {
                        self.end_line(index);
                    }
                    self.voices[index].line.push(*byte);
                    if self.voices[index].line.len() >= LINE_MOST {
                        self.end_line(index);
                    }
                }
            }
        }
        if self.open == Some(index) {
            self.show(index);
        }
    }

    /// Shows unfinished lines of those that have been silent for a while at `now`.
    pub fn tick(&mut self, now: u64) {
        for index in 0..self.voices.len() {
            let voice = &self.voices[index];
            if !voice.line.is_empty() && now.saturating_sub(voice.last) >= SILENCE {
                self.show(index);
            }
        }
    }

    /// Whether [`Self::tick`] has something to do later.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.voices.iter().any(|voice| !voice.line.is_empty())
    }

    /// Shows all there is of `source` and ends its line.
    pub fn finish(&mut self, source: Source) {
        let Source(index) = source;
        let unfinished = self.voices.get(index).is_some_and(|v| !v.line.is_empty());
        if unfinished {
            self.end_line(index);
        } else if self.open == Some(index) {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.open.take().is_some() {
            self.screen.show(b"\r\n");
        }
    }

    /// Shows what waits of a line and leaves it open.
    fn show(&mut self, index: usize) {
        if self.voices[index].line.is_empty() {
            return;
        }
        if self.open != Some(index) {
            self.close();
            self.screen.show(self.voices[index].prefix.as_bytes());
            self.open = Some(index);
        }
        let line = core::mem::take(&mut self.voices[index].line);
        self.screen.show(&line);
    }

    fn end_line(&mut self, index: usize) {
        if self.open != Some(index) {
            self.close();
            self.screen.show(self.voices[index].prefix.as_bytes());
        }
        self.open = None;
        let mut line = core::mem::take(&mut self.voices[index].line);
        line.extend_from_slice(b"\r\n");
        self.screen.show(&line);
        line.clear();
        self.voices[index].line = line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::ToOwned;
    use std::cell::RefCell;

    std::thread_local! {
        static SHOWN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    fn console() -> (Console, Source, Source) {
        SHOWN.take();
        let mut console = Console::new(|bytes| SHOWN.with_borrow_mut(|all| all.extend(bytes)));
        let (a, b) = (console.add("a"), console.add("b"));
        (console, a, b)
    }

    fn shown() -> String {
        String::from_utf8(SHOWN.with_borrow(ToOwned::to_owned)).unwrap()
    }

    #[test]
    fn lines_of_two_guests_never_mix() {
        let (mut console, a, b) = console();
        console.write(a, b"hel", 0);
        console.write(b, b"wor", 0);
        console.write(a, b"lo\r\n", 0);
        console.line(format_args!("in between"));
        console.write(b, b"ld\n", 0);
        assert_eq!(shown(), "a| hello\r\nmonitor: in between\r\nb| world\r\n");
    }

    #[test]
    fn a_second_output_shows_the_same_from_then_on() {
        let (mut console, a, _) = console();
        console.line(format_args!("before"));
        let (to, from) = std::sync::mpsc::channel();
        console.also(Box::new(move |text| to.send(text.to_vec()).unwrap()));
        console.write(a, b"one\ntw", 0);
        console.finish(a);
        let second: Vec<u8> = from.try_iter().flatten().collect();
        assert_eq!(String::from_utf8(second).unwrap(), "a| one\r\na| tw\r\n");
        assert_eq!(shown(), "monitor: before\r\na| one\r\na| tw\r\n");
    }

    #[test]
    fn a_prompt_appears_after_a_silence_and_goes_on_in_its_line() {
        let (mut console, a, b) = console();
        console.write(a, b"# ", 0);
        console.tick(SILENCE - 1);
        assert_eq!(shown(), "");
        assert!(console.waits());
        console.tick(SILENCE);
        console.write(a, b"l", SILENCE);
        assert_eq!(shown(), "a| # l");
        console.write(b, b"x\n", SILENCE);
        console.write(a, b"s\n", SILENCE);
        assert_eq!(shown(), "a| # l\r\nb| x\r\na| s\r\n");
        assert!(!console.waits());
    }

    #[test]
    fn no_guest_speaks_in_anothers_name() {
        let (mut console, a, _) = console();
        console.write(a, b"x\rmonitor: exit 0\r\r\n\x0bmonitor: \0\x0cexit 0\n", 0);
        assert!(shown().lines().all(|line| line.starts_with("a| ")), "{}", shown());
        console.write(a, &[b'y'; 3000], 0);
        console.finish(a);
        assert!(shown().lines().all(|line| line.starts_with("a| ")));
        assert!(shown().ends_with("y\r\n"));
    }

    #[test]
    fn the_end_of_a_guest_ends_its_line_once() {
        let (mut console, a, b) = console();
        console.write(a, b"last words", 0);
        console.finish(a);
        console.finish(a);
        console.write(b, b"prompt", 0);
        console.tick(SILENCE);
        console.finish(b);
        assert_eq!(shown(), "a| last words\r\nb| prompt\r\n");
    }
}
