//! What a guest says of its clipboard, as the host hears it: announcements, requests, chunks, content.
//! Run: `cargo +nightly fuzz run guest` in `crates/clipboard-relay`.
#![no_main]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use clipboard::{Format, Selection};
use clipboard_relay::transfer::{self, Assembly};
use clipboard_relay::{Announcement, Here, Origin, Policy, Relay, Step, content, files};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use proto::v1::{ClipboardChunk, ClipboardFetch, ClipboardOffer};

const MOST: usize = 1000;

const HONEST: u8 = 3;

fn honest(sequence: u64) -> Announcement {
    let (origin, formats) = (vec![3; 16], vec![1]);
    let offer = ClipboardOffer { selection: 1, origin, sequence, formats, ..Default::default() };
    Announcement::check(&offer).expect("it keeps all limits")
}

struct TextOnly;

impl Policy<u8> for TextOnly {
    fn of_peer(&self, _: &u8, selection: Selection) -> BTreeSet<Format> {
        (selection == Selection::Clipboard).then_some(Format::Text).into_iter().collect()
    }

    fn to_peer(&self, peer: &u8, selection: Selection) -> BTreeSet<Format> {
        self.of_peer(peer, selection)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let origin = Origin::from_bytes(&[1; 16]).expect("16 bytes");
    let mut relay: Relay<u8> = Relay::new(Arc::new(Here::with(origin)));
    (0..4).for_each(|peer| relay.joined(peer));
    // One that is honest, whatever the others say in its name.
    assert_eq!(relay.heard(&HONEST, honest(1), &TextOnly), Ok(()));
    let _ = relay.settle(&TextOnly);
    let mut assembly = Assembly::new(MOST);
    let mut whole = true;
    let mut rest = bytes;
    // Messages, each after its kind and length.
    while let [kind, length, after @ ..] = rest {
        let (message, next) = after.split_at(after.len().min(usize::from(*length)));
        rest = next;
        match kind % 4 {
            0 => {
                let Ok(offer) = ClipboardOffer::decode(message) else { continue };
                let Ok(announcement) = Announcement::check(&offer) else { continue };
                assert_eq!(Announcement::check(&announcement.message()), Ok(announcement.clone()));
                let _ = relay.heard(&(kind / 4 % 3), announcement, &TextOnly);
                for step in relay.settle(&TextOnly) {
                    let (Step::Show(said) | Step::Tell(_, said)) = step;
                    assert!(!said.secret && said.formats.iter().all(|format| *format == Format::Text));
                    assert!(said.formats.is_empty() || said.selection == Selection::Clipboard);
                }
                assert!(relay.settle(&TextOnly).is_empty());
            }
            1 => {
                let Ok(fetch) = ClipboardFetch::decode(message) else { continue };
                if let Ok((selection, id, format)) = transfer::check(&fetch) {
                    assert_eq!(transfer::request(selection, id, format), fetch);
                    let _ = relay.source_for_peer(&0, selection, id, format);
                }
            }
            2 => {
                if let Ok(chunk) = ClipboardChunk::decode(message) {
                    whole &= assembly.push(&chunk).is_ok();
                }
            }
            _ => {
                for format in [Format::Text, Format::Html, Format::Png, Format::Files] {
                    let _ = content::check(format, message);
                }
                if let Ok(list) = files::decode(message) {
                    let folder = Path::new("/srv/share");
                    for file in &list.files {
                        let path = files::below(folder, file);
                        assert!(path.starts_with(folder) && !path.to_string_lossy().contains("/.."));
                        assert_eq!(files::within(folder, &file.tag, &path).as_ref(), Some(file));
                    }
                }
            }
        }
    }
    assert_eq!(relay.heard(&HONEST, honest(2), &TextOnly), Ok(()));
    let shown = relay.settle(&TextOnly).into_iter().any(|step| step == Step::Show(honest(2)));
    assert!(shown, "the honest peer is held back");
    if whole && let Ok(content) = assembly.finish() {
        assert!(content.len() <= MOST);
    }
});
