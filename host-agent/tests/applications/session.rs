//! A session of a guest as the test wants it: connects as the agent does, tells lists, answers calls for
//! icons and launches.

use super::support::Desk;
use agent_link::{Address, Channel, Direction, Hello, Role, Token, channel, introduce, serve};
use prost::Message;
use proto::stand_in::guest_server::{Guest, GuestServer};
use proto::v1::host_client::HostClient;
use proto::v1::icon_reply::Icon;
use proto::v1::{self, Application, ApplicationList, Feature, LaunchRequest, ReadyRequest};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};

/// What the guest has and what it was asked for.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) icons: Arc<Mutex<BTreeMap<String, Icon>>>,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) launched: Arc<Mutex<Vec<LaunchRequest>>>,
}

/// One connected agent.
pub(crate) struct Session {
    pub(crate) runtime: Runtime,
    host: HostClient<Channel>,
    generation: u64,
}

/// The token of the desk's only VM, and the place where it expects agents.
fn way(desk: &Desk) -> (Token, std::path::PathBuf) {
    let mut folders = std::fs::read_dir(desk.runtime().join("vms")).unwrap();
    let folder = folders.next().unwrap().unwrap().path();
    let launch = std::fs::read(folder.join("launch.json")).unwrap();
    let launch: serde_json::Value = serde_json::from_slice(&launch).unwrap();
    let token = launch["agent_token"].as_str().unwrap().parse().unwrap();
    (token, folder.join(format!("vsock.sock_{}", agent_link::PORT)))
}

impl Session {
    /// An agent of a user, or the system's; knows of `fake`.
    pub(crate) fn connect(desk: &Desk, role: Role, fake: Fake) -> Self {
        let runtime = Runtime::new().unwrap();
        let (token, path) = way(desk);
        let host = runtime.block_on(async move {
            let connect = async |direction| {
                let mut stream = Address::Unix(path.clone()).connect().await.unwrap();
                let hello = Hello { role, direction, proof: token.proof(role) };
                introduce(&mut stream, &hello).await.unwrap();
                stream
            };
            tokio::spawn(serve(connect(Direction::Serves).await, GuestServer::new(fake)));
            let (channel, mut gone) = channel(connect(Direction::Calls).await).await.unwrap();
            tokio::spawn(async move { gone.wait().await });
            let mut host = HostClient::new(channel);
            let ready = ReadyRequest {
                protocol: proto::PROTOCOL,
                features: vec![Feature::Applications.into()],
                user: if role == Role::System { String::new() } else { "ann".into() },
                ..ReadyRequest::default()
            };
            host.ready(ready).await.unwrap();
            host
        });
        Self { runtime, host, generation: 0 }
    }

    /// Tells a list in order, as an agent does.
    pub(crate) fn tell(&mut self, mut applications: Vec<Application>) -> Result<(), Status> {
        applications.sort_by(|a, b| a.id.cmp(&b.id));
        let mut digest = Sha256::new();
        for application in &applications {
            digest.update(application.encode_to_vec());
        }
        self.tell_list(digest.finalize().to_vec(), applications)
    }

    pub(crate) fn tell_list(
        &mut self,
        digest: Vec<u8>,
        applications: Vec<Application>,
    ) -> Result<(), Status> {
        self.generation += 1;
        let list = ApplicationList { generation: self.generation, digest, applications };
        self.runtime.block_on(self.host.set_applications(list)).map(|_| ())
    }
}

#[tonic::async_trait]
impl Guest for Fake {
    async fn icon(
        &self,
        request: Request<v1::IconRequest>,
    ) -> Result<Response<v1::IconReply>, Status> {
        let id = request.into_inner().application;
        self.asked.lock().unwrap().push(id.clone());
        if id == "silent" {
            std::future::pending::<()>().await;
        }
        match self.icons.lock().unwrap().get(&id) {
            Some(icon) => Ok(Response::new(v1::IconReply { icon: Some(icon.clone()) })),
            None => Err(Status::not_found("no icon \u{1b}[2J")),
        }
    }

    async fn launch(
        &self,
        request: Request<LaunchRequest>,
    ) -> Result<Response<v1::LaunchReply>, Status> {
        let request = request.into_inner();
        if request.application == "gone" {
            return Err(Status::not_found("there is no application \"gone\"\u{1b}[2J"));
        }
        self.launched.lock().unwrap().push(request);
        Ok(Response::new(v1::LaunchReply { pid: 77 }))
    }
}
