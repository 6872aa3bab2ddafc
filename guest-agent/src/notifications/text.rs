//! Texts of the session's programs made to fit what the host takes: it refuses what is too long or not for
//! showing, and no program of the guest knows that.

/// One line of at most `most` bytes.
pub(super) fn line(text: &str, most: usize) -> String {
    fit(text, most, false)
}

/// Lines of together at most `most` bytes.
pub(super) fn lines(text: &str, most: usize) -> String {
    fit(text, most, true)
}

fn fit(text: &str, most: usize, lines: bool) -> String {
    let mut fitting = String::new();
    for character in text.replace("\r\n", "\n").chars() {
        let character = match character {
            '\n' if lines => '\n',
            _ if character.is_control() => ' ',
            _ if is_hidden(character) => continue,
            _ => character,
        };
        if fitting.len() + character.len_utf8() > most {
            break;
        }
        fitting.push(character);
    }
    fitting
}

/// Marks of direction and the like, which hide or turn text: the host refuses them (Unicode TR 36, 3.2).
fn is_hidden(character: char) -> bool {
    matches!(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_would_refuse_is_left_out_or_cut() {
        assert_eq!(line("a\nb\tc\u{202e}d\u{1b}[m", 100), "a b cd [m");
        assert_eq!(lines("a\r\nb\u{0}", 100), "a\nb ");
        assert_eq!(line("üüü", 5), "üü");
    }
}
