//! The names that desktops give to formats, and the bytes behind each name. X11 calls them targets (ICCCM
//! 2.6.2), Wayland MIME types; most are the same.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::{Content, FetchError, Format, uris};

/// Offered by password managers, with the content "secret": clipboard histories leave it out.
pub const HINT: &str = "x-kde-passwordManagerHint";
/// The content of [`HINT`].
pub const SECRET: &[u8] = b"secret";

/// How bytes behind a name are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Text in UTF-8.
    Utf8,
    /// Text whose charset is not said: UTF-8 when it is sound, else Latin-1.
    Plain,
    /// Text in Latin-1: ICCCM 2.6.2.
    Latin1,
    /// UTF-8, or UTF-16 under a byte order mark.
    Html,
    /// As they are.
    Raw,
    /// `text/uri-list`.
    UriList,
    /// `x-special/gnome-copied-files`.
    Copied,
}

/// One name.
#[derive(Debug)]
pub struct Target {
    /// The atom's or the MIME type's.
    pub name: &'static str,
    /// What it is to us.
    pub format: Format,
    /// How it is read and written.
    pub coding: Coding,
    /// This side offers it, too; others are only spelled so by some programs.
    pub given: bool,
    /// Only X11 knows it. On Wayland programs give anything under such a name.
    pub x11_only: bool,
}

const fn target(name: &'static str, format: Format, coding: Coding) -> Target {
    Target { name, format, coding, given: true, x11_only: false }
}

/// All names, those that say most first.
pub const TARGETS: [Target; 11] = [
    target("UTF8_STRING", Format::Text, Coding::Utf8),
    target("text/plain;charset=utf-8", Format::Text, Coding::Utf8),
    Target { given: false, ..target("text/plain;charset=UTF-8", Format::Text, Coding::Utf8) },
    target("text/plain", Format::Text, Coding::Plain),
    Target { x11_only: true, ..target("STRING", Format::Text, Coding::Latin1) },
    target("text/html", Format::Html, Coding::Html),
    Target { given: false, ..target("text/html;charset=utf-8", Format::Html, Coding::Html) },
    Target { given: false, ..target("text/html;charset=UTF-8", Format::Html, Coding::Html) },
    target("image/png", Format::Png, Coding::Raw),
    target("x-special/gnome-copied-files", Format::Files, Coding::Copied),
    target("text/uri-list", Format::Files, Coding::UriList),
];

impl Coding {
    /// How many bytes of it may become `most` bytes of content.
    pub fn most(self, most: usize) -> usize {
        match self {
            // A letter of UTF-16 has two bytes, then the mark.
            Self::Html => most.saturating_mul(2).saturating_add(2),
            _ => most,
        }
    }

    /// The content that another program's bytes are.
    ///
    /// # Errors
    /// It is not what its name says, or it has more than `most` bytes.
    pub fn read(self, bytes: Vec<u8>, most: usize) -> Result<Content, FetchError> {
        let failed = |why: &str| Err(FetchError::Failed(why.to_owned()));
        let bytes = match self {
            Self::Raw => bytes,
            Self::Utf8 => match String::from_utf8(bytes) {
                Ok(text) => without_nul(text),
                Err(_) => return failed("the text is not UTF-8"),
            },
            Self::Latin1 => without_nul(latin1(&bytes)),
            Self::Plain => without_nul(
                String::from_utf8(bytes).unwrap_or_else(|error| latin1(error.as_bytes())),
            ),
            Self::Html => match html(bytes) {
                Some(text) => without_nul(text),
                None => return failed("the HTML is neither UTF-8 nor UTF-16"),
            },
            Self::UriList => match uris::read_list(&bytes) {
                paths if paths.is_empty() => return failed("the list names no local file"),
                paths => return Ok(Content::Files { paths, cut: false }),
            },
            Self::Copied => match uris::read_copied(&bytes) {
                Some((paths, cut)) if !paths.is_empty() => {
                    return Ok(Content::Files { paths, cut });
                }
                _ => return failed("the list names no local file"),
            },
        };
        if bytes.len() > most {
            return Err(FetchError::Large(most));
        }
        Ok(Content::Bytes(bytes))
    }

    /// The bytes that this side's content is under that name.
    pub(crate) fn write(self, content: Arc<Content>) -> Payload {
        let own = match (self, &*content) {
            (Self::UriList, Content::Files { paths, .. }) => uris::write_list(paths),
            (Self::Copied, Content::Files { paths, cut }) => uris::write_copied(paths, *cut),
            // What Latin-1 lacks is a question mark there.
            (Self::Latin1, Content::Bytes(bytes)) => String::from_utf8_lossy(bytes)
                .chars()
                .map(|letter| u8::try_from(letter).unwrap_or(b'?'))
                .collect(),
            (_, Content::Bytes(_)) => return Payload::Shared(content),
            (_, Content::Files { .. }) => Vec::new(),
        };
        Payload::Own(own)
    }
}

/// Bytes to give: many pastes at once share what they can.
#[derive(Debug)]
pub(crate) enum Payload {
    Shared(Arc<Content>),
    Own(Vec<u8>),
}

