//! The end of a connection that calls: gRPC's client over HTTP/2, without anything between. A call is made and
//! answered in the caller's own task; the only other one is the connection's, which reads and writes. A channel to
//! servers that come and go has a queue of calls and a task for each answer besides, which a short call on a
//! connection that is never made again would pass through for nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use hyper::body::{Body as _, Bytes, Frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tonic::codegen::http::uri::{Authority, Scheme};
use tonic::codegen::http::{Request, Response, Uri};
use tower::Service;

use crate::rpc::{MAX_FRAME, MAX_HEADERS};

/// Bytes under way to us: of one call, and of all on the connection.
const WINDOW: u32 = 2 << 20;
const WINDOW_OF_ALL: u32 = 5 << 20;
/// Bytes that wait to be sent, of one call.
const MOST_UNSENT: usize = 1 << 20;

/// Makes calls on one connection. Clones share it; with the last of them and of their calls it ends.
#[derive(Clone, Debug)]
pub struct Channel(SendRequest<Bytes>);

impl Channel {
    /// Takes a stream into use. Calls can be made before the other side has said anything.
    ///
    /// # Errors
    /// The stream cannot be written to.
    pub(crate) async fn open<S>(stream: S) -> Result<Self, h2::Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (requests, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW_OF_ALL)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buffer_size(MOST_UNSENT)
            .handshake(stream)
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection for calls is lost");
            }
        });
        Ok(Self(requests))
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Answer>;
    type Error = h2::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, h2::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        // A call on a connection that is lost fails itself, with the reason as its status' source. Generated code makes
        // a status without one of what fails here, and such a status is taken for the other side's.
        self.0.poll_ready(context).map(|_| Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        // HTTP/2 wants an origin, and on this connection there is only one.
        let mut place = parts.uri.into_parts();
        place.scheme = Some(Scheme::HTTP);
        place.authority = Some(Authority::from_static("agent"));
        parts.uri = Uri::from_parts(place).unwrap_or_default();
        let silent = body.is_end_stream();
        let sent = self.0.send_request(Request::from_parts(parts, ()), silent);
        Box::pin(async move {
            let (answer, stream) = sent?;
            if !silent {
                let mut sending = Sending { body, stream, held: None };
                // A call with one message has said it here. Of another the rest goes out beside the answer.
                let begun = poll_fn(|context| Poll::Ready(sending.poll(context))).await;
                if begun.is_pending() {
                    tokio::spawn(poll_fn(move |context| sending.poll(context)));
                }
            }
            Ok(answer.await?.map(Answer))
        })
    }
}

/// What the caller says, on its way.
struct Sending {
    body: Body,
    stream: SendStream<Bytes>,
    /// Said, but not yet sent: it may be the last.
    held: Option<Bytes>,
}

