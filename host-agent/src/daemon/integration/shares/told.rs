//! What the guest's system agent is told, and what it answers.

use super::State;
use crate::daemon::agents::{Agent, problem};
use crate::untrusted::Untrusted;
use definition::ShareKind;
use proto::v1::share::Way;
use proto::v1::{SetSharesRequest, Share, ShareDevice, ShareProblem};
use std::collections::BTreeMap;
use std::time::Duration;

/// Shares of one message, as the protocol says.
pub(super) const MOST_SHARES: usize = 64;
/// Longest reason of a problem, as the protocol says.
const LONGEST_REASON: usize = 512;
/// How long a guest may take to mount them all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a share is not mounted, by tag and user.
pub(super) type Problems = BTreeMap<(String, u32), String>;

/// What is to be mounted now, for each user, and how many of that there was no room for. Users in session come
/// first, and each has one share before anybody has two.
pub(super) fn request(state: &State) -> (SetSharesRequest, usize) {
    let mut kinds = Vec::new();
    for served in state.served.values() {
        let (wanted, port) = (&served.record.wanted, served.record.port);
        kinds.push((wanted.tag.as_str(), wanted.read_only, Way::Plan9Port(port)));
    }
    for share in state.devices.iter().filter(|share| !state.fallen.contains_key(&share.tag)) {
        let way = match share.kind {
            ShareKind::Plan9 => Way::Plan9Device(ShareDevice {}),
            ShareKind::VirtioFs => Way::VirtioFs(ShareDevice {}),
            ShareKind::Vsock => continue,
        };
        kinds.push((share.tag.as_str(), share.read_only, way));
    }
    let (in_session, others): (Vec<u32>, Vec<u32>) =
        state.all_users().into_iter().partition(|user| state.sessions.contains_key(user));
    let all = [in_session, others];
    let every = all.iter().flat_map(|users| {
        kinds.iter().flat_map(move |kind| users.iter().map(move |user| (kind, *user)))
    });
    let mut shares: Vec<Share> = every
        .map(|((tag, read_only, way), user)| Share {
            tag: (*tag).to_owned(),
            read_only: *read_only,
            user,
            way: Some(*way),
        })
        .collect();
    let left_out = shares.len().saturating_sub(MOST_SHARES);
    shares.truncate(MOST_SHARES);
    // The order says nothing; one of its own keeps equal requests equal.
    shares.sort_by(|a, b| (a.user, &a.tag).cmp(&(b.user, &b.tag)));
    (SetSharesRequest { shares }, left_out)
}

/// Notes which shares by device the guest cannot mount, whatever keeps it: these are served live from now on.
/// Whether there are new ones.
pub(super) fn fall_back(state: &mut State) -> bool {
    let before = state.fallen.len();
    for ((tag, _), reason) in &state.problems {
        if state.devices.iter().any(|share| share.tag == *tag) && !state.fallen.contains_key(tag) {
            state.fallen.insert(tag.clone(), reason.clone());
        }
    }
    state.fallen.len() > before
}

/// Tells the agent; why what is not mounted.
pub(super) async fn tell(agent: &Agent, request: SetSharesRequest) -> Result<Problems, String> {
    let asked: Vec<(String, u32)> =
        request.shares.iter().map(|share| (share.tag.clone(), share.user)).collect();
    let answered = tokio::time::timeout(PATIENCE, agent.client().set_shares(request)).await;
    match answered {
        Ok(Ok(reply)) => Ok(check(&asked, reply.into_inner().problems)),
        Ok(Err(status)) => Err(problem(status).to_string()),
        Err(_) => Err("the guest's agent does not answer".to_owned()),
    }
}

/// The problems of shares that there are; a guest may say anything.
fn check(asked: &[(String, u32)], problems: Vec<ShareProblem>) -> Problems {
    let mut found = Problems::new();
    for problem in problems.into_iter().take(MOST_SHARES) {
        let ShareProblem { tag, user, reason } = problem;
        let of = (tag, user);
        if asked.contains(&of) {
            found.insert(of, Untrusted::new(reason).shown(LONGEST_REASON));
        } else {
            tracing::warn!(user, "the guest's agent names a share that it was not told of");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_room_for_all_it_goes_to_those_in_session_in_turn() {
        let mut state = State::default();
        for number in 0..40 {
            state.devices.push(definition::Share {
                tag: format!("share-{number:02}"),
                path: "/tmp".into(),
                kind: ShareKind::Plan9,
                read_only: false,
            });
        }
        // Two in session with the highest numbers, and one who left.
        state.users.extend([1000, 2000, 3000]);
        state.sessions.insert(2000, "two".to_owned());
        state.sessions.insert(3000, "three".to_owned());
        let (request, left_out) = request(&state);
        let of = |user| request.shares.iter().filter(|share| share.user == user).count();
        assert_eq!((of(1000), of(2000), of(3000), left_out), (0, 32, 32, 56));
        state.sessions.remove(&3000);
        let (request, left_out) = super::request(&state);
        let of = |user| request.shares.iter().filter(|share| share.user == user).count();
        assert_eq!((of(2000), of(1000), of(3000), left_out), (40, 12, 12, 56));
    }

    #[test]
    fn a_device_that_cannot_be_mounted_is_not_asked_for_again() {
        let mut state = State::default();
        for (tag, kind) in [("fs", ShareKind::VirtioFs), ("plan9", ShareKind::Plan9)] {
            let tag = tag.to_owned();
            state.devices.push(definition::Share {
                tag,
                path: "/tmp".into(),
                kind,
                read_only: false,
            });
        }
        state.sessions.insert(1000, "one".to_owned());
        let reason = "the guest's kernel has no virtiofs".to_owned();
        state.problems.insert(("fs".to_owned(), 1000), reason.clone());
        state.problems.insert(("live".to_owned(), 1000), "another".to_owned());
        assert!(fall_back(&mut state) && !fall_back(&mut state));
        assert_eq!(state.fallen, BTreeMap::from([("fs".to_owned(), reason)]));
        let (request, _) = request(&state);
        let tags: Vec<_> = request.shares.iter().map(|share| share.tag.as_str()).collect();
        assert_eq!(tags, ["plan9"]);
        assert!(
            state.not_mounted("fs").is_some_and(|reason| reason.contains("about to be shared"))
        );
    }

    #[test]
    fn a_guest_says_nothing_of_shares_it_was_not_told_of_and_nothing_long() {
        let asked = [("home".to_owned(), 1000)];
        let problem = |tag: &str, user, reason: &str| ShareProblem {
            tag: tag.to_owned(),
            user,
            reason: reason.to_owned(),
        };
        let problems = vec![
            problem("home", 1000, &format!("no\x1b[2J{}", "x".repeat(5000))),
            problem("home", 1001, "other user"),
            problem("../x", 1000, "other tag"),
        ];
        let found = check(&asked, problems);
        assert_eq!(found.len(), 1);
        let reason = &found[&asked[0]];
        assert!(reason.starts_with("no\u{fffd}[2J") && reason.len() <= LONGEST_REASON);
        let flood = vec![problem("home", 1000, "a"); 100_000];
        assert_eq!(check(&asked, flood).len(), 1);
    }
}