impl Payload {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(content) => match &**content {
                Content::Bytes(bytes) => bytes,
                Content::Files { .. } => &[],
            },
        }
    }
}

/// Where in [`TARGETS`] a name is.
pub fn known(name: &str) -> Option<usize> {
    TARGETS.iter().position(|target| target.name == name)
}

/// The formats behind names.
pub fn formats<'a>(targets: impl IntoIterator<Item = &'a Target>) -> BTreeSet<Format> {
    targets.into_iter().map(|target| target.format).collect()
}

/// What this side offers for formats.
pub fn given(formats: &BTreeSet<Format>) -> impl Iterator<Item = &'static Target> {
    const ALL: &[Target] = &TARGETS;
    ALL.iter().filter(|target| target.given && formats.contains(&target.format))
}

/// Whether the content of [`HINT`] says that it is a secret. Who gives the hint and says nothing by it does.
pub fn is_secret(hint: &[u8]) -> bool {
    let word = hint.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    word.is_empty() || word == SECRET
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Some programs end text as C does.
fn without_nul(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

fn html(bytes: Vec<u8>) -> Option<String> {
    let utf16 = |rest: &[u8], from: fn([u8; 2]) -> u16| {
        let (units, odd) = rest.as_chunks::<2>();
        let units: Vec<u16> = units.iter().map(|unit| from(*unit)).collect();
        odd.is_empty().then(|| String::from_utf16(&units).ok()).flatten()
    };
    let text: Cow<'_, [u8]> = match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => return utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => Cow::Owned(rest.to_vec()),
        _ => Cow::Owned(bytes),
    };
    String::from_utf8(text.into_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn text(coding: Coding, bytes: &[u8]) -> Result<String, FetchError> {
        coding.read(bytes.to_vec(), 1000).map(|content| match content {
            Content::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            Content::Files { .. } => panic!("files"),
        })
    }

    #[test]
    fn text_of_every_charset_becomes_utf_8() {
        assert_eq!(text(Coding::Utf8, "grün\0".as_bytes()).unwrap(), "grün");
        assert!(text(Coding::Utf8, b"gr\xfcn").is_err());
        assert_eq!(text(Coding::Latin1, b"gr\xfcn").unwrap(), "grün");
        assert_eq!(text(Coding::Latin1, "ü".as_bytes()).unwrap(), "Ã¼");
        assert_eq!(text(Coding::Plain, "grün".as_bytes()).unwrap(), "grün");
        assert_eq!(text(Coding::Plain, b"gr\xfcn").unwrap(), "grün");
    }

    #[test]
    fn html_is_read_with_and_without_a_byte_order_mark() {
        let units = |turn: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "\u{feff}<b>ü😀</b>".encode_utf16().flat_map(turn).collect()
        };
        let expected = "<b>ü😀</b>";
        assert_eq!(text(Coding::Html, expected.as_bytes()).unwrap(), expected);
        assert_eq!(text(Coding::Html, format!("\u{feff}{expected}").as_bytes()).unwrap(), expected);
        assert_eq!(text(Coding::Html, &units(u16::to_le_bytes)).unwrap(), expected);
        assert_eq!(text(Coding::Html, &units(u16::to_be_bytes)).unwrap(), expected);
        assert!(text(Coding::Html, &[0xff, 0xfe, 0x00, 0xd8]).is_err(), "half a pair");
        assert!(text(Coding::Html, &[0xff, 0xfe, 0x41]).is_err(), "half a unit");
    }

    #[test]
    fn content_that_grows_beyond_the_limit_when_it_is_read_is_refused() {
        let latin1 = vec![0xfc; 10];
        assert_eq!(Coding::Latin1.read(latin1.clone(), 19), Err(FetchError::Large(19)));
        assert!(Coding::Latin1.read(latin1, 20).is_ok());
        assert_eq!(Coding::Html.most(10), 22);
    }

    #[test]
    fn latin_1_has_question_marks_for_what_it_lacks() {
        let content = Arc::new(Content::Bytes("aü€😀".as_bytes().to_vec()));
        assert_eq!(Coding::Latin1.write(Arc::clone(&content)).bytes(), b"a\xfc??");
        assert_eq!(Coding::Plain.write(content).bytes(), "aü€😀".as_bytes());
    }

    #[test]
    fn a_list_without_local_files_is_no_content() {
        assert!(Coding::UriList.read(b"http://x/\r\n".to_vec(), 100).is_err());
        assert!(Coding::Copied.read(b"cut".to_vec(), 100).is_err());
        let files = Content::Files { paths: vec![PathBuf::from("/a")], cut: true };
        assert_eq!(Coding::Copied.read(b"cut\nfile:///a".to_vec(), 100), Ok(files));
    }

    #[test]
    fn the_word_secret_makes_a_secret_and_so_does_silence() {
        assert!(is_secret(b"secret") && is_secret(b"secret\n") && is_secret(b"secret\0"));
        assert!(is_secret(b""));
        assert!(!is_secret(b"secrets") && !is_secret(b"public"));
    }
}
