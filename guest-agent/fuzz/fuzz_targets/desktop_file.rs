//! Desktop files of a guest's users: what is listed keeps the protocol's limits, whatever the file says.
//! Run: `cargo +nightly fuzz run desktop_file` in `guest-agent`.
#![no_main]

use guest_agent::applications::application::{View, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let languages = ["de_AT".to_owned(), "sr@latin".to_owned()];
    let desktops = ["GNOME".to_owned()];
    let view = View { languages: &languages, desktops: &desktops, installed: &|_| true };
    // Once as it is, once with what every application needs.
    let start = b"[Desktop Entry]\nType=Application\nName=x\nExec=x %u\n";
    for bytes in [bytes.to_vec(), [start, bytes].concat()] {
        let Ok(listed) = read("an.id", &bytes, &view) else { continue };
        let application = listed.application;
        let texts = [
            (application.name.as_ref(), 128),
            (application.comment.as_ref(), 256),
            (application.generic_name.as_ref(), 128),
        ];
        let names = application.actions.iter().map(|action| (action.name.as_ref(), 128));
        for (text, most) in texts.into_iter().chain(names) {
            let Some(text) = text else { continue };
            line(&text.plain, most);
            for translation in &text.translations {
                assert!(languages.contains(&translation.language));
                line(&translation.text, most);
            }
        }
        for (list, number, most) in [
            (&application.keywords, 64, 128),
            (&application.categories, 32, 64),
            (&application.mime_types, 256, 128),
        ] {
            assert!(list.len() <= number);
            list.iter().for_each(|item| line(item, most));
        }
        for mime_type in &application.mime_types {
            assert!(mime_type.contains('/') && !mime_type.contains([';', ' ', '=']));
        }
        assert!(application.categories.iter().all(|category| !category.contains([';', '='])));
        assert!(application.actions.len() <= 32 && application.startup_class.len() <= 128);
        assert!(!application.startup_class.chars().any(char::is_control));
    }
});

fn line(text: &str, most: usize) {
    assert!(!text.is_empty() && text.len() <= most && !text.chars().any(char::is_control));
}
