//! `~/Host`, where a user finds the shares: a link to the folder with the mounts.

use std::io;
use std::path::Path;
use std::time::Duration;

use inotify::{Inotify, WatchMask};
use tokio_stream::StreamExt;

use super::ROOT;
use crate::user::User;

/// How long to wait at most before a folder is looked for again, should its watch tell nothing.
const PAUSE: Duration = Duration::from_secs(5);
/// The link's name.
const NAME: &str = "Host";

/// What became of the link.
#[derive(Debug, PartialEq, Eq)]
enum Link {
    Made,
    There,
    /// Something else has the name.
    Other,
}

/// Makes the link as soon as there are shares for the user of this session. Something else that has the
/// name is left alone.
pub async fn link_home() {
    let user = match User::own() {
        Ok(user) => user,
        Err(error) => return tracing::warn!(%error, "who runs this, for ~/{NAME}"),
    };
    let mounts = Path::new(ROOT).join(user.number.to_string());
    while !mounts.exists() {
        if let Err(error) = something_new(&mounts).await {
            tracing::debug!(%error, "{} is not watched", mounts.display());
            tokio::time::sleep(PAUSE).await;
        }
    }
    match link(&user.home, &mounts) {
        Ok(Link::Made) => tracing::info!("~/{NAME} leads to the host's folders"),
        Ok(Link::There) => {}
        Ok(Link::Other) => {
            tracing::warn!("~/{NAME} is something else: shares are at {}", mounts.display());
        }
        Err(error) => tracing::warn!(%error, "~/{NAME} cannot be made"),
    }
}

/// Waits until something is made in the lowest folder there is on the way to `path`.
async fn something_new(path: &Path) -> io::Result<()> {
    let lowest = || path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let folder = lowest();
    let inotify = Inotify::init()?;
    inotify.watches().add(folder, WatchMask::CREATE | WatchMask::MOVED_TO)?;
    if lowest() != folder {
        // It came before it was watched for.
        return Ok(());
    }
    let mut events = inotify.into_event_stream([0; 1024])?;
    let _ = tokio::time::timeout(PAUSE, events.next()).await;
    Ok(())
}

fn link(home: &Path, mounts: &Path) -> io::Result<Link> {
    let path = home.join(NAME);
    match std::os::unix::fs::symlink(mounts, &path) {
        Ok(()) => Ok(Link::Made),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = std::fs::read_link(&path).is_ok_and(|to| to == mounts);
            Ok(if there { Link::There } else { Link::Other })
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_that_is_made_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let waiting = path.clone();
        let seen = tokio::spawn(async move {
            while !waiting.exists() {
                something_new(&waiting).await.unwrap();
            }
        });
        tokio::task::yield_now().await;
        std::fs::create_dir(folder.path().join("a")).unwrap();
        tokio::task::yield_now().await;
        std::fs::create_dir(&path).unwrap();
        seen.await.unwrap();
    }

    #[test]
    fn the_link_is_made_once_and_nothing_else_is_touched() {
        let home = tempfile::tempdir().unwrap();
        let mounts = Path::new("/run/macrohard-guest/1000");
        assert_eq!(link(home.path(), mounts).unwrap(), Link::Made);
        assert_eq!(link(home.path(), mounts).unwrap(), Link::There);
        assert_eq!(std::fs::read_link(home.path().join(NAME)).unwrap(), mounts);
        std::fs::remove_file(home.path().join(NAME)).unwrap();
        std::fs::create_dir(home.path().join(NAME)).unwrap();
        assert_eq!(link(home.path(), mounts).unwrap(), Link::Other);
        assert!(home.path().join(NAME).is_dir());
    }
}
