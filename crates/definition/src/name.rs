//! Names of VMs. A name is a file name too (`NAME.toml`, the state folder), unchanged, so that the
//! mapping is reversible by reading; the allowed characters are those that need no escape in a file
//! name, a terminal or a desktop entry.

use crate::check::{Field, FieldProblem, limits};

/// Characters besides letters and digits that a name may contain.
const PUNCTUATION: &str = " -_.()+,&@#=";

/// Checks a name by itself.
///
/// # Errors
/// The name is empty, too long, or contains what a name may not.
pub fn check_name(name: &str) -> Result<(), FieldProblem> {
    let valid = limits::NAME.contains(&name.chars().count())
        && name.len() <= limits::NAME_BYTES
        && name.chars().all(is_allowed)
        && name.starts_with(|c: char| c.is_alphanumeric())
        && !name.ends_with(' ');
    if valid {
        return Ok(());
    }
    Err(FieldProblem::new(
        Field::top("name"),
        name,
        format!(
            "{} to {} letters, digits, spaces and {}, beginning with a letter or digit, at most {} \
             bytes, no space at the end",
            limits::NAME.start(),
            limits::NAME.end(),
            PUNCTUATION.trim_start(),
            limits::NAME_BYTES
        ),
    ))
}

fn is_allowed(c: char) -> bool {
    // The enclosed alphanumerics that double as emoji count as letters in Unicode.
    let pictograph =
        ('\u{1f000}'..='\u{1ffff}').contains(&c) || ('\u{2460}'..='\u{24ff}').contains(&c);
    PUNCTUATION.contains(c) || (c.is_alphanumeric() && !pictograph)
}

/// A short folder name for places where the length of a path is limited (a Unix socket's path has
/// 108 bytes): readable start plus a hash of the whole name.
pub(crate) fn short(name: &str) -> String {
    let readable: String = name
        .chars()
        .take(16)
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    format!("{readable}-{:016x}", hash(name.as_bytes()))
}

/// FNV-1a, 64 bits: stable across releases, unlike the standard library's hasher.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_people_give_are_allowed() {
        for name in ["a", "Windows 11", "Büro-PC (alt)", "開発", "x86_64+test.1", &"n".repeat(100)]
        {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_would_hurt_are_refused_and_named() {
        let long = "n".repeat(300);
        for name in [
            "",
            "a/b",
            "..",
            ".hidden",
            "-rf",
            " a",
            "a ",
            "a\nb",
            "a\u{0}b",
            "penguin 🐧",
            "🅰",
            "Ⓜ",
            "a\u{1b}[31m",
            "a*b",
            "a\"b",
            "$(x)",
            &long,
            &"開".repeat(80),
        ] {
            let problem = check_name(name).expect_err(name);
            assert_eq!(problem.field, Field::top("name"));
            assert!(!problem.to_string().contains(char::is_control), "{problem}");
        }
        assert!(check_name(&long).unwrap_err().to_string().contains("300 characters"));
    }

    #[test]
    fn short_names_stay_short_and_apart() {
        assert_ne!(short("Windows 11"), short("windows-11"));
        assert!(short("Windows 11").starts_with("windows-11-"));
        assert!(short(&"開".repeat(60)).len() <= 33);
    }
}
