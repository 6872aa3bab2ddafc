//! gRPC over a connection that is there already. It is never made again: what holds it does that. There are
//! no pings: a program that ends, and a VM that does, close the connection, and one that stands still for a
//! while (a paused VM, a busy machine) is not gone.

use std::convert::Infallible;
use std::io;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, Uri};
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tower::Service;

use crate::gathered::Gathered;
use crate::watched::{Gone, watch};

/// Most bytes of one message, either way. Larger things travel in pieces.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Calls at once on one connection; a guest that makes more waits.
const MOST_CALLS: u32 = 64;

/// Answers calls on `stream` with `service` until the connection ends.
///
/// # Errors
/// The connection fails.
pub async fn serve<S, T>(stream: S, service: T) -> Result<(), tonic::transport::Error>
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
    let (stream, mut gone) = watch(Gathered::new(stream));
    let incoming = tokio_stream::once(Ok::<_, io::Error>(stream)).chain(tokio_stream::pending());
    Server::builder()
        .max_concurrent_streams(MOST_CALLS)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move { gone.wait().await })
        .await
}

/// A channel to the one who serves on `stream`, and what tells when it has gone.
///
/// # Errors
/// The other side does not speak HTTP/2.
pub async fn channel<S>(stream: S) -> Result<(Channel, Gone), tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (stream, gone) = watch(Gathered::new(stream));
    let mut stream = Some(TokioIo::new(stream));
    // The address is only a form to fill.
    let channel = Endpoint::from_static("http://agent")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        }))
        .await?;
    Ok((channel, gone))
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
