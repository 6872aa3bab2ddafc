//! A guest's notification, checked. Nothing of it is shown that breaks a limit of the protocol.

use crate::daemon::desktop::notifications::{Content, Picture};
use crate::untrusted::{TextProblem, Untrusted};
use proto::v1::{Notification, NotificationAction, NotificationUrgency};
use std::collections::BTreeSet;
use std::io::Cursor;
use std::time::Duration;

/// Limits of [`Notification`], as the protocol says.
const LONGEST_APPLICATION: usize = 128;
const LONGEST_SUMMARY: usize = 256;
const LONGEST_BODY: usize = 2048;
const LONGEST_ICON: usize = 256 << 10;
const ICON_EDGE: u32 = 256;
const MOST_ACTIONS: usize = 4;
const LONGEST_ACTION: usize = 64;

/// Most lines of a body; more would fill the screen.
const MOST_LINES: usize = 32;

/// Why a notification is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoticeProblem {
    #[error(transparent)]
    Text(#[from] TextProblem),
    #[error("the body has more than {MOST_LINES} lines")]
    Lines,
    #[error("its number is 0")]
    Number,
    #[error("it has {0} actions; allowed: {MOST_ACTIONS}")]
    Actions(usize),
    #[error("an action has no key, or two have the same")]
    Key,
    #[error("the icon has {0} bytes; allowed: {LONGEST_ICON}")]
    IconBytes(usize),
    #[error("the icon has {0} times {1} pixels; allowed: {ICON_EDGE} each way")]
    IconSize(u32, u32),
    #[error("the icon is not a PNG: {0}")]
    Icon(#[from] png::DecodingError),
}

/// What is shown for the notification of VM `vm`.
pub(super) fn content(
    vm: &str,
    notification: Untrusted<Notification>,
) -> Result<Content, NoticeProblem> {
    notification.check(|notification| {
        if notification.id == 0 {
            return Err(NoticeProblem::Number);
        }
        let low = notification.urgency() == NotificationUrgency::Low;
        let line = |text, field, most| Untrusted::new(text).line(field, most);
        let application = line(notification.application, "the application", LONGEST_APPLICATION)?;
        let summary = line(notification.summary, "the summary", LONGEST_SUMMARY)?;
        let timeout = u64::from(notification.timeout);
        Ok(Content {
            application: match application.is_empty() {
                true => vm.to_owned(),
                false => format!("{application} ({vm})"),
            },
            // First, so that no summary is long enough to hide whose it is.
            summary: format!("{vm}: {summary}"),
            body: body(notification.body)?,
            picture: icon(&notification.icon)?,
            actions: actions(notification.actions)?,
            low,
            timeout: (timeout > 0).then(|| Duration::from_millis(timeout)),
        })
    })
}

/// Lines that are shown as they are.
fn body(text: String) -> Result<String, NoticeProblem> {
    const FIELD: &str = "the body";
    if text.len() > LONGEST_BODY {
        let found = text.len();
        return Err(TextProblem::Long { field: FIELD, found, most: LONGEST_BODY }.into());
    }
    if text.split('\n').count() > MOST_LINES {
        return Err(NoticeProblem::Lines);
    }
    for line in text.split('\n') {
        Untrusted::new(line.to_owned()).line(FIELD, LONGEST_BODY)?;
    }
    Ok(text)
}

fn actions(actions: Vec<NotificationAction>) -> Result<Vec<(String, String)>, NoticeProblem> {
    if actions.len() > MOST_ACTIONS {
        return Err(NoticeProblem::Actions(actions.len()));
    }
    let line = |text, field| Untrusted::new(text).line(field, LONGEST_ACTION);
    let actions: Vec<(String, String)> = actions
        .into_iter()
        .map(|action| Ok((line(action.key, "a key")?, line(action.label, "a label")?)))
        .collect::<Result<_, TextProblem>>()?;
    let keys: BTreeSet<&str> = actions.iter().map(|(key, _)| key.as_str()).collect();
    match keys.len() == actions.len() && !keys.contains("") {
        true => Ok(actions),
        false => Err(NoticeProblem::Key),
    }
}

/// The pixels of a PNG. What it says of its size is checked before anything is unpacked, and no more is
/// unpacked than that.
pub(super) fn icon(bytes: &[u8]) -> Result<Option<Picture>, NoticeProblem> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() > LONGEST_ICON {
        return Err(NoticeProblem::IconBytes(bytes.len()));
    }
    // Room for the rows of the largest picture in the largest samples, and for chunks beside them.
    let limits = png::Limits { bytes: 4 << 20 };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(
        png::Transformations::normalize_to_color8() | png::Transformations::ALPHA,
    );
    let header = decoder.read_header_info()?;
    let (width, height) = (header.width, header.height);
    let size = |length: u32| {
        let edge = u16::try_from(length).ok().filter(|_| (1..=ICON_EDGE).contains(&length));
        edge.ok_or(NoticeProblem::IconSize(width, height))
    };
    let (wide, high) = (size(width)?, size(height)?);
    let mut reader = decoder.read_info()?;
    let length = reader.output_buffer_size().ok_or(NoticeProblem::IconSize(width, height))?;
    let mut rows = vec![0; length];
    let frame = reader.next_frame(&mut rows)?;
    if frame.color_type == png::ColorType::GrayscaleAlpha {
        rows = rows
            .chunks_exact(2)
            .flat_map(|pixel| [pixel[0], pixel[0], pixel[0], pixel[1]])
            .collect();
    }
    Ok(Some(Picture { width: wide, height: high, rows }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png_of(width: u32, height: u32, color: png::ColorType, rows: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.write_header().unwrap().write_image_data(rows).unwrap();
        bytes
    }

    fn good() -> Notification {
        Notification { id: 1, summary: "hello".into(), ..Notification::default() }
    }

    fn shown(notification: Notification) -> Result<Content, NoticeProblem> {
        content("debian", Untrusted::new(notification))
    }

    #[test]
    fn a_notification_says_whose_it_is() {
        let shown = shown(Notification {
            application: "mail".into(),
            body: "<b>two\nlines</b>".into(),
            timeout: 1500,
            urgency: NotificationUrgency::Critical.into(),
            ..good()
        })
        .unwrap();
        assert_eq!(shown.application, "mail (debian)");
        assert_eq!(shown.summary, "debian: hello");
        assert_eq!(shown.body, "<b>two\nlines</b>");
        assert_eq!(shown.timeout, Some(Duration::from_millis(1500)));
        assert!(!shown.low);
        assert_eq!(super::content("a", Untrusted::new(good())).unwrap().application, "a");
    }

    #[test]
    fn what_breaks_a_limit_is_refused_with_the_reason() {
        let action = |key: &str| NotificationAction { key: key.into(), label: "x".into() };
        let actions = |keys: &[&str]| keys.iter().map(|key| action(key)).collect::<Vec<_>>();
        for (bad, reason) in [
            (Notification { id: 0, ..good() }, "its number is 0"),
            (Notification { summary: "a\nb".into(), ..good() }, "the summary contains"),
            (Notification { summary: "x".repeat(257), ..good() }, "the summary has 257"),
            (Notification { application: "\u{202e}".into(), ..good() }, "the application contains"),
            (Notification { body: "x".repeat(2049), ..good() }, "the body has 2049"),
            (Notification { body: "a\u{1b}[2J".into(), ..good() }, "the body contains"),
            (Notification { body: "\n".repeat(32), ..good() }, "more than 32 lines"),
            (Notification { actions: actions(&["a"; 5]), ..good() }, "5 actions"),
            (Notification { actions: actions(&["a", "a"]), ..good() }, "two have the same"),
            (Notification { actions: actions(&[""]), ..good() }, "no key"),
            (Notification { actions: actions(&["a\0"]), ..good() }, "a key contains"),
            (
                Notification { icon: vec![0; (256 << 10) + 1], ..good() },
                "the icon has 262145 bytes",
            ),
            (Notification { icon: b"GIF89a".to_vec(), ..good() }, "not a PNG"),
        ] {
            let refusal = shown(bad).unwrap_err().to_string();
            assert!(refusal.contains(reason), "{refusal}");
        }
    }

    #[test]
    fn a_picture_comes_through_with_its_pixels() {
        let picture =
            icon(&png_of(2, 1, png::ColorType::Rgb, &[1, 2, 3, 4, 5, 6])).unwrap().unwrap();
        assert_eq!((picture.width, picture.height), (2, 1));
        assert_eq!(picture.rows, [1, 2, 3, 255, 4, 5, 6, 255]);
        let gray = icon(&png_of(1, 1, png::ColorType::Grayscale, &[7])).unwrap().unwrap();
        assert_eq!(gray.rows, [7, 7, 7, 255]);
        assert_eq!(icon(&[]).unwrap(), None);
    }

    #[test]
    fn a_picture_that_would_unpack_to_too_much_is_refused() {
        let large = png_of(257, 1, png::ColorType::Grayscale, &[0; 257]);
        assert!(matches!(icon(&large), Err(NoticeProblem::IconSize(257, 1))));
        // A picture of a few bytes that says it is large: its header is believed no further.
        let mut bomb = png_of(1, 1, png::ColorType::Rgba, &[0; 4]);
        bomb[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        assert!(icon(&bomb).is_err());
        let whole = png_of(16, 16, png::ColorType::Rgba, &[9; 1024]);
        for cut in 0..whole.len() {
            // Any beginning of one is a picture or none, and no panic.
            let _ = icon(&whole[..cut]);
        }
    }
}
