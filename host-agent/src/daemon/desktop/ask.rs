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
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicU32, Ordering};
    use zbus::object_server::SignalEmitter;

    /// A bus of the test's own.
    struct Daemon {
        process: Child,
        address: String,
    }

    impl Daemon {
        fn start() -> Option<Self> {
            let mut command = Command::new("dbus-daemon");
            command.args(["--session", "--nofork", "--print-address"]).stdout(Stdio::piped());
            let mut process = match command.spawn() {
                Ok(process) => process,
                Err(error) => {
                    eprintln!("SKIPPED: dbus-daemon cannot be started: {error}");
                    return None;
                }
            };
            let mut address = String::new();
            BufReader::new(process.stdout.take()?).read_line(&mut address).unwrap();
            Some(Self { process, address: address.trim().to_owned() })
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    /// Answers each question with the same.
    struct Person {
        answer: Option<&'static str>,
        shown: Arc<AtomicU32>,
        bodies: Arc<Mutex<Vec<String>>>,
    }

    #[zbus::interface(name = "org.freedesktop.Notifications")]
    impl Person {
        fn get_capabilities(&self) -> Vec<String> {
            vec!["actions".into(), "body-markup".into()]
        }

        #[allow(clippy::too_many_arguments, reason = "the specification's method")]
        async fn notify(
            &self,
            _application: String,
            _replaces: u32,
            _icon: String,
            summary: String,
            body: String,
            _actions: Vec<String>,
            _hints: HashMap<String, zbus::OwnedVariant>,
            _timeout: i32,
            #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        ) -> u32 {
            let id = self.shown.fetch_add(1, Ordering::SeqCst) + 1;
            self.bodies.lock().unwrap().push(format!("{summary}|{body}"));
            match self.answer {
                // Somebody else's first.
                Some(key) => {
                    Self::action_invoked(&emitter, id + 1000, ALLOW).await.unwrap();
                    Self::action_invoked(&emitter, id, key).await.unwrap();
                }
                None if id.is_multiple_of(2) => {
                    Self::notification_closed(&emitter, id, 2).await.unwrap();
                }
                None => {}
            }
            id
        }

        fn close_notification(&self, _id: u32) {}

        #[zbus(signal)]
        async fn action_invoked(
            emitter: &SignalEmitter<'_>,
            id: u32,
            key: &str,
        ) -> zbus::Result<()>;

        #[zbus(signal)]
        async fn notification_closed(
            emitter: &SignalEmitter<'_>,
            id: u32,
            reason: u32,
        ) -> zbus::Result<()>;
    }

    async fn person(
        daemon: &Daemon,
        answer: Option<&'static str>,
    ) -> (zbus::Connection, Arc<Mutex<Vec<String>>>) {
        let bodies = Arc::<Mutex<Vec<String>>>::default();
        let person = Person { answer, shown: Arc::default(), bodies: Arc::clone(&bodies) };
        let connection = zbus::connection::Builder::address(daemon.address.as_str())
            .serve_at(PATH, person)
            .name(SERVICE)
            .build()
            .await
            .unwrap();
        (connection, bodies)
    }

    fn question(vm: &str) -> Question {
        Question { vm: vm.into(), summary: "paste?".into(), body: "a <b>&".into() }
    }

    fn asking(daemon: &Daemon) -> Asking {
        let patience = Duration::from_millis(300);
        Asking { patience, ..Asking::new(Arc::new(Bus::at(&daemon.address))) }
    }

    #[tokio::test]
    async fn what_the_person_chooses_is_the_answer() {
        let Some(daemon) = Daemon::start() else { return };
        for (key, answer) in [(ALLOW, Answer::Allowed), (DENY, Answer::Denied(Denial::Person))] {
            let (_person, bodies) = person(&daemon, Some(key)).await;
            assert_eq!(asking(&daemon).ask(question("vm")).await, answer);
            assert_eq!(*bodies.lock().unwrap(), ["vm: paste?|a &lt;b&gt;&amp;"]);
        }
    }

    #[tokio::test]
    async fn a_question_that_is_not_answered_is_denied_and_a_vm_has_one_at_a_time() {
        let Some(daemon) = Daemon::start() else { return };
        let (_person, _) = person(&daemon, None).await;
        let asking = asking(&daemon);
        let (first, second) = tokio::join!(asking.ask(question("vm")), asking.ask(question("vm")));
        assert_eq!(first, Answer::Denied(Denial::Late));
        assert_eq!(second, Answer::Denied(Denial::Busy));
        // Waved away.
        assert_eq!(asking.ask(question("vm")).await, Answer::Denied(Denial::Person));
    }

    #[tokio::test]
    async fn without_a_desktop_everything_is_denied() {
        let nowhere = Asking::new(Arc::new(Bus::at("unix:path=/nonexistent/bus")));
        assert_eq!(nowhere.ask(question("vm")).await, Answer::Denied(Denial::Unable));
        let Some(daemon) = Daemon::start() else { return };
        assert_eq!(asking(&daemon).ask(question("vm")).await, Answer::Denied(Denial::Unable));
    }
}
