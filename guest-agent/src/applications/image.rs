//! An icon's picture for the host, within the limits of [`IconReply`].

use std::os::unix::fs::MetadataExt;

use proto::v1::{IconReply, icon_reply::Icon};
use sha2::{Digest, Sha256};

use super::file;
use super::theme::{Candidate, order};

/// Edges that may be asked for.
pub(super) const SIZES: std::ops::RangeInclusive<u32> = 8..=512;
/// Bytes of a PNG.
const MOST_PNG: usize = 1 << 20;
/// Its pixels each way.
const MOST_PIXELS: u32 = 1024;
/// Bytes of an SVG.
const MOST_SVG: usize = 256 << 10;
/// Files that are read before there is no icon.
const MOST_TRIES: usize = 8;

/// The first of the files that can be sent.
pub(super) fn best(candidates: &[Candidate], size: u32) -> Option<IconReply> {
    let tries = order(candidates, size).into_iter().take(MOST_TRIES);
    let icon = tries.filter_map(|candidate| {
        let most = if candidate.svg { MOST_SVG } else { MOST_PNG };
        picture(file::read(&candidate.path, most).ok()?)
    });
    icon.map(|icon| IconReply { icon: Some(icon) }).next()
}

/// What the bytes are, whatever the file is called.
fn picture(bytes: Vec<u8>) -> Option<Icon> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        // The first chunk: its length and name, then width and height (PNG, section 11.2.1).
        let edge = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let header = bytes.get(12..16) == Some(b"IHDR");
        let fits = |edge: u32| (1..=MOST_PIXELS).contains(&edge);
        let fits = header && fits(edge(16)?) && fits(edge(20)?);
        return fits.then_some(Icon::Png(bytes));
    }
    let text = std::str::from_utf8(&bytes).ok()?;
    (text.contains("<svg") && text.len() <= MOST_SVG).then_some(Icon::Svg(bytes))
}

/// A number that changes when any of the files does; 0 when there are none.
pub(super) fn number(candidates: &[Candidate]) -> u64 {
    let mut hash = Sha256::new();
    let mut any = false;
    for candidate in candidates {
        let Ok(file) = candidate.path.metadata() else { continue };
        any = true;
        hash.update(candidate.path.as_os_str().as_encoded_bytes());
        for fact in [file.mtime(), file.mtime_nsec()] {
            hash.update(fact.to_le_bytes());
        }
        hash.update(file.len().to_le_bytes());
    }
    let digest = hash.finalize();
    let first = digest.first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes));
    if any { first.max(1) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        bytes
    }

    #[test]
    fn a_picture_is_known_by_its_bytes_and_kept_within_its_limits() {
        assert_eq!(picture(png(48, 1024)), Some(Icon::Png(png(48, 1024))));
        let svg = b"<?xml version=\"1.0\"?><svg/>".to_vec();
        assert_eq!(picture(svg.clone()), Some(Icon::Svg(svg.clone())));
        let mut large = svg.clone();
        large.resize(MOST_SVG + 1, b' ');
        for none in [
            png(0, 1),
            png(1025, 1),
            png(1, u32::MAX),
            png(1, 1)[..22].to_vec(),
            b"/* XPM */".to_vec(),
            Vec::new(),
            b"\xff<svg".to_vec(),
            large,
        ] {
            assert_eq!(picture(none), None);
        }
    }
}
