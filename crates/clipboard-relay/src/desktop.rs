//! Holding the connection to the own desktop: made when there is one, and anew when it has gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clipboard::{Backend, Connected, Offer, Offered, Source};
use tokio::sync::watch;

use crate::announcement::Announcement;
use crate::deliver::{Sent, Wanted, deliver};
use crate::display::connect;

/// Pause before the second try; doubled with each that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause. A session that begins waits no longer for its clipboard.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a display may take to say what is there already.
const PRESENT: Duration = Duration::from_secs(1);

/// What is done with a desktop.
pub trait Desk {
    /// It is there.
    fn connected(&self, backend: &Arc<dyn Backend>);
    /// It is not there, or not any more, for this reason.
    fn lost(&self, why: String);
    /// A program of it has copied something, or had done so before.
    fn copied(&self, offered: Offered, stands: bool);
    /// What makes the content of an announcement.
    fn source(&self, announcement: &Announcement) -> Arc<dyn Source>;
}

/// Shows on the desktop what is wanted there and tells what is copied on it, for ever.
pub async fn keep(desk: &impl Desk, wanted: watch::Receiver<Wanted>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match connect().await {
            Ok(connected) => {
                pause = FIRST_PAUSE;
                hold(desk, connected, wanted.clone()).await;
                desk.lost("the connection to the desktop was lost".to_owned());
            }
            Err(error) => desk.lost(error.to_string()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn hold(desk: &impl Desk, (backend, mut copies): Connected, wanted: watch::Receiver<Wanted>) {
    desk.connected(&backend);
    // What is there is heard before anything is put over it.
    let mut present = BTreeSet::new();
    let hearing = async {
        while present.len() < 2 {
            let Some(offered) = copies.recv().await else { break };
            let first = present.insert(offered.selection);
            desk.copied(offered, first);
        }
    };
    let _ = tokio::time::timeout(PRESENT, hearing).await;
    let showing = deliver(wanted, |announcement| show(desk, &backend, announcement));
    let hearing = async {
        while let Some(offered) = copies.recv().await {
            desk.copied(offered, false);
        }
    };
    tokio::select! {
        () = showing => {}
        () = hearing => {}
    }
}

async fn show(desk: &impl Desk, backend: &Arc<dyn Backend>, announcement: Announcement) -> Sent {
    let selection = announcement.selection;
    if announcement.formats.is_empty() {
        backend.clear(selection).await;
        return Sent::Done;
    }
    let source = desk.source(&announcement);
    let offer = Offer { formats: announcement.formats, secret: announcement.secret, source };
    if let Err(error) = backend.offer(selection, offer).await {
        tracing::debug!(%error, ?selection, "the desktop does not take an offer");
    }
    Sent::Done
}
