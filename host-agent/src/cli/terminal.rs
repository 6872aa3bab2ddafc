//! The person's terminal while it belongs to a guest: raw, with one key kept back.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal, Read, Stdin, Write};

/// Ctrl-], as in telnet: ends the connection.
pub(super) const ESCAPE: u8 = 0x1d;

/// Restores the terminal when dropped. Does nothing when standard input is no terminal.
#[derive(Debug)]
pub(super) struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Makes standard input raw.
    pub(super) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
        Ok(Self { before: Some(before) })
    }

    /// Standard input is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.before.is_some()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The terminal may have gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Why the keyboard fell silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// [`ESCAPE`] was typed.
    Escape,
    /// Standard input ended.
    End,
    /// Nobody takes the keys any more.
    Deaf,
}

/// Copies keys from `stdin` to `to` until there are no more.
pub(super) fn type_into(mut stdin: Stdin, to: &mut impl Write) -> Silence {
    copy_keys(&mut stdin, to)
}

fn copy_keys(from: &mut impl Read, to: &mut impl Write) -> Silence {
    let mut keys = [0; 1024];
    loop {
        let count = match from.read(&mut keys) {
            Ok(0) => return Silence::End,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Silence::End,
        };
        let typed = keys.get(..count).unwrap_or_default();
        let escape = typed.iter().position(|key| *key == ESCAPE);
        let (typed, _) = typed.split_at(escape.unwrap_or(typed.len()));
        if to.write_all(typed).and_then(|()| to.flush()).is_err() {
            return Silence::Deaf;
        }
        if escape.is_some() {
            return Silence::Escape;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_before_the_escape_key_arrive_and_none_after() {
        let mut arrived = Vec::new();
        let silence = copy_keys(&mut &b"ls\r\x1dexit\r"[..], &mut arrived);
        assert_eq!((silence, &arrived[..]), (Silence::Escape, &b"ls\r"[..]));
        let silence = copy_keys(&mut &b"more"[..], &mut arrived);
        assert_eq!((silence, &arrived[..]), (Silence::End, &b"ls\rmore"[..]));
    }
}
