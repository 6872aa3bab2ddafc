//! The X11 backend beside programs that no sound program would be: owners that say nothing, say too much or
//! lie, requestors that stop or vanish.

#[macro_use]
mod support;

use std::time::Duration;

use clipboard::{Content, FetchError, Format, Selection, x11};
use support::raw::Raw;
use support::{Changes, LIMIT, MIB, bytes, empty, long_text, next, offer, offered};
use x11rb::connection::Connection as _;
use x11rb::protocol::xproto::{
    AtomEnum, ChangeWindowAttributesAux, ConnectionExt as _, EventMask, PropMode,
    SelectionRequestEvent,
};
use x11rb::wrapper::ConnectionExt as _;

/// An owner in a thread of its own, as it blocks.
fn owner(display: &str, run: impl FnOnce(Raw) + Send + 'static) -> std::thread::JoinHandle<()> {
    let owner = Raw::new(display);
    owner.own("CLIPBOARD");
    std::thread::spawn(move || run(owner))
}

#[tokio::test]
async fn an_owner_that_never_answers_offers_nothing_and_its_fetches_are_late() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    // Tells first of what it has, to see that the silent one's nothing replaces it.
    let xclip = server.xclip_in(&["-selection", "clipboard"], b"x").await;
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Text]));
    let silent = Raw::new(&server.display);
    silent.own("CLIPBOARD");
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[]));
    let fetched = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100).await;
    assert_eq!(fetched, Err(FetchError::Late));
    drop(xclip);
    // The display goes on.
    let _xclip = server.xclip_in(&["-selection", "clipboard"], b"y").await;
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Text]));
}

#[tokio::test]
async fn an_owner_that_answers_late_still_offers() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let xclip = server.xclip_in(&["-selection", "clipboard"], b"x").await;
    next(&mut changes).await;
    let owner = owner(&server.display, |owner| {
        let request = owner.request(LIMIT).unwrap();
        std::thread::sleep(Duration::from_secs(4));
        let targets = [owner.atom("UTF8_STRING")];
        owner.give_words(&request, AtomEnum::ATOM.into(), &targets);
        let request = owner.request(LIMIT).unwrap();
        owner.give(&request, request.target, b"late");
        owner.request(Duration::from_secs(1));
    });
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[]));
    // Asked before it is known what there is.
    let fetched = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100).await;
    assert_eq!(fetched, Ok(Content::Bytes(b"late".to_vec())));
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Text]));
    owner.join().unwrap();
    drop(xclip);
}

/// What a password manager does: it has said what it offers, and not yet that it is a secret.
#[tokio::test]
async fn a_secret_is_not_given_in_the_place_of_what_was_copied_before() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let hint = "x-kde-passwordManagerHint";
    let _xclip = server.xclip_in(&["-selection", "clipboard"], b"public").await;
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Text]));
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    let (go_on, went_on) = std::sync::mpsc::channel::<()>();
    let owner = owner(&server.display, move |owner| {
        let question = owner.offer_until_asked(&["UTF8_STRING", hint], LIMIT).unwrap();
        assert_eq!(question.target, owner.atom(hint));
        asked.send(()).unwrap();
        went_on.recv_timeout(LIMIT).unwrap();
        owner.give(&question, question.target, b"secret");
        while let Some(request) = owner.request(Duration::from_secs(1)) {
            owner.give(&request, request.target, b"password");
        }
    });
    is_asked.await.unwrap();
    let early = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100);
    go_on.send(()).unwrap();
    assert_eq!(early.await, Err(FetchError::Gone));
    let late = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100);
    let mut secret = offered(Selection::Clipboard, &[Format::Text]);
    secret.secret = true;
    assert_eq!(next(&mut changes).await, secret);
    assert_eq!(late.await, Err(FetchError::Gone));
    // Who has been told of it may have it.
    let told = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100).await;
    assert_eq!(told, Ok(Content::Bytes(b"password".to_vec())));
    owner.join().unwrap();
}

