//! Frames on a serial line, which has no beginning and no end of its own.
//!
//! A frame is encoded so that it has no zero byte (consistent overhead byte stuffing), and a zero byte stands
//! before and after it. Whatever was on the line before, a program that died in the middle of a frame or a
//! terminal's greeting, ends at the next zero byte and fails its checksum; the frame after it is whole.
//!
//! ```text
//! frame:  KIND u8  FROM u32  TO u32  CHANNEL u16  DATA  CRC u32      little-endian; CRC-32 of all before it
//! ```

use crate::PORT;

/// Most bytes of data in a frame.
pub(super) const MOST_DATA: usize = 8 << 10;
const HEAD: usize = 11;
const TAIL: usize = 4;
/// Longest encoded frame: one byte more for every 254, and one.
const LONGEST: usize = HEAD + MOST_DATA + TAIL + (HEAD + MOST_DATA + TAIL) / 254 + 2;

/// What a frame is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Says which run of a program speaks; everything of its earlier runs is gone.
    Hello,
    /// A new channel to this port of the host.
    Open(u32),
    /// Bytes of a channel.
    Data(Vec<u8>),
    /// So many more bytes may be sent on the channel.
    Window(u32),
    /// No more bytes come on the channel.
    End,
    /// The channel is gone, both ways.
    Reset,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The run that speaks.
    pub(super) from: u32,
    /// The run that is spoken to; 0 when it is not known.
    pub(super) to: u32,
    pub(super) channel: u16,
    pub(super) kind: Kind,
}

/// CRC-32 (IEEE 802.3, reflected).
fn checksum(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |sum, byte| TABLE[usize::from(sum as u8 ^ byte)] ^ sum >> 8)
}

impl Kind {
    /// Number and data.
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Hello => (1, Vec::new()),
            Self::Open(PORT) => (2, Vec::new()),
            Self::Open(port) => (2, port.to_le_bytes().to_vec()),
            Self::Data(data) => (3, data.clone()),
            Self::Window(more) => (4, more.to_le_bytes().to_vec()),
            Self::End => (5, Vec::new()),
            Self::Reset => (6, Vec::new()),
        }
    }

    pub(super) fn of(number: u8, data: &[u8]) -> Option<Self> {
        Some(match (number, data) {
            (1, []) => Self::Hello,
            (2, []) => Self::Open(PORT),
            (2, data) => Self::Open(u32::from_le_bytes(data.try_into().ok()?)),
            (3, data) if (1..=MOST_DATA).contains(&data.len()) => Self::Data(data.to_vec()),
            (4, data) => Self::Window(u32::from_le_bytes(data.try_into().ok()?)),
            (5, []) => Self::End,
            (6, []) => Self::Reset,
            _ => return None,
        })
    }
}

impl Frame {
    /// As it goes on the line, with the zero bytes around it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (number, data) = self.kind.parts();
        let mut plain = Vec::with_capacity(HEAD + data.len() + TAIL);
        plain.push(number);
        plain.extend(self.from.to_le_bytes());
        plain.extend(self.to.to_le_bytes());
        plain.extend(self.channel.to_le_bytes());
        plain.extend(data);
        plain.extend(checksum(&plain).to_le_bytes());
        stuffed(&plain)
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let (bytes, sum) = plain.split_last_chunk::<TAIL>()?;
        if checksum(bytes) != u32::from_le_bytes(*sum) {
            return None;
        }
        let (&number, rest) = bytes.split_first()?;
        let (from, rest) = rest.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (channel, data) = rest.split_first_chunk()?;
        Some(Self {
            from: u32::from_le_bytes(*from),
            to: u32::from_le_bytes(*to),
            channel: u16::from_le_bytes(*channel),
            kind: Kind::of(number, data)?,
        })
    }
}

