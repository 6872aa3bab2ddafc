//! Exec keys of a guest's users: a program is what the line says and nothing else, and a target is never
//! more than one argument.
//! Run: `cargo +nightly fuzz run exec_line` in `guest-agent`.
#![no_main]

use std::ffi::OsString;
use std::path::Path;

use guest_agent::applications::exec::{Facts, Line, Takes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(line) = text.parse::<Line>() else { return };
    let facts = Facts { name: "%f \"$(x)\"", icon: "%F", file: Path::new("/a %u") };
    let targets = ["/t/%f %U", "/t/\"b\" '", "/t/$(c)"].map(OsString::from);
    let without = line.commands(&facts, &[]);
    assert_eq!(without.len(), 1);
    let with = line.commands(&facts, &targets);
    let one_each = matches!(line.takes(), Takes::File | Takes::Url);
    assert_eq!(with.len(), if one_each { 3 } else { 1 });
    for command in &with {
        assert_eq!(command[0].to_str(), Some(line.program()));
        assert!(!line.program().is_empty() && !line.program().contains(['=', '\0']));
        let more = match line.takes() {
            Takes::Files | Takes::Urls => 3,
            Takes::File | Takes::Url => 1,
            Takes::Nothing => 0,
        };
        assert!(command.len() <= without[0].len() + more);
        if more == 3 {
            assert!(command.iter().filter(|word| targets.contains(word)).count() >= 3);
        }
    }
});