/// The server passes a question to whoever owns the selection when it gets there.
#[tokio::test]
async fn a_question_that_reaches_the_next_owner_is_not_answered_by_it() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let display = server.display.clone();
    let (owns, next_owns) = tokio::sync::oneshot::channel();
    let owner = owner(&server.display, move |owner| {
        let request = owner.offer_until_asked(&["UTF8_STRING"], LIMIT).unwrap();
        let other = Raw::new(&display);
        other.own("CLIPBOARD");
        other.give(&request, request.target, b"password");
        owns.send(()).unwrap();
        // Of those that waited nothing comes here either.
        while let Some(request) = other.request(Duration::from_secs(1)) {
            assert_eq!(request.target, other.atom("TARGETS"));
        }
    });
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Text]));
    let fetch = || changes.fetch(&backend, Selection::Clipboard, Format::Text, 100);
    let (one, two, three) = tokio::join!(fetch(), fetch(), fetch());
    assert_eq!([one, two, three], [(); 3].map(|()| Err(FetchError::Gone)));
    next_owns.await.unwrap();
    owner.join().unwrap();
}

#[tokio::test]
async fn an_owner_that_offers_and_gives_nothing_is_late() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let owner = owner(&server.display, |owner| {
        owner.offer_until_asked(&["UTF8_STRING"], LIMIT).unwrap();
        // Begins the next one and stops.
        let request = owner.offer_until_asked(&["UTF8_STRING"], LIMIT).unwrap();
        owner.give_words(&request, owner.atom("INCR"), &[100]);
        owner.request(Duration::from_secs(15));
    });
    assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Text]));
    for _ in 0..2 {
        let fetched = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100).await;
        assert_eq!(fetched, Err(FetchError::Late));
    }
    drop(backend);
    owner.join().unwrap();
}

#[tokio::test]
async fn an_owner_that_ends_in_a_transfer_is_gone_at_once() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    for begun in [false, true] {
        let owner = owner(&server.display, move |owner| {
            let request = owner.offer_until_asked(&["UTF8_STRING"], LIMIT).unwrap();
            if begun {
                owner.give_words(&request, owner.atom("INCR"), &[100]);
            }
        });
        assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[Format::Text]));
        let fetched = changes.fetch(&backend, Selection::Clipboard, Format::Text, 100).await;
        assert_eq!(fetched, Err(FetchError::Gone));
        owner.join().unwrap();
        assert_eq!(next(&mut changes).await, offered(Selection::Clipboard, &[]));
    }
}

/// Begins a transfer and gives pieces until the requestor is gone; how many it took.
fn endless(owner: &Raw, request: &SelectionRequestEvent, piece: &[u8]) -> usize {
    let events = ChangeWindowAttributesAux::new()
        .event_mask(EventMask::PROPERTY_CHANGE | EventMask::STRUCTURE_NOTIFY);
    owner.connection.change_window_attributes(request.requestor, &events).unwrap();
    owner.give_words(request, owner.atom("INCR"), &[1]);
    let mut pieces = 0;
    while owner.deleted(request.requestor, LIMIT) {
        let Raw { connection, .. } = owner;
        connection
            .change_property8(
                PropMode::REPLACE,
                request.requestor,
                request.property,
                request.target,
                piece,
            )
            .unwrap();
        connection.flush().unwrap();
        pieces += 1;
    }
    pieces
}

#[tokio::test]
async fn an_owner_whose_pieces_never_end_is_left_after_the_limit() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let owner = owner(&server.display, |owner| {
        let request = owner.offer_until_asked(&["UTF8_STRING"], LIMIT).unwrap();
        let pieces = endless(&owner, &request, &[b'a'; 64 << 10]);
        // What is taken is more than is kept: other owners come to an end by it. It has a limit, too.
        assert!((16..=65 * 16 + 2).contains(&pieces), "{pieces}");
    });
    next(&mut changes).await;
    let fetched = changes.fetch(&backend, Selection::Clipboard, Format::Text, MIB).await;
    assert_eq!(fetched, Err(FetchError::Large(MIB)));
    owner.join().unwrap();
}

