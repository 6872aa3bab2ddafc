//! What is shown of a VM: the agents' numbers, and the desktop's.

use agent_link::Role;
use std::collections::{BTreeMap, VecDeque};

/// Most of one VM at once; the oldest gives way.
const MOST: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// From an agent and its number to the desktop's number.
    numbers: BTreeMap<(Role, u32), u32>,
    /// In the order in which they came.
    order: VecDeque<(Role, u32)>,
}

impl Shown {
    /// The desktop's number for an agent's.
    pub(super) fn number(&self, role: Role, id: u32) -> Option<u32> {
        self.numbers.get(&(role, id)).copied()
    }

    /// Whose the desktop's number is.
    pub(super) fn owner(&self, number: u32) -> Option<(Role, u32)> {
        let found = self.numbers.iter().find(|(_, held)| **held == number);
        found.map(|(owner, _)| *owner)
    }

    /// Notes one that is shown. Returns the desktop's numbers of those to be closed for it.
    pub(super) fn add(&mut self, role: Role, id: u32, number: u32) -> Vec<u32> {
        let mut gone = Vec::new();
        match self.numbers.insert((role, id), number) {
            // It was closed between, and shown anew under another number.
            Some(before) if before != number => gone.push(before),
            Some(_) => {}
            None => self.order.push_back((role, id)),
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            gone.extend(self.numbers.remove(&oldest));
        }
        gone
    }

    pub(super) fn remove(&mut self, role: Role, id: u32) -> Option<u32> {
        self.order.retain(|held| *held != (role, id));
        self.numbers.remove(&(role, id))
    }

    pub(super) fn remove_all_of(&mut self, role: Role) -> Vec<u32> {
        self.order.retain(|(held, _)| *held != role);
        let (gone, kept) = std::mem::take(&mut self.numbers)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|((held, _), _)| *held == role);
        self.numbers = kept;
        gone.into_values().collect()
    }

    pub(super) fn remove_all(&mut self) -> Vec<u32> {
        self.order.clear();
        std::mem::take(&mut self.numbers).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u32; 0] = [];

    #[test]
    fn numbers_are_each_agents_own_and_go_with_it() {
        let (a, b) = (Role::User(1), Role::User(2));
        let mut shown = Shown::default();
        assert_eq!(shown.add(a, 1, 10), NONE);
        assert_eq!(shown.add(b, 1, 11), NONE);
        assert_eq!(shown.add(a, 1, 10), NONE);
        assert_eq!(shown.add(a, 1, 12), [10]);
        assert_eq!((shown.owner(12), shown.owner(10)), (Some((a, 1)), None));
        assert_eq!(shown.remove_all_of(a), [12]);
        assert_eq!(shown.number(a, 1), None);
        assert_eq!(shown.remove(b, 1), Some(11));
        assert!(shown.order.is_empty() && shown.remove_all().is_empty());
    }

    #[test]
    fn the_oldest_gives_way() {
        let (role, most) = (Role::User(1), u32::try_from(MOST).unwrap());
        let mut shown = Shown::default();
        for id in 1..=most {
            assert_eq!(shown.add(role, id, id + 1000), NONE);
        }
        assert_eq!(shown.add(role, most + 1, 5), [1001]);
        assert_eq!((shown.order.len(), shown.numbers.len()), (MOST, MOST));
        assert_eq!(shown.remove_all().len(), MOST);
    }
}
