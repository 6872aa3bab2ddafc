//! How a guest's agent and the host's compositor speak of windows (`proto/macrohard/v1/windows.proto`).
//!
//! Each message stands behind its length in four bytes, little-endian. [`encode`] writes one; a
//! [`Decoder`] is given bytes as they come and gives messages. Neither reads or writes a stream: agent,
//! compositor and tests do that each in their own way. [`limits`] are the numbers that both sides hold to.
#![forbid(unsafe_code)]

pub mod latency;
pub mod limits;

use prost::Message;
use std::marker::PhantomData;

/// Version of the protocol that a hello states.
pub const VERSION: u32 = 1;

/// Bytes of a message's length.
const HEADER: usize = 4;

/// What came is no message. The connection cannot go on: where the next one begins is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length says more than is allowed.
    #[error("a message of {0} bytes; at most {max} are allowed", max = limits::MESSAGE)]
    Long(usize),
    /// The bytes are no message of the expected type.
    #[error("a message cannot be read: {0}")]
    Message(#[from] prost::DecodeError),
}

/// Appends `message` with its length to `to`.
///
/// # Errors
/// [`FrameError::Long`]; `to` is as before.
pub fn encode(message: &impl Message, to: &mut Vec<u8>) -> Result<(), FrameError> {
    let length = message.encoded_len();
    if length > limits::MESSAGE {
        return Err(FrameError::Long(length));
    }
    to.reserve(HEADER + length);
    to.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    message.encode_raw(to);
    Ok(())
}

/// Cuts a stream of bytes into messages of type `M`. Holds at most one message and what was given at once.
#[derive(Debug)]
pub struct Decoder<M> {
    bytes: Vec<u8>,
    /// Of `bytes`, taken already.
    taken: usize,
    message: PhantomData<fn() -> M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self { bytes: Vec::new(), taken: 0, message: PhantomData }
    }
}

impl<M: Message + Default> Decoder<M> {
    /// Takes what came.
    pub fn give(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, `None` until more has come.
    ///
    /// # Errors
    /// See [`FrameError`]; the stream is of no more use.
    pub fn take(&mut self) -> Result<Option<M>, FrameError> {
        let rest = &self.bytes[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > limits::MESSAGE {
            return Err(FrameError::Long(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = M::decode(body)?;
        self.taken += HEADER + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, FrameError, encode, limits};
    use proptest::prelude::*;
    use prost::Message;
    use proto::v1::{FromGuest, Present, Rectangle, WindowIcon, from_guest};

    fn present(sequence: u64, damage: Vec<(i32, u32)>) -> FromGuest {
        let damage = damage
            .into_iter()
            .map(|(x, width)| Rectangle { x, y: -x, width, height: width })
            .collect();
        let present = Present { window: 1, sequence, damage, ..Present::default() };
        FromGuest { message: Some(from_guest::Message::Present(present)) }
    }

    proptest! {
        #[test]
        fn messages_come_back_however_the_stream_is_cut(
            sequences in proptest::collection::vec((any::<u64>(), proptest::collection::vec((any::<i32>(), any::<u32>()), 0..5)), 0..8),
            cut in 1_usize..40,
        ) {
            let sent: Vec<FromGuest> = sequences.into_iter().map(|(sequence, damage)| present(sequence, damage)).collect();
            let mut bytes = Vec::new();
            for message in &sent {
                encode(message, &mut bytes).unwrap();
            }
            let mut decoder = Decoder::<FromGuest>::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.give(piece);
                while let Some(message) = decoder.take().unwrap() {
                    got.push(message);
                }
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn no_bytes_make_it_fail_otherwise_than_by_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::<FromGuest>::default();
            decoder.give(&bytes);
            while let Ok(Some(_)) = decoder.take() {}
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_of_it_is_kept() {
        let mut decoder = Decoder::<FromGuest>::default();
        decoder.give(&u32::MAX.to_le_bytes());
        assert_eq!(decoder.take(), Err(FrameError::Long(u32::MAX as usize)));
    }

    #[test]
    fn a_message_over_the_limit_is_not_sent() {
        let icon = WindowIcon { pixels: vec![0; limits::MESSAGE], ..WindowIcon::default() };
        let long = FromGuest { message: Some(from_guest::Message::Icon(icon)) };
        let mut bytes = vec![7];
        assert_eq!(encode(&long, &mut bytes), Err(FrameError::Long(long.encoded_len())));
        assert_eq!(bytes, [7]);
    }
}
