use super::*;
use proptest::prelude::*;
use std::format;
use std::string::ToString;

fn mistake(text: &str) -> ManifestError {
    parse(text.as_bytes()).unwrap_err()
}

#[test]
fn a_manifest_says_what_every_guest_has() {
    let guests = parse(
        b"# two\n\nguest one\n memory 64\n vcpus 4\n kernel vmlinuz\n initrd initrd.img\n \
          append console=ttyS0  panic=-1\n disk machine\n net yes\n\
          guest two\r\nmemory 32 at 128\r\nkernel kernels/tiny.bin\r\nmodule args.txt\r\n",
    )
    .unwrap();
    let [one, two] = guests.as_slice() else {
        panic!("{guests:?}");
    };
    assert_eq!(one.append, "console=ttyS0  panic=-1");
    assert_eq!((one.vcpus, one.memory, one.net), (4, 64, true));
    assert_eq!(one.disk, Some(DiskSource::Machine));
    assert_eq!((two.place, two.vcpus), (Some(128), 1));
    assert_eq!(two.initrd.as_deref(), Some("args.txt"));
}

#[test]
fn a_mistake_is_answered_with_its_line_and_what_is_allowed() {
    for (text, line, says) in [
        ("", 0, "no guest"),
        ("# only this\n", 0, "no guest"),
        ("memory 64\n", 1, "before the first line `guest NAME`"),
        ("guest a\nmemory 64\nkernel k\ncpus 2\n", 4, "\"cpus\""),
        ("guest a\nmemory 3\nkernel k", 2, "2 to 16777216, a multiple of 2"),
        ("guest a\nmemory -2\nkernel k", 2, "\"-2\""),
        ("guest a\nmemory", 2, "nothing follows"),
        ("guest a\nvcpus 65", 2, "1 to 64"),
        ("guest a\nvcpus 0", 2, "1 to 64"),
        ("guest a\nnet maybe", 2, "yes or no"),
        ("guest a\nkernel a\nkernel b", 3, "a second time"),
        ("guest a\ninitrd a\nmodule b", 3, "a second time"),
        ("guest a\nguest a", 2, "a second guest"),
        ("guest a b", 1, "letters"),
        ("guest monitor", 1, "other than monitor"),
        ("guest a\nmemory 64", 1, "no line \"kernel\""),
        ("\nguest a\nkernel k", 2, "no line \"memory\""),
    ] {
        let error = mistake(text);
        assert_eq!(error.line, line, "{text:?}: {error}");
        assert!(error.to_string().contains(says), "{text:?}: {error}");
    }
    assert_eq!(parse(&[0xff]).unwrap_err().mistake, Mistake::NotText);
}

#[test]
fn memory_of_two_guests_may_not_overlap() {
    let two = |a: &str, b: &str| {
        format!("guest a\nmemory {a}\nkernel k\nguest b\nmemory {b}\nkernel k\n")
    };
    let error = mistake(&two("64 at 0", "64 at 62"));
    assert!(error.to_string().contains("overlaps that of \"a\""), "{error}");
    assert!(parse(two("64 at 0", "64 at 64").as_bytes()).is_ok());
    assert!(parse(two("64 at 0", "64").as_bytes()).is_ok());
}

#[test]
fn the_core_has_only_so_many_run_pages() {
    let many: String =
        (0..5).map(|n| format!("guest g{n}\nmemory 2\nkernel k\nvcpus 64\n")).collect();
    assert_eq!(mistake(&many).mistake, Mistake::Vcpus(320));
}

proptest! {
    #[test]
    fn any_bytes_are_a_manifest_or_a_mistake(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes).map_err(|error| error.to_string());
    }

    #[test]
    fn any_words_are_a_manifest_or_a_mistake(
        lines in prop::collection::vec(("(guest|memory|vcpus|kernel|append|disk|net|x)", "[ -~]{0,12}"), 0..20)
    ) {
        let text: String = lines.iter().map(|(word, rest)| format!("{word} {rest}\n")).collect();
        let _ = parse(text.as_bytes()).map_err(|error| error.to_string());
    }
}