/// Each run of up to 254 bytes without a zero follows its length and one; a zero stands where a run is
/// shorter than that and not the last.
fn stuffed(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(LONGEST + 2);
    out.push(0);
    let mut rest = plain;
    loop {
        let run = rest.iter().take(254).take_while(|byte| **byte != 0).count();
        out.push(u8::try_from(run + 1).unwrap_or(u8::MAX));
        out.extend(&rest[..run]);
        rest = &rest[run..];
        if run < 254 {
            match rest.split_first() {
                Some((_, after)) => rest = after,
                None => break,
            }
        } else if rest.is_empty() {
            break;
        }
    }
    out.push(0);
    out
}

fn unstuffed(mut stuffed: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(stuffed.len());
    while let Some((&code, rest)) = stuffed.split_first() {
        let run = usize::from(code).checked_sub(1)?;
        plain.extend(rest.get(..run)?);
        stuffed = &rest[run..];
        if code != u8::MAX && !stuffed.is_empty() {
            plain.push(0);
        }
    }
    Some(plain)
}

/// Finds the frames in what comes.
#[derive(Debug, Default)]
pub(super) struct Finder {
    /// Since the last zero byte.
    held: Vec<u8>,
    /// Too much came without a zero byte: the rest of it is nothing, too.
    skipping: bool,
    /// Pieces that were no frames.
    pub(super) lost: u64,
}

impl Finder {
    /// Takes bytes of the line and hands out each whole frame.
    pub(super) fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Frame)) {
        for &byte in bytes {
            if byte != 0 {
                if self.held.len() < LONGEST {
                    self.held.push(byte);
                } else {
                    self.skipping = true;
                }
                continue;
            }
            if !self.held.is_empty() {
                let whole = if self.skipping { None } else { unstuffed(&self.held) };
                match whole.and_then(|plain| Frame::decode(&plain)) {
                    Some(frame) => each(frame),
                    None => self.lost += 1,
                }
            }
            self.held.clear();
            self.skipping = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(bytes: &[u8]) -> (Vec<Frame>, u64) {
        let (mut finder, mut frames) = (Finder::default(), Vec::new());
        finder.take(bytes, |frame| frames.push(frame));
        assert!(finder.held.len() <= LONGEST);
        (frames, finder.lost)
    }

    fn frame(kind: Kind) -> Frame {
        Frame { from: 0x0100_0002, to: 7, channel: 300, kind }
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn every_kind_comes_through_whatever_was_before_it() {
        for kind in [
            Kind::Hello,
            Kind::Open(PORT),
            Kind::Open(0),
            Kind::Open(u32::MAX),
            Kind::Data(vec![0; MOST_DATA]),
            Kind::Data((0..MOST_DATA).map(|n| n as u8).collect()),
            Kind::Data(vec![1; 254 * 3]),
            Kind::Window(u32::MAX),
            Kind::End,
            Kind::Reset,
        ] {
            let encoded = frame(kind.clone()).encode();
            assert!(encoded.len() <= LONGEST + 2);
            assert!(!encoded[1..encoded.len() - 1].contains(&0));
            for before in [&b""[..], b"login: ", &[255; 100_000], &encoded[..encoded.len() / 2]] {
                let line = [before, &encoded].concat();
                let (frames, lost) = found(&line);
                assert_eq!(frames, [frame(kind.clone())]);
                assert_eq!(lost, u64::from(before.iter().any(|byte| *byte != 0)));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_from_their_stuffing(plain in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let line = stuffed(&plain);
            prop_assert_eq!(unstuffed(&line[1..line.len() - 1]), Some(plain));
        }

        #[test]
        fn garbage_is_no_frame_and_hides_none(garbage in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let (frames, _) = found(&[&garbage[..], &frame(Kind::Open(PORT)).encode()].concat());
            prop_assert_eq!(frames.last(), Some(&frame(Kind::Open(PORT))));
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 0_usize..60, to in any::<u8>()) {
            let mut line = frame(Kind::Data(vec![5; 60])).encode();
            prop_assume!(line[at] != to);
            line[at] = to;
            let whole = found(&line).0;
            prop_assert!(whole.is_empty(), "{:?}", whole);
        }
    }
}