impl Sending {
    /// Ready when everything is sent, or nobody wants it.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.stream.poll_reset(context).is_ready() {
                return Poll::Ready(());
            }
            // Only as much is taken of the caller as the other side has room for.
            if self.held.is_some() && self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(context)) {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return Poll::Ready(()),
                }
            }
            let next = Pin::new(&mut self.body).poll_frame(context);
            if let Some(held) = self.held.take() {
                let last = matches!(next, Poll::Ready(None));
                if self.stream.send_data(held, last).is_err() || last {
                    return Poll::Ready(());
                }
            }
            match ready!(next) {
                Some(Ok(frame)) => {
                    // A caller of gRPC says nothing behind its messages.
                    if let Ok(bytes) = frame.into_data()
                        && !bytes.is_empty()
                    {
                        self.stream.reserve_capacity(bytes.len());
                        self.held = Some(bytes);
                    }
                }
                Some(Err(_)) => {
                    self.stream.send_reset(h2::Reason::CANCEL);
                    return Poll::Ready(());
                }
                None => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// What is answered.
#[derive(Debug)]
pub struct Answer(RecvStream);

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.0.poll_data(context)) {
            Some(Ok(bytes)) => {
                // Only more than came could not be released.
                let _ = self.0.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let trailers = ready!(self.0.poll_trailers(context));
                Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use crate::{channel, serve};
    use proto::stand_in::guest_server::{Guest, GuestServer};
    use proto::v1;
    use proto::v1::guest_client::GuestClient;
    use proto::v1::update_chunk::Chunk;
    use tokio::sync::mpsc;
    use tokio_stream::StreamExt;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::{Request, Response, Status, Streaming};

    type Chunks = tonic::codegen::BoxStream<v1::ClipboardChunk>;

    /// Counts what it is sent; gives as many pieces as the sequence number says, and tells when nobody wants more.
    struct Peer(mpsc::Sender<()>);

    const PIECE: usize = 64 << 10;

    #[tonic::async_trait]
    impl Guest for Peer {
        async fn update(
            &self,
            request: Request<Streaming<v1::UpdateChunk>>,
        ) -> Result<Response<v1::UpdateReply>, Status> {
            let mut chunks = request.into_inner();
            let mut bytes = 0;
            while let Some(chunk) = chunks.next().await {
                if let Some(Chunk::Data(data)) = chunk?.chunk {
                    bytes += data.len();
                }
            }
            // What came is all the answer there is.
            Err(Status::aborted(bytes.to_string()))
        }

        async fn fetch_clipboard(
            &self,
            request: Request<v1::ClipboardFetch>,
        ) -> Result<Response<Chunks>, Status> {
            let count = request.into_inner().sequence;
            let (give, given) = mpsc::channel(1);
            let unwanted = self.0.clone();
            tokio::spawn(async move {
                for number in 0..count {
                    let data = vec![number as u8; PIECE].into();
                    if give.send(Ok(v1::ClipboardChunk { size: 0, data })).await.is_err() {
                        let _ = unwanted.send(()).await;
                        return;
                    }
                }
            });
            Ok(Response::new(Box::pin(ReceiverStream::new(given))))
        }
    }

    async fn peer() -> (GuestClient<super::Channel>, mpsc::Receiver<()>) {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let (tell, told) = mpsc::channel(1);
        tokio::spawn(serve(far, GuestServer::new(Peer(tell))));
        (GuestClient::new(channel(near).await.unwrap().0), told)
    }

    fn fetch(sequence: u64) -> v1::ClipboardFetch {
        v1::ClipboardFetch { sequence, ..Default::default() }
    }

    #[tokio::test]
    async fn more_than_a_window_comes_whole_and_in_order() {
        let (mut client, _told) = peer().await;
        // 8 MiB, where a call has a window of 2 and the connection one of 5.
        let mut chunks = client.fetch_clipboard(fetch(128)).await.unwrap().into_inner();
        for number in 0..128 {
            let chunk = chunks.next().await.unwrap().unwrap();
            assert!(chunk.data.len() == PIECE && chunk.data.iter().all(|byte| *byte == number));
        }
        assert!(chunks.next().await.is_none());
    }

    #[tokio::test]
    async fn what_a_caller_streams_arrives_also_when_it_comes_late() {
        let (mut client, _told) = peer().await;
        for (count, pause) in [(0, false), (1, false), (1, true), (40, true), (200, false)] {
            let (say, said) = mpsc::channel(1);
            tokio::spawn(async move {
                for _ in 0..count {
                    if pause {
                        tokio::task::yield_now().await;
                    }
                    let chunk = Some(Chunk::Data(vec![7; PIECE]));
                    say.send(v1::UpdateChunk { chunk }).await.unwrap();
                }
            });
            let came = client.update(ReceiverStream::new(said)).await.unwrap_err();
            assert_eq!(came.message(), (count * PIECE).to_string());
        }
    }

    #[tokio::test]
    async fn who_answers_learns_that_nobody_listens_any_more() {
        let (mut client, mut told) = peer().await;
        let mut chunks = client.fetch_clipboard(fetch(u64::MAX)).await.unwrap().into_inner();
        chunks.next().await.unwrap().unwrap();
        drop(chunks);
        told.recv().await.unwrap();
        // The connection is as good as before.
        let mut chunks = client.fetch_clipboard(fetch(1)).await.unwrap().into_inner();
        assert_eq!(chunks.next().await.unwrap().unwrap().data.len(), PIECE);
    }

    #[tokio::test]
    async fn a_lost_connection_ends_calls_with_an_error_of_this_side() {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let (tell, _told) = mpsc::channel(1);
        let serving = tokio::spawn(serve(far, GuestServer::new(Peer(tell))));
        let mut client = GuestClient::new(channel(near).await.unwrap().0);
        let mut chunks = client.fetch_clipboard(fetch(u64::MAX)).await.unwrap().into_inner();
        chunks.next().await.unwrap().unwrap();
        serving.abort();
        let lost = loop {
            match chunks.next().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => break status,
                None => panic!("content that breaks off is no end"),
            }
        };
        assert!(std::error::Error::source(&lost).is_some(), "{lost}");
        let refused = client.fetch_clipboard(fetch(1)).await.unwrap_err();
        assert!(std::error::Error::source(&refused).is_some(), "{refused}");
    }
}
