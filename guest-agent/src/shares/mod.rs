//! Folders of the host, mounted for the users of the guest.
//!
//! Each user has a folder `/run/macrohard-guest/UID`, which nobody else may enter, with one mount for each
//! share; its session's agent makes `~/Host` a link to it ([`link_home`]). The mounts are the kernel's and
//! outlive the agent, which finds them again in `/proc/self/mountinfo` ([`mounts`]).

mod home;
mod mount;
mod mounts;
mod plan;
mod way;

pub use home::link_home;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use agent_link::{Address, Proof};
use proto::v1;
use tonic::Status;

use plan::{Entry, Source};
use way::Host;

/// Where the mounts are.
const ROOT: &str = "/run/macrohard-guest";
/// Shares of one message, as the protocol says.
const MOST_SHARES: usize = 64;
/// Longest reason, as the protocol says.
const LONGEST_REASON: usize = 512;
/// The longest tag.
const LONGEST_TAG: usize = 31;

/// See the module.
#[derive(Debug, Default)]
pub struct Shares {
    host: OnceLock<Arc<Host>>,
    /// Held while mounts come and go.
    turn: tokio::sync::Mutex<()>,
}

impl Shares {
    /// Where the host is and what it is shown.
    pub fn come_from(&self, host: &Address, proof: &Proof) {
        let host = Host { address: host.clone(), proof: proof.clone() };
        // The first stays: there is one host.
        let _ = self.host.set(Arc::new(host));
    }

    /// Mounts and unmounts until exactly `request` is there; says what could not be.
    ///
    /// # Errors
    /// The request is wrong.
    pub async fn set(
        &self,
        request: v1::SetSharesRequest,
    ) -> Result<Vec<v1::ShareProblem>, Status> {
        let wanted = check(request)?;
        let host = self.host.get();
        let host = host.ok_or_else(|| Status::failed_precondition("no host to mount from"))?;
        let _turn = self.turn.lock().await;
        let mut problems = Vec::new();
        let mut report = |entry: &Entry, reason: &str| {
            tracing::warn!(tag = entry.tag, user = entry.user, reason, "a share");
            let end = (0..=reason.len().min(LONGEST_REASON))
                .rev()
                .find(|end| reason.is_char_boundary(*end));
            problems.push(v1::ShareProblem {
                tag: entry.tag.clone(),
                user: entry.user,
                reason: reason[..end.unwrap_or(0)].to_owned(),
            });
        };
        let there = mount::there(Path::new(ROOT)).await;
        let there = there.map_err(|error| Status::internal(format!("what is mounted: {error}")))?;
        let steps = plan::plan(&wanted, &there);
        for mount in steps.leave {
            if let Err(error) = mount::leave(mount.clone()).await {
                tracing::warn!(path = %mount.path.display(), %error, "a mount stays");
            }
        }
        for entry in steps.mount {
            match mount::mount(host, entry.clone()).await {
                Ok(()) => tracing::info!(tag = entry.tag, user = entry.user, "mounted"),
                Err(reason) => report(&entry, &reason),
            }
        }
        Ok(problems)
    }
}

/// The host is trusted, but a mistake of it must not become a path.
fn check(request: v1::SetSharesRequest) -> Result<Vec<Entry>, Status> {
    if request.shares.len() > MOST_SHARES {
        let count = request.shares.len();
        return Err(Status::invalid_argument(format!("{count} shares; allowed: {MOST_SHARES}")));
    }
    let mut seen = BTreeSet::new();
    let mut wanted = Vec::new();
    for share in request.shares {
        let v1::Share { tag, read_only, user, way } = share;
        let valid = (1..=LONGEST_TAG).contains(&tag.len())
            && !tag.starts_with('.')
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !valid {
            return Err(Status::invalid_argument(format!("the tag {tag:?} cannot be a folder")));
        }
        if !seen.insert((user, tag.clone())) {
            return Err(Status::invalid_argument(format!("the tag {tag:?} is there twice")));
        }
        let source = match way {
            Some(v1::share::Way::Plan9Port(port)) => Source::Port(port),
            Some(v1::share::Way::Plan9Device(_)) => Source::Plan9Device,
            Some(v1::share::Way::VirtioFs(_)) => Source::VirtioFs,
            None => return Err(Status::invalid_argument(format!("no way to share {tag:?}"))),
        };
        wanted.push(Entry { tag, user, read_only, source });
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::share::Way;

    fn share(tag: &str, way: Option<Way>) -> v1::Share {
        v1::Share { tag: tag.to_owned(), read_only: false, user: 1000, way }
    }

    #[test]
    fn what_cannot_be_a_folder_is_refused() {
        let good = || share("a-b_c.d", Some(Way::Plan9Port(7)));
        let request = |shares| v1::SetSharesRequest { shares };
        assert_eq!(check(request(vec![good()])).unwrap().len(), 1);
        for tag in ["", ".", "..", ".a", "a/b", "a b", "ä", &"x".repeat(32)] {
            let bad = share(tag, Some(Way::Plan9Port(7)));
            assert!(check(request(vec![bad])).is_err(), "{tag:?}");
        }
        assert!(check(request(vec![good(), good()])).is_err());
        assert!(check(request(vec![share("a", None)])).is_err());
        assert!(check(request(vec![good(); MOST_SHARES + 1])).is_err());
    }

    #[tokio::test]
    async fn an_agent_without_a_host_mounts_nothing() {
        let empty = v1::SetSharesRequest::default();
        let refused = Shares::default().set(empty).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    }
}
