//! Who is told what, whatever comes and goes at the same moment.

use super::*;
use crate::daemon::integration::About;
use definition::{Places, Store};
use std::path::PathBuf;
use std::sync::mpsc;

const ANN: Role = Role::User(1000);
const LONG: Duration = Duration::from_secs(60);

/// Notes what it is told. Slow to hear that an agent came, when it is asked to be.
#[derive(Debug, Default)]
struct Notes {
    told: Mutex<Vec<&'static str>>,
    slow: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl Notes {
    fn note(&self, what: &'static str) {
        self.told.lock().unwrap().push(what);
    }

    fn told(&self) -> Vec<&'static str> {
        self.told.lock().unwrap().clone()
    }
}

impl Audience for Notes {
    fn came(&self, _: &Agent) {
        if let Some((begun, go_on)) = self.slow.lock().unwrap().take() {
            begun.send(()).unwrap();
            // Bounded: one who is told in order is not overtaken, however long this takes.
            let _ = go_on.recv_timeout(Duration::from_millis(300));
        }
        self.note("came");
    }

    fn left(&self, _: Role) {
        self.note("left");
    }

    fn started(&self) {}

    fn ended(&self) {}
}

/// Agents of a VM that has none, and what is told of them.
struct Scene {
    agents: Agents,
    notes: Arc<Notes>,
    socket: PathBuf,
    token: Token,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::below(folder.path());
        let store = Store::new(places.definitions());
        let about = About { vm: "vm".to_owned(), places, store, desktop: Arc::default() };
        let notes = Arc::new(Notes::default());
        let files = vm_control::Files::new(folder.path(), folder.path());
        let (socket, token) = (files.host_port(PORT), Token::random().unwrap());
        let agents = Agents::listen(
            "vm",
            &files,
            token.clone(),
            Arc::new(Integration::new(about)),
            Arc::clone(&notes) as Arc<dyn Audience>,
        );
        Self { agents: agents.unwrap(), notes, socket, token, _folder: folder }
    }

    async fn connect(&self, direction: Direction) -> agent_link::BoxStream {
        let address = agent_link::Address::Unix(self.socket.clone());
        let mut stream = address.connect().await.unwrap();
        let hello = agent_link::Hello { role: ANN, direction, proof: self.token.proof(ANN) };
        agent_link::introduce(&mut stream, &hello).await.unwrap();
        stream
    }

    /// A connection on which an agent calls.
    async fn calls(&self) -> proto::v1::host_client::HostClient<Channel> {
        let (channel, _) = channel(self.connect(Direction::Calls).await).await.unwrap();
        proto::v1::host_client::HostClient::new(channel)
    }

    async fn until(&self, told: &[&str]) {
        let waiting = async {
            while self.notes.told() != told {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(LONG, waiting).await;
        waited.unwrap_or_else(|_| panic!("told: {:?}, not {told:?}", self.notes.told()));
    }
}

fn ready() -> v1::ReadyRequest {
    let protocol = proto::PROTOCOL;
    v1::ReadyRequest { protocol, user: "ann".to_owned(), ..v1::ReadyRequest::default() }
}

#[tokio::test]
async fn what_happens_first_is_told_first() {
    let scene = Scene::new();
    let desk = Arc::clone(&scene.agents.desk);
    let there = nowhere();
    let entry =
        Entry { serves: Some((1, there)), calls: Some(Facts::default()), ..Entry::default() };
    desk.agents().entries.insert(ANN, entry);
    let ((begun, has_begun), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
    *scene.notes.slow.lock().unwrap() = Some((begun, may_go_on));
    let coming = std::thread::spawn({
        let desk = Arc::clone(&desk);
        move || desk.changed(ANN)
    });
    has_begun.recv_timeout(LONG).unwrap();
    // It goes while it is told that it came.
    desk.agents().entries.get_mut(&ANN).unwrap().serves = None;
    let leaving = std::thread::spawn(move || {
        desk.changed(ANN);
        let _ = go_on.send(());
    });
    coming.join().unwrap();
    leaving.join().unwrap();
    assert_eq!(scene.notes.told(), ["came", "left"]);
}

#[tokio::test]
async fn an_agent_that_never_says_what_it_is_tells_nothing() {
    let scene = Scene::new();
    let mut early = scene.calls().await;
    let notification = || v1::Notification { id: 1, summary: "x".into(), ..Default::default() };
    let refused = early.notify(notification()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("has not said what it is"), "{refused}");
    // Once it has, it is heard: this VM has no definition, so it is refused for another reason.
    early.ready(ready()).await.unwrap();
    let refused = early.notify(notification()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    // It never serves and so never came. That it has gone is told all the same.
    assert!(scene.notes.told().is_empty());
    drop(early);
    scene.until(&["left"]).await;
}

#[tokio::test]
async fn the_end_of_the_vm_ends_every_wait_and_nobody_comes_after_it() {
    let scene = Scene::new();
    let mut calls = scene.calls().await;
    let _serves = scene.connect(Direction::Serves).await;
    calls.ready(ready()).await.unwrap();
    scene.until(&["came"]).await;
    let waiting = scene.agents.wait_for(LONG * 60, |agents| (agents.len() > 1).then_some(()));
    let ending = async { scene.agents.end() };
    let (found, ()) = tokio::time::timeout(LONG, async { tokio::join!(waiting, ending) })
        .await
        .expect("who waits hears of the end");
    assert!(found.is_none() && scene.agents.is_over());
    assert_eq!(scene.notes.told(), ["came", "left"]);
    // One whose proof was heard just before the end.
    let (near, _far) = UnixStream::pair().unwrap();
    let desk = Arc::clone(&scene.agents.desk);
    let late = nowhere();
    let (_watched, gone) = agent_link::watch(tokio::io::empty());
    tokio::time::timeout(LONG, Arc::clone(&desk).call(late, gone, ANN, 9)).await.unwrap();
    tokio::time::timeout(LONG, desk.answer(near, ANN, 10)).await.unwrap();
    assert!(scene.agents.all().is_empty());
    drop(scene.agents);
    assert_eq!(scene.notes.told(), ["came", "left"]);
}