#[tokio::test]
async fn sizes_that_lie_are_found_out() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let owner = owner(&server.display, |owner| {
        let incr = owner.atom("INCR");
        let next = || owner.offer_until_asked(&["UTF8_STRING", "text/html"], LIMIT).unwrap();
        // More than allowed, by its own word.
        let request = next();
        owner.give_words(&request, incr, &[u32::MAX]);
        // One piece of more than allowed.
        let request = next();
        endless(&owner, &request, &vec![b'b'; MIB + 1]);
        // A transfer that says nothing of its size.
        let request = next();
        owner.give(&request, incr, b"");
        // Says it answers and has not.
        let request = next();
        owner.answer(&request, request.property);
        // Not what it says it is.
        let request = next();
        owner.give(&request, request.target, b"\xff\xfe\xff");
    });
    assert_eq!(
        next(&mut changes).await,
        offered(Selection::Clipboard, &[Format::Text, Format::Html])
    );
    let fetch = |format| changes.fetch(&backend, Selection::Clipboard, format, MIB);
    assert_eq!(fetch(Format::Text).await, Err(FetchError::Large(MIB)));
    assert_eq!(fetch(Format::Text).await, Err(FetchError::Large(MIB)));
    assert_eq!(fetch(Format::Text).await, Err(FetchError::Late));
    assert_eq!(fetch(Format::Text).await, Err(FetchError::Gone));
    let html = fetch(Format::Html).await;
    assert!(matches!(html, Err(FetchError::Failed(_))), "{html:?}");
    owner.join().unwrap();
}

#[tokio::test]
async fn targets_and_hints_of_any_kind_are_survived() {
    let server = xvfb!();
    let (_backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let hint = "x-kde-passwordManagerHint";
    let told = |formats: &[Format], secret| {
        let mut told = offered(Selection::Clipboard, formats);
        told.secret = secret;
        told
    };
    // The hint, and what it says: nothing at all, no, yes.
    for (says, secret) in [(None, true), (Some("no"), false), (Some("secret"), true)] {
        let owner = owner(&server.display, move |owner| {
            let request = owner.offer_until_asked(&["UTF8_STRING", hint], LIMIT).unwrap();
            assert_eq!(request.target, owner.atom(hint));
            match says {
                Some(says) => owner.give(&request, request.target, says.as_bytes()),
                None => owner.answer(&request, x11rb::NONE),
            }
            owner.request(Duration::from_secs(1));
        });
        assert_eq!(next(&mut changes).await, told(&[Format::Text], secret), "{says:?}");
        owner.join().unwrap();
        assert_eq!(next(&mut changes).await, told(&[], false));
    }
    // Not atoms, and a great many of them.
    let many = [vec![3; 100_000], vec![4; 10]].concat();
    for (bits, words) in [(8, vec![1, 2]), (32, vec![]), (32, vec![0, u32::MAX]), (32, many)] {
        let owner = owner(&server.display, move |owner| {
            let request = owner.request(LIMIT).unwrap();
            match bits {
                8 => owner.give(&request, AtomEnum::STRING.into(), b"UTF8_STRING"),
                _ => owner.give_words(&request, AtomEnum::ATOM.into(), &words),
            }
            owner.request(Duration::from_millis(300));
        });
        owner.join().unwrap();
    }
    // Nothing came of those; the display goes on.
    let _xclip = server.xclip_in(&["-selection", "clipboard"], b"y").await;
    assert_eq!(next(&mut changes).await, told(&[Format::Text], false));
}

#[tokio::test]
async fn only_the_last_of_many_owners_counts() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let flood = Raw::new(&server.display);
    for _ in 0..2000 {
        flood.own("CLIPBOARD");
    }
    let html = ["-selection", "clipboard", "-t", "text/html"];
    let _xclip = server.xclip_in(&html, b"last").await;
    support::until(&mut changes, &offered(Selection::Clipboard, &[Format::Html])).await;
    let fetched = changes.fetch(&backend, Selection::Clipboard, Format::Html, 100).await;
    assert_eq!(fetched, Ok(Content::Bytes(b"last".to_vec())));
}

