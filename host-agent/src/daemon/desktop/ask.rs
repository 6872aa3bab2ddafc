//! Questions to the person at the host: a notification with two buttons. What is not allowed in time is
//! denied, and so is everything where no notification can be shown.

use super::bus::Bus;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_stream::StreamExt;
use zbus::{Proxy, Variant};

/// How long the person may think.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the desktop may take to show a question.
const SHOWING: Duration = Duration::from_secs(5);

const SERVICE: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
/// Keys of the two actions.
const ALLOW: &str = "allow";
const DENY: &str = "deny";

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Question {
    /// The VM that wants something.
    pub(in crate::daemon) vm: String,
    /// In a few words: the title, to which the VM's name is added.
    pub(in crate::daemon) summary: String,
    /// What happens when it is allowed. Plain text; what comes from a guest has been checked.
    pub(in crate::daemon) body: String,
}

/// What the person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Answer {
    Allowed,
    Denied(Denial),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::daemon) enum Denial {
    #[error("the person said no")]
    Person,
    #[error("nobody answered the question in time")]
    Late,
    #[error("another question of this VM is open")]
    Busy,
    #[error("the desktop cannot show questions")]
    Unable,
}

/// See the module.
#[derive(Debug)]
pub(in crate::daemon) struct Asking {
    bus: Arc<Bus>,
    patience: Duration,
    /// VMs with an open question.
    open: Mutex<BTreeSet<String>>,
}

/// A VM's turn to ask.
struct Turn<'a>(&'a Asking, &'a str);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).remove(self.1);
    }
}

impl Asking {
    pub(in crate::daemon) fn new(bus: Arc<Bus>) -> Self {
        Self { bus, patience: PATIENCE, open: Mutex::default() }
    }

    fn turn<'a>(&'a self, vm: &'a str) -> Option<Turn<'a>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(vm.to_owned()).then(|| Turn(self, vm))
    }

    /// Asks. A VM has one question at a time; another is denied while the first is open.
    pub(in crate::daemon) async fn ask(&self, question: Question) -> Answer {
        let Some(_turn) = self.turn(&question.vm) else {
            return Answer::Denied(Denial::Busy);
        };
        match self.show(&question).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(vm = question.vm, %error, "cannot ask the person");
                Answer::Denied(Denial::Unable)
            }
        }
    }

    async fn show(&self, question: &Question) -> zbus::Result<Answer> {
        let connection = self.bus.connection().await?;
        let notifications = Proxy::new(&connection, SERVICE, PATH, SERVICE).await?;
        let begun = tokio::time::timeout(SHOWING, async {
            let capabilities: Vec<String> = notifications.call("GetCapabilities", &()).await?;
            if !capabilities.iter().any(|capability| capability == "actions") {
                return Err(zbus::Error::Failure("notifications have no buttons here".to_owned()));
            }
            // Listened for first: an answer may come before the notification's number.
            let chosen = notifications.receive_signal("ActionInvoked").await?;
            let closed = notifications.receive_signal("NotificationClosed").await?;
            let marked = capabilities.iter().any(|capability| capability == "body-markup");
            let id = self.notify(&notifications, question, marked).await?;
            Ok((id, chosen, closed))
        });
        let late = |_| zbus::Error::Failure("the notification service does not answer".to_owned());
        let (id, mut chosen, mut closed) = begun.await.map_err(late)??;
        let waiting = async {
            loop {
                tokio::select! {
                    biased;
                    Some(signal) = chosen.next() => {
                        if let Ok((of, key)) = signal.body().deserialize::<(u32, String)>()
                            && of == id
                        {
                            break if key == ALLOW {
                                Answer::Allowed
                            } else {
                                Answer::Denied(Denial::Person)
                            };
                        }
                    }
                    Some(signal) = closed.next() => {
                        if let Ok((of, _)) = signal.body().deserialize::<(u32, u32)>()
                            && of == id
                        {
                            break Answer::Denied(Denial::Person);
                        }
                    }
                    () = connection.closed() => break Answer::Denied(Denial::Unable),
                }
            }
        };
        let answer = tokio::time::timeout(self.patience, waiting).await;
        let answer = answer.unwrap_or(Answer::Denied(Denial::Late));
        // One that has an answer does not stay; it may have closed itself.
        let _ = notifications.call_noreply("CloseNotification", &(id,)).await;
        Ok(answer)
    }

    async fn notify(
        &self,
        notifications: &Proxy<'_>,
        question: &Question,
        marked: bool,
    ) -> zbus::Result<u32> {
        let body = if marked { escaped(&question.body) } else { question.body.clone() };
        let mut hints: HashMap<&str, Variant<'_>> = HashMap::new();
        // Critical: it may stay until it is answered, and shows while others are held back.
        hints.insert("urgency", Variant::from(2_u8));
        hints.insert("transient", Variant::from(true));
        let milliseconds = i32::try_from(self.patience.as_millis()).unwrap_or(i32::MAX);
        let arguments = (
            "macrohard-hypervisor",
            0_u32,
            "dialog-question",
            format!("{}: {}", question.vm, question.summary),
            body,
            vec![ALLOW, "Allow", DENY, "Deny"],
            hints,
            milliseconds,
        );
        notifications.call("Notify", &arguments).await
    }
}

