//! Starting an application as its desktop file says.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use proto::v1::LaunchRequest;
use tonic::Status;

use super::application::{MAIN, action_group};
use super::bus::{Ask, NotAsked, ask};
use super::catalog::{Known, LONGEST_FILE};
use super::exec::{Facts, Line, Takes};
use super::file;
use super::keyfile::{Group, KeyFile};
use super::session::Session;
use super::start::start;
use super::targets::{self, Target};

/// How long a file of the host may take to appear: its share may just be on its way.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Starts an application, or asks one that runs; gives its process id, 0 when it was asked.
///
/// # Errors
/// It cannot be started, or not with these targets.
pub(super) async fn launch(
    request: LaunchRequest,
    known: &Known,
    session: &Session,
    languages: &[String],
) -> Result<u32, Status> {
    let id = request.application.as_str();
    let gone = |error| Status::not_found(format!("application {id:?}: {error}"));
    let bytes = file::read(&known.path, LONGEST_FILE).map_err(gone)?;
    let desktop_file = KeyFile::parse(&bytes);
    let main = desktop_file
        .group(MAIN)
        .ok_or_else(|| Status::not_found(format!("application {id:?} is gone")))?;
    let group = match request.action.as_str() {
        "" => main,
        action => main
            .list("Actions")
            .contains(&request.action)
            .then(|| action_group(&desktop_file, action))
            .flatten()
            .ok_or_else(|| Status::not_found(format!("{id:?} has no action {action:?}")))?,
    };
    if request.targets.len() > targets::MOST {
        return Err(Status::invalid_argument(format!(
            "{} targets; allowed: {}",
            request.targets.len(),
            targets::MOST
        )));
    }
    let home = session.home();
    let mut targets = Vec::new();
    for target in request.targets {
        targets.push(Target::check(target, &home)?);
    }
    appear(&targets).await?;

    // An action over D-Bus takes no targets.
    if main.flag("DBusActivatable") && (request.action.is_empty() || targets.is_empty()) {
        let urls = targets.iter().map(Target::url).collect::<Result<Vec<_>, _>>()?;
        let asked = match request.action.as_str() {
            "" if urls.is_empty() => Ask::Activate,
            "" => Ask::Open(&urls),
            action => Ask::Action(action),
        };
        match ask(session, id, asked).await {
            Ok(()) => return Ok(0),
            Err(silent @ NotAsked::Silent) => {
                return Err(Status::deadline_exceeded(silent.to_string()));
            }
            Err(nobody) => tracing::debug!(id, %nobody, "not asked over D-Bus"),
        }
    }
    let name = languages.iter().find_map(|language| main.translated("Name", language));
    let name = name.or_else(|| main.text("Name")).unwrap_or_default();
    let facts = Facts { name: &name, icon: &known.icon, file: &known.path };
    let commands = commands(group, &facts, &targets)?;
    let folder = folder(main, session)?;
    let terminal = if main.flag("Terminal") { terminal(session)? } else { Vec::new() };
    let mut first = None;
    for command in commands {
        let mut command = command.into_iter();
        let program = command.next().unwrap_or_default();
        let found = session.program(&program).ok_or_else(|| {
            Status::failed_precondition(format!("the program {program:?} is not installed"))
        })?;
        let arguments: Vec<OsString> =
            terminal.iter().cloned().chain([found.into_os_string()]).chain(command).collect();
        let pid = start(id, &arguments, &folder, session)
            .await
            .map_err(|error| Status::internal(format!("cannot run {program:?}: {error}")))?;
        first.get_or_insert(pid);
    }
    Ok(first.unwrap_or_default())
}

/// The programs that the Exec key asks for.
fn commands(
    group: Group<'_>,
    facts: &Facts<'_>,
    targets: &[Target],
) -> Result<Vec<Vec<OsString>>, Status> {
    let line = group.text("Exec").unwrap_or_default();
    let line: Line = line.parse().map_err(|error| {
        Status::failed_precondition(format!("its Exec key cannot be used: {error}"))
    })?;
    let takes = line.takes();
    if takes == Takes::Nothing && !targets.is_empty() {
        return Err(Status::failed_precondition("the application opens nothing"));
    }
    let arguments: Result<Vec<OsString>, Status> =
        targets.iter().map(|target| target.argument(takes)).collect();
    Ok(line.commands(facts, &arguments?))
}

/// The Path key, or the user's home.
fn folder(main: Group<'_>, session: &Session) -> Result<PathBuf, Status> {
    let folder = main.text("Path").map_or_else(|| session.home(), PathBuf::from);
    if folder.is_absolute() && folder.is_dir() {
        return Ok(folder);
    }
    Err(Status::failed_precondition(format!("there is no folder {}", folder.display())))
}

/// What runs a program in a terminal, up to the program's name: the user's choice, else Debian's
/// (Policy, section 11.8.3).
fn terminal(session: &Session) -> Result<Vec<OsString>, Status> {
    let own = session.get("TERMINAL").and_then(|name| session.program(name));
    let terminal = own.or_else(|| session.program(OsStr::new("x-terminal-emulator")));
    let terminal = terminal.ok_or_else(|| {
        Status::failed_precondition(
            "it runs in a terminal, and the guest has no x-terminal-emulator",
        )
    })?;
    Ok(vec![terminal.into_os_string(), "-e".into()])
}

/// Waits until the host's files are there.
async fn appear(targets: &[Target]) -> Result<(), Status> {
    for target in targets {
        let Target::File { path, shared: true } = target else { continue };
        let wait = async {
            while tokio::fs::metadata(path).await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .map_err(|_| Status::failed_precondition(format!("{} is not there", path.display())))?;
    }
    Ok(())
}