#[tokio::test]
async fn requestors_that_vanish_or_stop_in_a_transfer_hold_up_nobody() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let text = long_text(5 * MIB);
    let source = bytes(&text);
    backend.offer(Selection::Clipboard, offer(&[Format::Text], &source)).await.unwrap();
    let display = server.display.clone();
    let stopped = tokio::task::spawn_blocking(move || {
        // Vanish: before the first piece, and after it.
        for taken in [0, 1] {
            let gone = Raw::new(&display);
            let property = gone.convert("UTF8_STRING", "HERE").unwrap();
            for _ in 0..=taken {
                gone.take(property);
            }
        }
        // Asks and is gone before there is an answer.
        for _ in 0..20 {
            let gone = Raw::new(&display);
            let [clipboard, text] = [gone.atom("CLIPBOARD"), gone.atom("UTF8_STRING")];
            gone.connection
                .convert_selection(gone.window, clipboard, text, text, x11rb::CURRENT_TIME)
                .unwrap();
            gone.connection.flush().unwrap();
        }
        // Stop: never takes anything, on its one window, again and again.
        let stopped = Raw::new(&display);
        for number in 0..20 {
            let property = stopped.convert("UTF8_STRING", &format!("HERE{number}"));
            assert!(property.is_some());
        }
        stopped
    })
    .await
    .unwrap();
    for _ in 0..3 {
        let pasted = server.xclip_out(&["-selection", "clipboard"]).await;
        assert!(pasted.as_ref() == Some(&text));
    }
    drop(stopped);
}

#[tokio::test]
async fn several_targets_in_one_request_are_answered_together() {
    let server = xvfb!();
    let (backend, mut changes) = Changes::of(x11::connect(Some(&server.display)).await.unwrap());
    empty(&mut changes).await;
    let text = long_text(2 * MIB);
    let source = bytes(&text);
    backend.offer(Selection::Clipboard, offer(&[Format::Text], &source)).await.unwrap();
    let display = server.display.clone();
    let long = tokio::task::spawn_blocking(move || {
        let raw = Raw::new(&display);
        let names =
            ["TIMESTAMP", "ONE", "image/png", "TWO", "UTF8_STRING", "THREE", "MULTIPLE", "FOUR"];
        let pairs: Vec<u32> = names.iter().map(|name| raw.atom(name)).collect();
        let put = |kind: u32, words: &[u32]| {
            raw.connection
                .change_property32(PropMode::REPLACE, raw.window, raw.atom("PAIRS"), kind, words)
                .unwrap();
        };
        put(raw.atom("ATOM_PAIR"), &pairs);
        let answered = raw.convert("MULTIPLE", "PAIRS").unwrap();
        let (_, format, left) = raw.take(answered);
        let left: Vec<u32> =
            left.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        let expected = [pairs[0], pairs[1], 0, 0, pairs[4], pairs[5], 0, 0];
        assert_eq!((format, left.as_slice()), (32, expected.as_slice()));
        let (kind, format, time) = raw.take(raw.atom("ONE"));
        assert_eq!((kind, format, time.len()), (AtomEnum::INTEGER.into(), 32, 4));
        assert_ne!(time, [0; 4], "a selection is taken with the server's time");
        // No pairs, half a pair, more than anybody needs.
        for words in [vec![], vec![1], vec![1; 1000]] {
            put(raw.atom("ATOM_PAIR"), &words);
            assert_eq!(raw.convert("MULTIPLE", "PAIRS"), None);
        }
        // The long one goes by INCR.
        let three = raw.atom("THREE");
        assert_eq!(raw.take(three).0, raw.atom("INCR"));
        let mut long = Vec::new();
        loop {
            let (kind, _, piece) = raw.take(three);
            match (kind, piece.is_empty()) {
                (0, _) => std::thread::sleep(Duration::from_millis(1)),
                (_, true) => break long,
                (_, false) => long.extend(piece),
            }
        }
    })
    .await
    .unwrap();
    assert!(long == text);
}
