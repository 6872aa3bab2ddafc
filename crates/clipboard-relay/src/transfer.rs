//! Content on its way: cut into chunks on one side, put together on the other, which believes nothing of
//! its length before it is there.

use std::time::Duration;

use clipboard::{FetchError, Format, Selection};
use prost::bytes::Bytes;
use proto::v1::{ClipboardChunk, ClipboardFetch};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Status};

use crate::announcement::{Id, Origin, format_number, selection_number};

/// Bytes of a chunk, as the protocol says.
pub const CHUNK: usize = 64 << 10;
/// How long content may stand still on its way.
pub const PAUSE: Duration = Duration::from_secs(10);
/// How long all of it may take. One that gives a byte each time before the pause is over never ends.
pub const WHOLE: Duration = Duration::from_secs(120);
/// Room made before the content is there.
const FIRST_ROOM: usize = 1 << 20;

/// Puts the chunks of one content together.
#[derive(Debug)]
pub struct Assembly {
    most: usize,
    size: Option<usize>,
    bytes: Vec<u8>,
}

impl Assembly {
    /// For content of at most `most` bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, size: None, bytes: Vec::new() }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// It is more than allowed, or not what the first chunk promised.
    pub fn push(&mut self, chunk: &ClipboardChunk) -> Result<(), FetchError> {
        let wrong = |what: &str| Err(FetchError::Failed(format!("the content is wrong: {what}")));
        let size = match self.size {
            Some(size) => {
                if chunk.size != 0 || chunk.data.is_empty() {
                    return wrong("a chunk says its size again, or nothing");
                }
                size
            }
            None => {
                let size = usize::try_from(chunk.size).ok().filter(|size| *size <= self.most);
                let size = size.ok_or(FetchError::Large(self.most))?;
                self.bytes.reserve(size.min(FIRST_ROOM));
                *self.size.insert(size)
            }
        };
        if chunk.data.len() > CHUNK {
            return wrong("a chunk is too long");
        }
        if self.bytes.len() + chunk.data.len() > size {
            return wrong("more comes than was said");
        }
        self.bytes.extend_from_slice(&chunk.data);
        Ok(())
    }

    /// The content, when all of it is there.
    ///
    /// # Errors
    /// It is not.
    pub fn finish(self) -> Result<Vec<u8>, FetchError> {
        match self.size {
            Some(size) if size == self.bytes.len() => Ok(self.bytes),
            _ => Err(FetchError::Failed("the content is wrong: less comes than was said".into())),
        }
    }
}

/// Puts together what comes. The first chunk may take as long as `first`, each other [`PAUSE`].
///
/// # Errors
/// It breaks off, stands still, or is not what it says.
pub async fn collect(
    chunks: impl Stream<Item = Result<ClipboardChunk, Status>>,
    most: usize,
    first: Duration,
) -> Result<Vec<u8>, FetchError> {
    let mut chunks = std::pin::pin!(chunks);
    let mut assembly = Assembly::new(most);
    let whole = async {
        let mut pause = first;
        loop {
            match tokio::time::timeout(pause, chunks.next()).await {
                Ok(Some(Ok(chunk))) => assembly.push(&chunk)?,
                Ok(Some(Err(status))) => return Err(error(&status, most)),
                Ok(None) => return assembly.finish(),
                Err(_) => return Err(FetchError::Late),
            }
            pause = PAUSE;
        }
    };
    tokio::time::timeout(first + WHOLE, whole).await.unwrap_or(Err(FetchError::Late))
}

/// Cuts content.
pub fn chunks(content: Vec<u8>) -> impl Stream<Item = Result<ClipboardChunk, Status>> + Send {
    let content = Bytes::from(content);
    let size = content.len() as u64;
    // Empty content has one chunk, too.
    let count = content.len().div_ceil(CHUNK).max(1);
    tokio_stream::iter((0..count).map(move |number| {
        let start = number * CHUNK;
        let end = content.len().min(start + CHUNK);
        let size = if number == 0 { size } else { 0 };
        Ok(ClipboardChunk { size, data: content.slice(start..end) })
    }))
}

/// Asks for content.
#[must_use]
pub fn request(selection: Selection, id: Id, format: Format) -> ClipboardFetch {
    ClipboardFetch {
        selection: selection_number(selection),
        origin: id.origin.bytes(),
        sequence: id.sequence,
        format: format_number(format),
    }
}

/// What another side asks for.
///
/// # Errors
/// It is not a request of the protocol.
pub fn check(fetch: &ClipboardFetch) -> Result<(Selection, Id, Format), Status> {
    let wrong = || Status::invalid_argument("a request for content names what does not exist");
    let selection = crate::selection(fetch.selection).ok_or_else(wrong)?;
    let origin = Origin::from_bytes(&fetch.origin).ok_or_else(wrong)?;
    let format = crate::format(fetch.format).ok_or_else(wrong)?;
    Ok((selection, Id { origin, sequence: fetch.sequence }, format))
}

