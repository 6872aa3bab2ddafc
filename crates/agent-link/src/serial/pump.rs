//! The two tasks of a channel, which move bytes between its stream and the line.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};

use super::frame::{Kind, MOST_DATA};
use super::inbox::Inbox;

/// What a channel has for the line.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) channel: u16,
    /// Which of all channels that had this number.
    pub(super) birth: u64,
    pub(super) kind: Kind,
}

/// A channel's way to the line.
#[derive(Clone, Debug)]
pub(super) struct Mouth {
    pub(super) channel: u16,
    pub(super) birth: u64,
    pub(super) to: mpsc::Sender<Said>,
}

impl Mouth {
    /// False when there is no line any more.
    async fn say(&self, kind: Kind) -> bool {
        let said = Said { channel: self.channel, birth: self.birth, kind };
        self.to.send(said).await.is_ok()
    }
}

/// Sends what is written to the stream, as far as the other side has room for it.
pub(super) async fn talk(mut stream: ReadHalf<DuplexStream>, credit: Arc<Semaphore>, mouth: Mouth) {
    let mut bytes = vec![0; MOST_DATA];
    loop {
        let count = stream.read(&mut bytes).await.unwrap_or(0);
        if count == 0 {
            mouth.say(Kind::End).await;
            return;
        }
        let needed = u32::try_from(count).unwrap_or(u32::MAX);
        // Never closed: it ends with the channel.
        let Ok(permit) = credit.acquire_many(needed).await else {
            return;
        };
        permit.forget();
        if !mouth.say(Kind::Data(bytes[..count].to_vec())).await {
            return;
        }
    }
}

/// Gives the stream what comes, and tells the other side when there is room again.
pub(super) async fn listen(mut stream: WriteHalf<DuplexStream>, inbox: Arc<Inbox>, mouth: Mouth) {
    let mut data = Vec::with_capacity(MOST_DATA);
    loop {
        data.clear();
        inbox.take(&mut data).await;
        if data.is_empty() {
            let _ = stream.shutdown().await;
            return;
        }
        if stream.write_all(&data).await.is_err() {
            mouth.say(Kind::Reset).await;
            return;
        }
        let room = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if !mouth.say(Kind::Window(room)).await {
            return;
        }
    }
}
