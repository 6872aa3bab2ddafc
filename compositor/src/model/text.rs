//! A guest's text, made fit to be shown among the host's own.

use window_link::limits;

/// Has no width: the line begins from the left.
const LEFT_TO_RIGHT: char = '\u{200e}';
/// Stands for what is not shown.
const REPLACEMENT: char = '\u{fffd}';

/// At most `most` bytes of `text` in one line, without characters that control the display or the order of
/// others; and whether anything had to change.
#[must_use]
pub(super) fn line(text: &str, most: usize) -> (String, bool) {
    let mut clean = String::with_capacity(text.len().min(most));
    let mut changed = false;
    for character in text.chars() {
        let shown = if is_shown(character) { character } else { REPLACEMENT };
        changed |= shown != character;
        if clean.len() + shown.len_utf8() > most {
            return (clean, true);
        }
        clean.push(shown);
    }
    (clean, changed)
}

/// What a window is called on the host's desktop: its VM first, so that it is seen even where a task bar
/// cuts, then what the guest says.
#[must_use]
pub(super) fn title(vm: &str, told: &str) -> (String, bool) {
    let (told, changed) = line(told, limits::TITLE);
    let title = if told.is_empty() { format!("[{vm}]") } else { format!("[{vm}] {told}") };
    // A line's direction is that of its first letter (UAX 9, P2): the VM's name stays at the left.
    let turns = title.chars().find(|character| character.is_alphabetic()).is_some_and(is_rtl);
    (if turns { format!("{LEFT_TO_RIGHT}{title}") } else { title }, changed)
}

/// A letter that is written from the right (Unicode's Bidi_Class R and AL: the blocks set aside for them).
fn is_rtl(character: char) -> bool {
    matches!(
        character,
        '\u{0590}'..='\u{08ff}'
            | '\u{fb1d}'..='\u{fdff}'
            | '\u{fe70}'..='\u{feff}'
            | '\u{10800}'..='\u{10fff}'
            | '\u{1e800}'..='\u{1efff}'
    )
}

/// Neither a control character nor one that reorders or hides (Unicode general category Cf where text
/// rendering follows it: UAX 9 marks, embeddings, overrides and isolates, tags, invisible operators), nor a
/// line's end.
fn is_shown(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{00ad}'
                | '\u{061c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::{line, title};
    use proptest::prelude::*;

    #[test]
    fn a_title_cannot_pass_for_the_hosts() {
        assert_eq!(
            title("work", "a\u{202e}b\nc\0"),
            ("[work] a\u{fffd}b\u{fffd}c\u{fffd}".into(), true)
        );
        assert_eq!(title("work", "Übersicht 日本"), ("[work] Übersicht 日本".into(), false));
        assert_eq!(title("work", ""), ("[work]".into(), false));
        // The VM's name is first to the eye, too.
        assert_eq!(title("work", "שלום"), ("[work] שלום".into(), false));
        assert_eq!(title("7", "שלום"), ("\u{200e}[7] שלום".into(), false));
        assert_eq!(title("7", "x שלום"), ("[7] x שלום".into(), false));
    }

    #[test]
    fn a_long_title_is_cut_between_characters() {
        let (cut, changed) = line(&"ä".repeat(400), 512);
        assert_eq!((cut.len(), changed), (512, true));
        assert_eq!(line(&"ä".repeat(400), 511).0.len(), 510);
    }

    proptest! {
        #[test]
        fn no_text_gets_longer_than_allowed_or_keeps_a_control(text in ".*", most in 0_usize..100) {
            let (clean, changed) = line(&text, most);
            prop_assert!(clean.len() <= most);
            prop_assert!(!clean.chars().any(char::is_control));
            prop_assert_eq!(changed, clean != text);
            prop_assert_eq!(line(&clean, most), (clean.clone(), false));
        }
    }
}