/// Why content does not come, for the other side.
#[must_use]
pub fn status(error: &FetchError) -> Status {
    let code = match error {
        FetchError::Gone => Code::NotFound,
        FetchError::Large(_) => Code::OutOfRange,
        FetchError::Late => Code::DeadlineExceeded,
        FetchError::Denied => Code::PermissionDenied,
        FetchError::Failed(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// Why content does not come, from the other side. Its words are not passed on.
#[must_use]
pub fn error(status: &Status, most: usize) -> FetchError {
    match status.code() {
        Code::NotFound => FetchError::Gone,
        Code::OutOfRange => FetchError::Large(most),
        Code::DeadlineExceeded => FetchError::Late,
        Code::PermissionDenied => FetchError::Denied,
        Code::ResourceExhausted => FetchError::Failed("too much is pasted at once".to_owned()),
        _ if std::error::Error::source(status).is_some() => {
            FetchError::Failed("the desktop it was copied on went away".to_owned())
        }
        code => FetchError::Failed(format!("the desktop it was copied on answers: {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(size: u64, data: &[u8]) -> ClipboardChunk {
        ClipboardChunk { size, data: data.to_vec().into() }
    }

    async fn sent(items: Vec<Result<ClipboardChunk, Status>>) -> Result<Vec<u8>, FetchError> {
        collect(tokio_stream::iter(items), 100, PAUSE).await
    }

    #[tokio::test]
    async fn content_comes_whole_or_not_at_all() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK] {
            let content: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let back = collect(chunks(content.clone()), size, PAUSE).await;
            assert_eq!(back, Ok(content.clone()));
            if size > 0 {
                let large = collect(chunks(content), size - 1, PAUSE).await;
                assert_eq!(large, Err(FetchError::Large(size - 1)));
            }
        }
    }

    #[tokio::test]
    async fn a_length_that_is_a_lie_is_found_out() {
        let wrong = |result| matches!(result, Err(FetchError::Failed(_)));
        assert!(wrong(sent(vec![]).await));
        assert!(wrong(sent(vec![Ok(chunk(5, b"abcd"))]).await));
        assert!(wrong(sent(vec![Ok(chunk(3, b"abcd"))]).await));
        assert!(wrong(sent(vec![Ok(chunk(5, b"abc")), Ok(chunk(0, b"def"))]).await));
        assert!(wrong(sent(vec![Ok(chunk(5, b"abc")), Ok(chunk(5, b"de"))]).await));
        assert!(wrong(
            sent(vec![Ok(chunk(5, b"abc")), Ok(chunk(0, b"")), Ok(chunk(0, b"de"))]).await
        ));
        assert_eq!(sent(vec![Ok(chunk(u64::MAX, b""))]).await, Err(FetchError::Large(100)));
        let gone = Status::not_found("\u{1b}[2J");
        assert_eq!(sent(vec![Ok(chunk(5, b"abc")), Err(gone)]).await, Err(FetchError::Gone));
        let long =
            collect(tokio_stream::once(Ok(chunk(1 << 20, &vec![0; CHUNK + 1]))), 1 << 20, PAUSE);
        assert!(wrong(long.await));
    }

    #[tokio::test(start_paused = true)]
    async fn content_that_stands_still_or_never_ends_is_late() {
        let still = tokio_stream::once(Ok(chunk(5, b"a"))).chain(tokio_stream::pending());
        assert_eq!(collect(still, 100, PAUSE).await, Err(FetchError::Late));
        let never = collect(tokio_stream::pending(), 100, PAUSE);
        assert_eq!(never.await, Err(FetchError::Late));
        // A byte each nine seconds.
        let first = tokio_stream::once(Ok(chunk(1 << 20, b"a")));
        let drops = tokio_stream::iter(std::iter::repeat_with(|| Ok(chunk(0, b"a"))));
        let slow = first.chain(drops).then(|chunk| async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            chunk
        });
        assert_eq!(collect(slow, 1 << 20, PAUSE).await, Err(FetchError::Late));
    }

    proptest! {
        #[test]
        fn no_sequence_of_chunks_gives_other_bytes_than_it_promised(
            sizes in proptest::collection::vec((0_u64..40, 0_usize..20), 0..8),
        ) {
            let mut assembly = Assembly::new(30);
            let (mut came, mut failed) = (0, false);
            for (size, length) in &sizes {
                failed |= assembly.push(&chunk(*size, &vec![1; *length])).is_err();
                if failed {
                    break;
                }
                came += length;
            }
            if !failed && let Ok(bytes) = assembly.finish() {
                prop_assert_eq!(bytes.len(), came);
                prop_assert_eq!(bytes.len() as u64, sizes[0].0);
                prop_assert!(bytes.len() <= 30);
            }
        }
    }
}
