//! Which mounts stay, go and come.

use super::mounts::Mount;

/// How the host's folder is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A 9P server at this port of the host.
    Port(u32),
    /// A 9P device with the tag.
    Plan9Device,
    /// A virtio-fs device with the tag.
    VirtioFs,
}

/// A share that is to be there for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) tag: String,
    pub(super) user: u32,
    pub(super) read_only: bool,
    pub(super) source: Source,
}

impl Entry {
    /// What the mount table calls its source.
    pub(super) fn source_name(&self) -> String {
        match self.source {
            Source::Port(port) => format!("macrohard-share:{port}"),
            Source::Plan9Device | Source::VirtioFs => self.tag.clone(),
        }
    }

    pub(super) fn file_system(&self) -> &'static str {
        match self.source {
            Source::Port(_) | Source::Plan9Device => "9p",
            Source::VirtioFs => "virtiofs",
        }
    }

    fn is(&self, mount: &Mount) -> bool {
        mount.place == Some((self.user, self.tag.clone()))
            && mount.source == self.source_name()
            && mount.file_system == self.file_system()
            && mount.read_only == self.read_only
            && mount.answers
    }
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) leave: Vec<Mount>,
    pub(super) mount: Vec<Entry>,
}

/// From what is there to what is wanted.
pub(super) fn plan(wanted: &[Entry], there: &[Mount]) -> Steps {
    let mut steps = Steps::default();
    let mut kept = Vec::new();
    // The one on top is what a path leads to; of two the lower is of no use.
    for mount in there.iter().rev() {
        let entry = wanted.iter().find(|entry| entry.is(mount));
        match entry {
            Some(entry) if !kept.contains(&entry) => kept.push(entry),
            _ => steps.leave.push(mount.clone()),
        }
    }
    steps.mount = wanted.iter().filter(|entry| !kept.contains(entry)).cloned().collect();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: &str, user: u32, port: u32) -> Entry {
        Entry { tag: tag.to_owned(), user, read_only: false, source: Source::Port(port) }
    }

    fn mounted(entry: &Entry) -> Mount {
        Mount {
            path: format!("/run/macrohard-guest/{}/{}", entry.user, entry.tag).into(),
            place: Some((entry.user, entry.tag.clone())),
            source: entry.source_name(),
            file_system: entry.file_system().to_owned(),
            read_only: entry.read_only,
            answers: true,
        }
    }

    #[test]
    fn what_is_right_stays_and_the_rest_goes_and_comes() {
        let (one, two) = (entry("one", 1000, 1), entry("two", 1000, 2));
        let other_user = entry("one", 1001, 1);
        let there = [mounted(&one), mounted(&other_user)];
        let steps = plan(&[one.clone(), two.clone()], &there);
        assert_eq!(steps.leave, [mounted(&other_user)]);
        assert_eq!(steps.mount, [two]);
        assert_eq!(plan(&[one], &there[..1]), Steps::default());
        assert_eq!(plan(&[], &there).leave.len(), 2);
    }

    #[test]
    fn what_has_changed_or_is_dead_is_mounted_anew() {
        let now = entry("one", 1000, 1);
        let was = [
            Entry { source: Source::Port(3), ..now.clone() },
            Entry { read_only: true, ..now.clone() },
            Entry { source: Source::VirtioFs, ..now.clone() },
        ];
        let dead = Mount { answers: false, ..mounted(&now) };
        for there in was.iter().map(mounted).chain([dead]) {
            let steps = plan(std::slice::from_ref(&now), std::slice::from_ref(&there));
            assert_eq!((steps.leave, steps.mount), (vec![there], vec![now.clone()]));
        }
        let twice = [mounted(&now), mounted(&now)];
        let steps = plan(std::slice::from_ref(&now), &twice);
        assert_eq!((steps.leave.len(), steps.mount.len()), (1, 0));
    }
}
