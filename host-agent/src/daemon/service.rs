//! `macrohard.v1.Control` over the VMs: unpacks requests, packs answers, decides nothing.

use super::vms::Vms;
use super::{exec, launch, logs, ping, update};
use crate::problem::{Kind, Problem};
use proto::v1::control_server::Control;
use proto::v1::{self, Done, Vm, VmRequest};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use vm_control::{Reply, Request as VmQuestion};

/// Longest polite stop a client may wait for, in seconds.
pub(super) const STOP_PATIENCE: u32 = 24 * 3600;

/// The service; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Service {
    vms: Vms,
    end: Arc<Notify>,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Problem>) -> Answer<T> {
    Ok(Response::new(result?))
}

impl Service {
    pub(super) fn new(vms: Vms, end: Arc<Notify>) -> Self {
        Self { vms, end }
    }
}

#[tonic::async_trait]
impl Control for Service {
    async fn handshake(
        &self,
        request: Request<v1::HandshakeRequest>,
    ) -> Answer<v1::HandshakeReply> {
        let request = request.into_inner();
        tracing::debug!(request.protocol, request.program, "client");
        answer(Ok(v1::HandshakeReply {
            protocol: proto::PROTOCOL,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
        }))
    }

    async fn create(&self, request: Request<v1::CreateRequest>) -> Answer<Vm> {
        let definition = self.vms.create(request.into_inner().definition).await?;
        answer(self.vms.describe(&definition.name).await)
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Answer<Vm> {
        let request = request.into_inner();
        self.vms.update(&request.name, &request.definition)?;
        answer(self.vms.describe(&request.name).await)
    }

    async fn definition(&self, request: Request<VmRequest>) -> Answer<v1::DefinitionReply> {
        let name = request.into_inner().name;
        let store = self.vms.store();
        let reply = store.text(&name).and_then(|definition| {
            let path = store.path(&name)?.display().to_string();
            Ok(v1::DefinitionReply { definition, path })
        });
        answer(reply.map_err(Problem::from))
    }

    async fn delete(&self, request: Request<VmRequest>) -> Answer<Done> {
        self.vms.delete(&request.into_inner().name).await?;
        answer(Ok(Done {}))
    }

    async fn start(&self, request: Request<VmRequest>) -> Answer<v1::StartReply> {
        // A client that goes away does not leave a start half-way.
        let vms = self.vms.clone();
        let name = request.into_inner().name;
        let started = tokio::spawn(async move { vms.start(&name).await }).await;
        answer(started.unwrap_or_else(|error| Err(Problem::failed(error))))
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Answer<Vm> {
        let request = request.into_inner();
        let vm = self.vms.get(&request.name).await?;
        if request.force {
            vm.force_stop().await?;
        } else {
            if request.timeout > STOP_PATIENCE {
                return Err(Problem::usage(format!(
                    "the timeout is {} seconds; allowed: 0 to {STOP_PATIENCE}",
                    request.timeout
                ))
                .into());
            }
            vm.stop(Duration::from_secs(request.timeout.into())).await?;
        }
        answer(Ok(vm.describe(self.vms.store().load(&request.name).ok().as_ref()).await))
    }

    async fn pause(&self, request: Request<VmRequest>) -> Answer<Vm> {
        let name = request.into_inner().name;
        self.vms.get(&name).await?.pause().await?;
        answer(self.vms.describe(&name).await)
    }

    async fn resume(&self, request: Request<VmRequest>) -> Answer<Vm> {
        let name = request.into_inner().name;
        self.vms.get(&name).await?.resume().await?;
        answer(self.vms.describe(&name).await)
    }

    async fn reset(&self, request: Request<VmRequest>) -> Answer<Vm> {
        let name = request.into_inner().name;
        self.vms.get(&name).await?.reset().await?;
        answer(self.vms.describe(&name).await)
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Answer<v1::ListReply> {
        answer(self.vms.list(request.into_inner().all).await)
    }

    async fn status(&self, request: Request<VmRequest>) -> Answer<Vm> {
        answer(self.vms.describe(&request.into_inner().name).await)
    }

    async fn statistics(&self, request: Request<VmRequest>) -> Answer<v1::StatisticsReply> {
        let vm = self.vms.get(&request.into_inner().name).await?;
        let Reply::Statistics(statistics) = vm.ask(VmQuestion::Statistics).await? else {
            return Err(Problem::failed("the VM process gave another answer than asked for").into());
        };
        let counters = |values| v1::Counters { values };
        answer(Ok(v1::StatisticsReply {
            processors: statistics.processors.into_iter().map(counters).collect(),
            devices: statistics
                .devices
                .into_iter()
                .map(|(name, values)| (name, counters(values)))
                .collect(),
            overhead: statistics.overhead,
        }))
    }

    async fn console(&self, request: Request<VmRequest>) -> Answer<v1::ConsoleReply> {
        let name = request.into_inner().name;
        let vm = self.vms.get(&name).await?;
        vm.look()
            .await
            .state
            .check(&name, crate::lifecycle::Action::Attach)
            .map_err(Problem::from)?;
        let files = vm.records().files();
        answer(Ok(v1::ConsoleReply {
            socket: files.console().display().to_string(),
            log: files.console_log().display().to_string(),
        }))
    }

    type LogsStream = ReceiverStream<Result<v1::LogChunk, Status>>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        let request = request.into_inner();
        let kind = v1::LogKind::try_from(request.kind)
            .map_err(|_| Problem::usage(format!("there is no log kind {}", request.kind)))?;
        let vm = self.vms.get(&request.name).await?;
        let files = vm.records().files();
        let path = match kind {
            v1::LogKind::Vm => files.log(),
            v1::LogKind::Console => files.console_log(),
        };
        let (to, chunks) = mpsc::channel(4);
        tokio::spawn(logs::stream(Arc::clone(&vm), path, request.follow, to));
        answer(Ok(ReceiverStream::new(chunks)))
    }

    type ExecStream = Pin<Box<dyn Stream<Item = Result<v1::ExecOutput, Status>> + Send>>;

    async fn exec(&self, request: Request<Streaming<v1::ExecRequest>>) -> Answer<Self::ExecStream> {
        let outputs = exec::exec(&self.vms, request.into_inner()).await?;
        answer(Ok(Box::pin(outputs) as Self::ExecStream))
    }

    async fn ping_agent(
        &self,
        request: Request<v1::PingAgentRequest>,
    ) -> Answer<v1::PingAgentReply> {
        answer(ping::ping(&self.vms, request.into_inner()).await)
    }

    async fn applications(&self, request: Request<VmRequest>) -> Answer<v1::ApplicationsReply> {
        let vm = self.vms.get(&request.into_inner().name).await?;
        answer(vm.integration().applications.list())
    }

    type LaunchStream = ReceiverStream<Result<v1::LaunchProgress, Status>>;

    async fn launch(
        &self,
        request: Request<v1::ControlLaunchRequest>,
    ) -> Answer<Self::LaunchStream> {
        let (to, steps) = mpsc::channel(4);
        tokio::spawn(launch::launch(self.vms.clone(), request.into_inner(), to));
        answer(Ok(ReceiverStream::new(steps)))
    }

    async fn add_share(&self, request: Request<v1::AddShareRequest>) -> Answer<v1::SharesReply> {
        let request = request.into_inner();
        let vm = self.vms.get(&request.name).await?;
        answer(vm.integration().shares.add(request).await)
    }

    async fn remove_share(
        &self,
        request: Request<v1::RemoveShareRequest>,
    ) -> Answer<v1::SharesReply> {
        let request = request.into_inner();
        let vm = self.vms.get(&request.name).await?;
        answer(vm.integration().shares.remove(&request.tag).await)
    }

    async fn shares(&self, request: Request<VmRequest>) -> Answer<v1::SharesReply> {
        let vm = self.vms.get(&request.into_inner().name).await?;
        answer(Ok(vm.integration().shares.list()))
    }

    async fn clipboard(
        &self,
        request: Request<v1::ClipboardRequest>,
    ) -> Answer<v1::ClipboardReply> {
        let request = request.into_inner();
        let vm = self.vms.get(&request.name).await?;
        answer(vm.integration().clipboard.settings(request).await)
    }

    async fn integration(
        &self,
        request: Request<v1::IntegrationRequest>,
    ) -> Answer<v1::IntegrationReply> {
        let request = request.into_inner();
        let vm = self.vms.get(&request.name).await?;
        let settings = vm.integration().settings(request);
        self.vms.edited();
        answer(settings)
    }

    async fn seamless(&self, request: Request<v1::SeamlessRequest>) -> Answer<v1::SeamlessReply> {
        let request = request.into_inner();
        let vm = self.vms.get(&request.name).await?;
        answer(vm.integration().windows.settings(&request).await)
    }

    async fn windows(&self, request: Request<VmRequest>) -> Answer<v1::WindowsReply> {
        let vm = self.vms.get(&request.into_inner().name).await?;
        answer(vm.integration().windows.list().await)
    }

    type ScreenshotStream = ReceiverStream<Result<v1::ScreenshotChunk, Status>>;

    async fn screenshot(
        &self,
        request: Request<v1::ScreenshotRequest>,
    ) -> Answer<Self::ScreenshotStream> {
        let request = request.into_inner();
        let vm = self.vms.get(&request.name).await?;
        let picture = vm.integration().windows.screenshot(request.window).await?;
        let (to, chunks) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || picture.send(&to));
        answer(Ok(ReceiverStream::new(chunks)))
    }

    async fn update_agent(&self, request: Request<v1::UpdateAgentRequest>) -> Answer<Vm> {
        let request = request.into_inner();
        let name = request.name.clone();
        update::update(&self.vms, request).await?;
        answer(self.vms.describe(&name).await)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn watch(&self, _request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let events = BroadcastStream::new(self.vms.events()).map(|event| {
            event.map_err(|lagged| {
                Problem::new(Kind::Failed, format!("events were lost: {lagged}"))
                    .advise("watch again and list")
                    .into()
            })
        });
        answer(Ok(Box::pin(events) as Self::WatchStream))
    }

    async fn shutdown(&self, _request: Request<v1::ShutdownRequest>) -> Answer<Done> {
        self.end.notify_one();
        answer(Ok(Done {}))
    }
}
