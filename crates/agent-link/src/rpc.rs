//! gRPC over a connection that is there already. It is never made again: what holds it does that. There are
//! no pings: a program that ends, and a VM that does, close the connection, and one that stands still for a
//! while (a paused VM, a busy machine) is not gone.

use std::convert::Infallible;
use std::error::Error as _;
use std::io;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tower::Service;

use crate::channel::Channel;
use crate::gathered::Gathered;
use crate::watched::{Gone, watch};

/// Most bytes of one message, either way. Larger things travel in pieces.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Calls at once on one connection; a guest that makes more waits.
const MOST_CALLS: u32 = 64;
/// Bytes of a frame of HTTP/2 at most, either way: a piece of something larger, 64 KiB, is one frame with what is around it.
pub(crate) const MAX_FRAME: u32 = 96 << 10;
/// Bytes of all headers of a call or an answer.
pub(crate) const MAX_HEADERS: u32 = 16 << 10;

/// A connection carries no calls, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The other side does not speak HTTP/2 as a server, or the stream fails.
    #[error("calls cannot be made: {0}")]
    Calls(#[from] h2::Error),
    /// The other side does not speak HTTP/2 as a client, or the stream fails.
    #[error("calls cannot be answered: {0}")]
    Answers(#[from] hyper::Error),
}

/// Answers calls on `stream` with `service` until the connection ends.
///
/// # Errors
/// The connection fails.
pub async fn serve<S, T>(stream: S, service: T) -> Result<(), TransportError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send + 'static,
{
    // A service that was generated is always ready, and answers what is not for it.
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        service.clone().call(request.map(Body::new))
    });
    let answering = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MOST_CALLS)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        // Nobody asks, and it differs each second.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(Gathered::new(stream)), service);
    match answering.await {
        Err(error) if !left(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// The other side has gone while there was something to tell it: an end like any other.
fn left(error: &hyper::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| matches!(cause.kind(), BrokenPipe | ConnectionReset))
}

/// A channel to the one who serves on `stream`, and what tells when it has gone.
///
/// # Errors
/// The stream cannot be written to.
pub async fn channel<S>(stream: S) -> Result<(Channel, Gone), TransportError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (stream, gone) = watch(Gathered::new(stream));
    Ok((Channel::open(stream).await?, gone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::stand_in::host_server::{Host, HostServer};
    use proto::v1;
    use proto::v1::host_client::HostClient;
    use tonic::{Request, Response, Status};

    struct Echo;

    #[tonic::async_trait]
    impl Host for Echo {
        async fn ready(
            &self,
            request: Request<v1::ReadyRequest>,
        ) -> Result<Response<v1::ReadyReply>, Status> {
            let program = request.into_inner().program;
            Ok(Response::new(v1::ReadyReply { program, ..Default::default() }))
        }
    }

    #[tokio::test]
    async fn calls_are_answered_and_the_end_of_either_side_is_noticed() {
        let (guest, host) = tokio::io::duplex(64 << 10);
        let serving = tokio::spawn(serve(host, HostServer::new(Echo)));
        let (channel, mut gone) = channel(guest).await.unwrap();
        let mut client = HostClient::new(channel);
        let request = v1::ReadyRequest { program: "x".into(), ..Default::default() };
        assert_eq!(client.ready(request).await.unwrap().into_inner().program, "x");
        assert!(!gone.is_gone());
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        gone.wait().await;
        assert!(gone.is_gone());
    }

    #[tokio::test]
    async fn a_server_ends_with_its_connection() {
        let (guest, host) = tokio::io::duplex(64 << 10);
        let serving = tokio::spawn(serve(host, HostServer::new(Echo)));
        let (channel, _gone) = channel(guest).await.unwrap();
        drop(HostClient::new(channel));
        serving.await.unwrap().unwrap();
    }
}