/// Text as the markup of notifications has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
#[path = "../../../tests/support/notes.rs"]
mod notes;

#[cfg(test)]
mod tests {
    use super::notes::{Notes, Program, bus, there};
    use super::*;
    use tokio::runtime::Runtime;

    /// A session with a bus, and one to run the test's own questions.
    struct Session {
        folder: tempfile::TempDir,
        _bus: Program,
        runtime: Runtime,
    }

    impl Session {
        fn new() -> Option<Self> {
            if !there("dbus-daemon") {
                return None;
            }
            let folder = tempfile::tempdir().unwrap();
            let bus = bus(folder.path());
            Some(Self { folder, _bus: bus, runtime: Runtime::new().unwrap() })
        }

        fn asking(&self, patience: Duration) -> Asking {
            let address = format!("unix:path={}/bus", self.folder.path().display());
            Asking { patience, ..Asking::new(Arc::new(Bus::at(&address))) }
        }
    }

    fn question(vm: &str) -> Question {
        Question { vm: vm.into(), summary: "paste?".into(), body: "a <b>&".into() }
    }

    #[test]
    fn what_the_person_chooses_is_the_answer() {
        for (key, answer) in [(ALLOW, Answer::Allowed), (DENY, Answer::Denied(Denial::Person))] {
            let Some(session) = Session::new() else { return };
            let notes = Notes::serve(session.folder.path());
            notes.answer(Some(key));
            let asking = session.asking(PATIENCE);
            assert_eq!(session.runtime.block_on(asking.ask(question("vm"))), answer);
            let [note] = &notes.all()[..] else { panic!("{:?}", notes.all()) };
            assert_eq!((&*note.summary, &*note.body), ("vm: paste?", "a &lt;b&gt;&amp;"));
        }
    }

    #[test]
    fn a_question_that_is_not_answered_is_denied_and_a_vm_has_one_at_a_time() {
        let Some(session) = Session::new() else { return };
        let notes = Notes::serve(session.folder.path());
        let asking = session.asking(Duration::from_millis(300));
        let both = async { tokio::join!(asking.ask(question("vm")), asking.ask(question("vm"))) };
        let (first, second) = session.runtime.block_on(both);
        assert_eq!(first, Answer::Denied(Denial::Late));
        assert_eq!(second, Answer::Denied(Denial::Busy));
        // Waved away.
        let asking = session.asking(PATIENCE);
        let waving = std::thread::spawn(move || {
            let note = notes.wait_for("other: paste?");
            notes.dismiss(note.id);
            notes
        });
        let answer = session.runtime.block_on(asking.ask(question("other")));
        assert_eq!(answer, Answer::Denied(Denial::Person));
        waving.join().unwrap();
    }

    #[test]
    fn without_a_desktop_everything_is_denied() {
        let runtime = Runtime::new().unwrap();
        let nowhere = Asking::new(Arc::new(Bus::at("unix:path=/nonexistent/bus")));
        assert_eq!(runtime.block_on(nowhere.ask(question("vm"))), Answer::Denied(Denial::Unable));
        let Some(session) = Session::new() else { return };
        let asking = session.asking(PATIENCE);
        let answer = session.runtime.block_on(asking.ask(question("vm")));
        assert_eq!(answer, Answer::Denied(Denial::Unable));
    }
}
