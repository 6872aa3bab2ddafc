//! The session's applications: what there is, their icons, and starting one.
//!
//! A look at the folders of desktop files ([`catalog`]) gives the list. It is told to the host when it
//! has changed; what could change it is watched ([`watch`]) from before the look on. Everything that is
//! read may be broken or hostile to the agent: any program of the user can write it.

pub mod application;
mod bus;
mod catalog;
pub mod exec;
mod file;
mod folders;
mod image;
pub mod keyfile;
mod launch;
mod session;
mod start;
mod targets;
mod theme;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::v1;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::parts::Connection;
use catalog::{Catalog, Omissions};
use session::Session;
use watch::{Changes, Watch};

pub use start::launched_as;

/// The host's languages that count, as the protocol says: how many, and of how many bytes.
const MOST_LANGUAGES: usize = 8;
const LONGEST_LANGUAGE: usize = 32;
/// How long the host may take to take a list.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests for the list that wait.
const MOST_WAITING: usize = 8;

/// Somebody who wants the list told again, and hears when it was.
type Again = oneshot::Sender<Result<(), Status>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Applications {
    /// The number of the last list.
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last look.
    catalog: Option<Arc<Catalog>>,
    languages: Vec<String>,
    /// Where to ask for the list to be told again, while there is a connection.
    again: Option<mpsc::Sender<Again>>,
    /// What was left out as the log last had it.
    logged: (Omissions, usize),
}

impl Applications {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the host the list, and again whenever it changes.
    pub async fn tell(&self, connection: &Connection) {
        let (again, mut asked) = mpsc::channel(MOST_WAITING);
        {
            let mut state = self.state();
            state.again = Some(again);
            state.languages = languages(&connection.reply.languages);
        }
        let mut told = None;
        let mut waiting: Vec<Again> = Vec::new();
        loop {
            let (catalog, mut changes) = self.look().await;
            if told.as_ref() != Some(&catalog.digest) || !waiting.is_empty() {
                let answer = self.send(connection, &catalog).await;
                told = answer.is_ok().then(|| catalog.digest.clone());
                for who in waiting.drain(..) {
                    let _ = who.send(answer.clone());
                }
            }
            drop(catalog);
            tokio::select! {
                () = changes.next() => {}
                Some(who) = asked.recv() => waiting.push(who),
            }
            while let Ok(who) = asked.try_recv() {
                waiting.push(who);
            }
        }
    }

    /// Looks at everything, and remembers what was found.
    async fn look(&self) -> (Arc<Catalog>, Changes) {
        let session = Session::now().await;
        let languages = self.state().languages.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let mut watch = Watch::new();
            let catalog = Catalog::look(&session, &languages, &mut watch);
            (Arc::new(catalog), watch)
        });
        let (catalog, watch) = match looking.await {
            Ok(found) => found,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        };
        let mut state = self.state();
        state.catalog = Some(Arc::clone(&catalog));
        let left_out = (catalog.omissions.clone(), catalog.parts_left_out);
        if state.logged != left_out {
            for (why, count) in &left_out.0 {
                tracing::info!(count, %why, "desktop files are left out");
            }
            if left_out.1 > 0 {
                tracing::info!(count = left_out.1, "parts of applications are left out");
            }
            state.logged = left_out;
        }
        (catalog, watch.changes())
    }

    async fn send(&self, connection: &Connection, catalog: &Catalog) -> Result<(), Status> {
        let list = v1::ApplicationList {
            generation: self.generation.fetch_add(1, Ordering::Relaxed) + 1,
            digest: catalog.digest.clone(),
            applications: catalog.applications.clone(),
        };
        let (generation, count) = (list.generation, list.applications.len());
        let mut host = connection.host.clone();
        let answer = tokio::time::timeout(PATIENCE, host.set_applications(list)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        match &answer {
            Ok(_) => tracing::debug!(generation, count, "the applications are told"),
            Err(status) => {
                tracing::warn!(
                    generation,
                    count,
                    reason = status.message(),
                    "the host does not take the applications"
                );
            }
        }
        answer.map(|_| ())
    }

    /// Tells it once more.
    ///
    /// # Errors
    /// The host does not take it.
    pub async fn resync(&self) -> Result<(), Status> {
        // Without a connection on which it is told there is nothing to repeat: a system agent's.
        let Some(again) = self.state().again.clone() else { return Ok(()) };
        let lost = || Status::unavailable("the connection has ended");
        let (who, told) = oneshot::channel();
        again.send(who).await.map_err(|_| lost())?;
        told.await.map_err(|_| lost())?
    }

    /// The last look, or a first one.
    async fn catalog(&self) -> Arc<Catalog> {
        let last = self.state().catalog.clone();
        match last {
            Some(catalog) => catalog,
            None => self.look().await.0,
        }
    }

    /// The icon of an application.
    ///
    /// # Errors
    /// There is none.
    pub async fn icon(&self, request: v1::IconRequest) -> Result<v1::IconReply, Status> {
        let (id, size) = (request.application, request.size);
        if !image::SIZES.contains(&size) {
            return Err(Status::invalid_argument(format!(
                "an icon of {size} pixels; allowed: 8 to 512"
            )));
        }
        let catalog = self.catalog().await;
        let files = catalog.known(&id).ok_or_else(|| unknown(&id))?.icon_files.clone();
        let icon = tokio::task::spawn_blocking(move || image::best(&files, size)).await;
        icon.ok().flatten().ok_or_else(|| {
            Status::not_found(format!("application {id:?} has no icon that can be sent"))
        })
    }

    /// Starts an application.
    ///
    /// # Errors
    /// There is none of this id, or it cannot be started.
    pub async fn launch(&self, request: v1::LaunchRequest) -> Result<v1::LaunchReply, Status> {
        let catalog = self.catalog().await;
        let known =
            catalog.known(&request.application).ok_or_else(|| unknown(&request.application))?;
        let languages = self.state().languages.clone();
        let session = Session::for_programs().await;
        let pid = launch::launch(request, known, &session, &languages).await?;
        Ok(v1::LaunchReply { pid })
    }
}

fn unknown(id: &str) -> Status {
    Status::not_found(format!("there is no application {id:?}"))
}

/// The host's languages, as far as they are names of such.
fn languages(said: &[String]) -> Vec<String> {
    let mut languages: Vec<String> = Vec::new();
    for language in said {
        let fits = (1..=LONGEST_LANGUAGE).contains(&language.len())
            && language.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_@-".contains(&byte));
        if fits && !languages.contains(language) && languages.len() < MOST_LANGUAGES {
            languages.push(language.clone());
        }
    }
    languages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_names_of_such() {
        let said = ["de_AT", "de", "de", "", "a]b", "x\n", "sr@latin", &"x".repeat(33)];
        assert_eq!(languages(&said.map(str::to_owned)), ["de_AT", "de", "sr@latin"]);
        let many: Vec<String> = (0..20).map(|number| format!("x{number}")).collect();
        assert_eq!(languages(&many).len(), 8);
    }
}
