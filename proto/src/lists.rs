//! Messages whose lists are bounded while they are read. A guest's application of two bytes becomes some
//! hundred in memory, so that a list has to be refused before all of it is there.

use crate::v1::Application;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, bytes, decode_varint, message, skip_field, uint64};
use prost::{DecodeError, Message};

/// Applications of one list.
pub const MOST_APPLICATIONS: usize = 2048;
/// Bytes of one of them, encoded: more than all of its fields may have together.
pub const LONGEST_APPLICATION: usize = 128 << 10;

/// See `host.proto`; written by hand to keep [`MOST_APPLICATIONS`] and [`LONGEST_APPLICATION`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApplicationList {
    /// Grows with every list of this agent's run.
    pub generation: u64,
    /// SHA-256 over the encoded applications in their order.
    pub digest: Vec<u8>,
    /// Sorted by id, each once.
    pub applications: Vec<Application>,
}

impl Message for ApplicationList {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if self.generation != 0 {
            uint64::encode(1, &self.generation, buf);
        }
        if !self.digest.is_empty() {
            bytes::encode(2, &self.digest, buf);
        }
        message::encode_repeated(3, &self.applications, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => uint64::merge(wire_type, &mut self.generation, buf, context),
            2 => bytes::merge(wire_type, &mut self.digest, buf, context),
            3 if wire_type == WireType::LengthDelimited => {
                if self.applications.len() == MOST_APPLICATIONS {
                    return Err(too_much("more applications than a list may have"));
                }
                let length = usize::try_from(decode_varint(buf)?).unwrap_or(usize::MAX);
                if length > LONGEST_APPLICATION {
                    return Err(too_much("an application is longer than its fields may be"));
                }
                if length > buf.remaining() {
                    return Err(too_much("an application ends before it should"));
                }
                self.applications.push(Application::decode(buf.take(length))?);
                Ok(())
            }
            _ => skip_field(wire_type, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let generation = match self.generation {
            0 => 0,
            generation => uint64::encoded_len(1, &generation),
        };
        let digest = if self.digest.is_empty() { 0 } else { bytes::encoded_len(2, &self.digest) };
        generation + digest + message::encoded_len_repeated(3, &self.applications)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[allow(deprecated, reason = "there is no other way for a message that is written by hand")]
fn too_much(what: &'static str) -> DecodeError {
    DecodeError::new(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Text;

    fn list(count: usize) -> ApplicationList {
        let name = Some(Text { plain: "Editor".into(), translations: Vec::new() });
        let one =
            |n| Application { id: format!("{n:04}"), name: name.clone(), ..Default::default() };
        ApplicationList {
            generation: 7,
            digest: vec![1; 32],
            applications: (0..count).map(one).collect(),
        }
    }

    #[test]
    fn a_list_reads_back_as_it_was_written() {
        for list in [ApplicationList::default(), list(0), list(1), list(MOST_APPLICATIONS)] {
            let bytes = list.encode_to_vec();
            assert_eq!(bytes.len(), list.encoded_len());
            assert_eq!(ApplicationList::decode(&bytes[..]), Ok(list));
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_interface_s_description() {
        let mut expected = b"\x08\x07\x12\x20".to_vec();
        expected.extend([1; 32]);
        expected.extend(b"\x1a\x10\x0a\x040000\x12\x08\x0a\x06Editor");
        assert_eq!(list(1).encode_to_vec(), expected);
        // A field of a later version.
        expected.extend(b"\x2a\x01x");
        assert_eq!(ApplicationList::decode(&expected[..]), Ok(list(1)));
    }

    #[test]
    fn a_list_that_would_not_fit_is_refused_while_it_is_read() {
        assert!(ApplicationList::decode(&list(MOST_APPLICATIONS + 1).encode_to_vec()[..]).is_err());
        let empty = b"\x1a\x00".repeat(1_000_000);
        assert!(ApplicationList::decode(&empty[..]).is_err());
        let mut long = list(1);
        long.applications[0].keywords = vec![String::new(); LONGEST_APPLICATION];
        assert!(ApplicationList::decode(&long.encode_to_vec()[..]).is_err());
        for broken in [
            &b"\x1a"[..],
            b"\x1a\x05abc",
            b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x1a\x02\x0a\x05",
        ] {
            assert!(ApplicationList::decode(broken).is_err(), "{broken:?}");
        }
    }
}
