//! What comes from a guest, until it has been checked.

use std::fmt;

/// A value that a guest chose. The only way to it is a check.
#[derive(Clone, PartialEq, Eq)]
pub struct Untrusted<T>(T);

/// What is wrong with a guest's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextProblem {
    /// Too long.
    #[error("{field} has {found} bytes; allowed: {most}")]
    Long {
        /// Which.
        field: &'static str,
        /// Bytes it has.
        found: usize,
        /// Bytes it may have.
        most: usize,
    },
    /// A character that is not shown or changes how others are.
    #[error("{field} contains the character {found:?}, which is not for showing")]
    Character {
        /// Which.
        field: &'static str,
        /// The first such.
        found: char,
    },
}

impl<T> Untrusted<T> {
    /// Marks a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// What `check` makes of the value.
    ///
    /// # Errors
    /// The check's.
    pub fn check<U, E>(self, check: impl FnOnce(T) -> Result<U, E>) -> Result<U, E> {
        check(self.0)
    }
}

impl Untrusted<String> {
    /// One line of at most `most` bytes that a person can read as it is.
    ///
    /// # Errors
    /// It is not one.
    pub fn line(self, field: &'static str, most: usize) -> Result<String, TextProblem> {
        let text = self.0;
        if text.len() > most {
            return Err(TextProblem::Long { field, found: text.len(), most });
        }
        match text.chars().find(|character| !is_shown(*character)) {
            Some(found) => Err(TextProblem::Character { field, found }),
            None => Ok(text),
        }
    }

    /// A message for a person, whatever it contains: cut to `most` bytes, what is not for showing replaced.
    #[must_use]
    pub fn shown(self, most: usize) -> String {
        let mut shown = String::new();
        for character in self.0.chars() {
            let character = if is_shown(character) { character } else { '\u{fffd}' };
            if shown.len() + character.len_utf8() > most {
                break;
            }
            shown.push(character);
        }
        shown
    }
}

/// Not a control character, and none that turns the direction of text or hides (Unicode TR 36 3.2: what
/// makes a line look like another).
fn is_shown(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The value itself does not get into logs unchecked.
impl<T> fmt::Debug for Untrusted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Untrusted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<String, TextProblem> {
        Untrusted::new(text.to_owned()).line("the name", 8)
    }

    #[test]
    fn a_line_is_short_and_can_be_read_as_it_is() {
        assert_eq!(line("Grüße"), Ok("Grüße".into()));
        assert_eq!(line(""), Ok(String::new()));
        assert_eq!(line("123456789").unwrap_err().to_string(), "the name has 9 bytes; allowed: 8");
        for bad in ["a\nb", "a\x1b[m", "a\u{202e}b", "a\u{200b}", "\u{85}", "\u{feff}"] {
            assert!(matches!(line(bad), Err(TextProblem::Character { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_message_is_cut_and_cleaned() {
        let shown = |text: &str, most| Untrusted::new(text.to_owned()).shown(most);
        assert_eq!(shown("a\x1b[31mb\n", 100), "a\u{fffd}[31mb\u{fffd}");
        assert_eq!(shown("üüü", 5), "üü");
        assert_eq!(format!("{:?}", Untrusted::new("secret")), "Untrusted");
    }
}
