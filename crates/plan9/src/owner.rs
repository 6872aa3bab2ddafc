//! Whose files they seem to be in the guest: those of the host's user are the guest user's, and all others
//! nobody's.

use crate::message::{Fields, HEADER_BYTES, set};
use rustix::io::Errno;
use std::collections::BTreeSet;

/// The user and group of nobody (Linux `Documentation/admin-guide/sysctl/fs.rst`, overflowuid).
const NOBODY: u32 = 65534;
/// See the module.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The guest's user and group.
    guest: (u32, u32),
    host_user: u32,
    /// The one of new files first.
    host_groups: BTreeSet<u32>,
    host_group: u32,
}

impl Owner {
    /// The guest's user with this number and group stands for the user who runs this process.
    #[must_use]
    pub fn new(user: u32, group: u32) -> Self {
        let host_group = rustix::process::getegid().as_raw();
        let groups = rustix::process::getgroups().unwrap_or_default();
        let mut host_groups: BTreeSet<u32> =
            groups.into_iter().map(rustix::process::Gid::as_raw).collect();
        host_groups.insert(host_group);
        let host_user = rustix::process::geteuid().as_raw();
        Self { guest: (user, group), host_user, host_groups, host_group }
    }

    /// What the guest sees of a user and a group of the host.
    pub(crate) fn shown(&self, (user, group): (u32, u32)) -> (u32, u32) {
        (
            if user == self.host_user { self.guest.0 } else { NOBODY },
            if self.host_groups.contains(&group) { self.guest.1 } else { NOBODY },
        )
    }

    /// Translates the owner that a Tsetattr sets. A guest gives files to its own user only.
    pub(crate) fn take(&self, head: &mut [u8]) -> Result<(), Errno> {
        let mut fields = Fields::new(head);
        let mut word = || fields.word().map_err(|_| Errno::INVAL);
        let (_, valid, _) = (word()?, word()?, word()?);
        let (user, group) = (word()?, word()?);
        if valid & (set::USER | set::GROUP) == 0 {
            return Ok(());
        }
        if valid & set::USER != 0 && user != self.guest.0
            || valid & set::GROUP != 0 && group != self.guest.1
        {
            return Err(Errno::PERM);
        }
        // fid[4] valid[4] mode[4]
        let at = HEADER_BYTES + 12;
        head[at..at + 4].copy_from_slice(&self.host_user.to_le_bytes());
        head[at + 4..at + 8].copy_from_slice(&self.host_group.to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{kind, message};

    #[test]
    fn own_files_are_the_guest_users_and_others_nobodys() {
        let map = Owner::new(1000, 100);
        let (user, group) =
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert_eq!(map.shown((user, group)), (1000, 100));
        assert_eq!(map.shown((user + 1, 54321)), (NOBODY, NOBODY));
    }

    #[test]
    fn files_are_given_to_the_guests_own_user_only() {
        let map = Owner::new(1000, 100);
        let set = |valid: u32, user: u32, group: u32| {
            let words = [0, valid, 0o600, user, group, 0, 0];
            let body: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
            message(kind::SETATTR, 1, &body)
        };
        let mut own = set(6, 1000, 100);
        map.take(&mut own).unwrap();
        let user = rustix::process::geteuid().as_raw();
        assert_eq!(own[HEADER_BYTES + 12..HEADER_BYTES + 16], user.to_le_bytes());
        assert_eq!(map.take(&mut set(2, 0, 0)), Err(Errno::PERM));
        assert_eq!(map.take(&mut set(4, 1000, 0)), Err(Errno::PERM));
        let mut mode = set(1, 0, 0);
        let before = mode.clone();
        map.take(&mut mode).unwrap();
        assert_eq!(mode, before);
    }
}
