//! Selections that are this side's. They are taken with the server's own time (ICCCM 2.1), which is learnt
//! by changing a property.

use std::sync::Arc;

use tokio::sync::oneshot;
use x11rb::NONE;
use x11rb::protocol::xproto::{Atom, AtomEnum, ConnectionExt as _, PropMode, Timestamp};
use x11rb::wrapper::ConnectionExt as _;

use super::worker::{Step, Worker, is_before, place, said};
use crate::making::Making;
use crate::{FetchError, Offer, Selection};

/// A selection that is to be taken once the time is known.
pub(super) struct Acquiring {
    selection: Selection,
    offer: Offer,
    answer: oneshot::Sender<Result<(), FetchError>>,
}

/// A selection that is this side's.
pub(super) struct Owned {
    pub(super) making: Arc<Making>,
    pub(super) since: Timestamp,
}

impl Worker {
    pub(super) fn acquire(
        &mut self,
        selection: Selection,
        offer: Offer,
        answer: oneshot::Sender<Result<(), FetchError>>,
    ) -> Step {
        if offer.formats.is_empty() {
            let _ = answer.send(Err(FetchError::Failed("an offer of nothing".to_owned())));
            return Ok(());
        }
        self.acquiring.push(Acquiring { selection, offer, answer });
        let time = self.atoms.MACROHARD_TIME;
        self.connection.change_property8(
            PropMode::APPEND,
            self.window,
            time,
            AtomEnum::STRING,
            &[],
        )?;
        Ok(())
    }

    /// The server's time is known.
    pub(super) fn time_is(&mut self, now: Timestamp) -> Step {
        for Acquiring { selection, offer, answer } in std::mem::take(&mut self.acquiring) {
            let atom = self.atom_of(selection);
            self.connection.set_selection_owner(self.window, atom, now)?;
            let owner = said(self.connection.get_selection_owner(atom)?.reply())?;
            let taken = owner.is_some_and(|reply| reply.owner == self.window);
            if taken {
                self.owned[place(selection)] =
                    Some(Owned { making: Making::new(offer), since: now });
            }
            let _ = answer.send(if taken {
                Ok(())
            } else {
                Err(FetchError::Failed("another program took the selection meanwhile".to_owned()))
            });
        }
        Ok(())
    }

    /// Gives the selection up; not what another program has taken since, because the server knows the
    /// later time.
    pub(super) fn give_up(&mut self, selection: Selection) -> Step {
        for cancelled in self.acquiring.extract_if(.., |one| one.selection == selection) {
            let _ = cancelled.answer.send(Err(FetchError::Gone));
        }
        if let Some(owned) = self.owned[place(selection)].take() {
            self.expect_nobody(selection, owned.since);
            let atom = self.atom_of(selection);
            self.connection.set_selection_owner(NONE, atom, owned.since)?;
        }
        Ok(())
    }

    /// Another program took it.
    pub(super) fn lost_to_other(&mut self, selection: Atom, at: Timestamp) {
        let Some(selection) = self.selection_of(selection) else {
            return;
        };
        // This side may have taken it again before it heard of the loss.
        let owned = &mut self.owned[place(selection)];
        if owned.as_ref().is_some_and(|owned| !is_before(at, owned.since)) {
            *owned = None;
        }
    }
}
