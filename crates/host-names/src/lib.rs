//! The one name that a guest's application has on the host: of its desktop entry, its icon, and its windows
//! (`app_id`, WM_CLASS), so that the desktop knows that they belong together.
//!
//! `org.macrohard.VM.APP`, where VM and APP are the VM's name and the application's id with every byte but
//! ASCII letters, digits and `-` written as `_` and two hexadecimal digits. A `_` so stands only at
//! the beginning of such three, and no two names become the same. A name that is longer than a file's
//! may be is cut before `__` and 32 hexadecimal digits of its SHA-256; `__` stands in no other.

use sha2::{Digest, Sha256};

/// What every one of these names begins with.
pub const PREFIX: &str = "org.macrohard.";

/// Longest encoded parts: with prefix, extension and what a temporary file adds they fit the 255 bytes of a
/// file's name.
const LONGEST_VM: usize = 96;
const LONGEST_APPLICATION: usize = 112;
/// `__` and half a SHA-256.
const TAIL: usize = 2 + 32;

/// The name of application `id` of VM `vm`.
#[must_use]
pub fn host_id(vm: &str, id: &str) -> String {
    format!("{}{}", prefix(vm), encode(id, LONGEST_APPLICATION))
}

/// What the names of all applications of VM `vm` begin with, and no other's.
#[must_use]
pub fn prefix(vm: &str) -> String {
    format!("{PREFIX}{}.", encode(vm, LONGEST_VM))
}

fn encode(name: &str, longest: usize) -> String {
    let mut encoded = String::new();
    let mut cut = 0;
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("_{byte:02x}"));
        }
        if encoded.len() <= longest - TAIL {
            cut = encoded.len();
        }
    }
    if encoded.len() > longest {
        encoded.truncate(cut);
        encoded.push_str("__");
        for byte in Sha256::digest(name.as_bytes()).iter().take(16) {
            encoded.push_str(&format!("{byte:02x}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_readable_where_they_can_be() {
        assert_eq!(
            host_id("Windows 11", "org.gnome.TextEditor"),
            "org.macrohard.Windows_2011.org_2egnome_2eTextEditor"
        );
        assert_eq!(host_id("a_b", "x-y_z"), "org.macrohard.a_5fb.x-y_5fz");
    }

    #[test]
    fn names_that_look_alike_stay_apart() {
        let ids = ["a b", "a_b", "a-b", "a.b", "a_20b", "A b", "ä", "a", "__", "_5f"];
        let mut names: Vec<_> = ids.iter().map(|vm| host_id(vm, "x")).collect();
        names.extend(ids.iter().map(|id| host_id("vm", id)));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 2 * ids.len());
        assert_ne!(host_id("a.b", "c"), host_id("a", "b.c"));
    }

    #[test]
    fn the_longest_names_fit_a_file_and_stay_apart() {
        let (vm, id) = ("開".repeat(66), "_".repeat(127));
        let names = ["a", "b"].map(|end| host_id(&format!("{vm}{end}"), &format!("{id}{end}")));
        assert_ne!(names[0], names[1]);
        for name in names {
            assert!(format!(".{name}.desktop.4194304.new").len() <= 255, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_of_its_vm_alone(
            a in "[a-zA-Z0-9 ._ä-]{1,40}", b in "[a-zA-Z0-9 ._ä-]{1,40}", id in "[a-z._-]{1,200}",
        ) {
            let name = host_id(&a, &id);
            prop_assert!(name.starts_with(&prefix(&a)));
            prop_assert_eq!(name.starts_with(&prefix(&b)), a == b);
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            prop_assert!(name.chars().all(allowed));
            prop_assert_eq!(name.matches('.').count(), 3);
        }
    }
}
