//! The commands that are a question to the daemon and its answer.

use super::arguments::{
    AgentCommand, Command, CreateArguments, DaemonCommand, DeleteArguments, ListArguments,
    LogsArguments, StopArguments, UpdateAgentArguments,
};
use super::machine::{DefaultNetwork, NewDisks, definition};
use super::{console as terminal_console, output};
use crate::client::{Daemon, connect, connect_if_running};
use crate::problem::{Kind, Problem};
use definition::Places;
use proto::v1;
use std::future::Future;
use std::io::{IsTerminal, Write};

/// Runs `work` on a small runtime.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("cannot start: {error}")))?
        .block_on(work)
}

/// Connects to the daemon, starting it when needed.
pub(super) async fn daemon() -> Result<Daemon, Problem> {
    connect(&Places::from_environment()?).await
}

fn request(name: String) -> v1::VmRequest {
    v1::VmRequest { name }
}

pub(super) fn dispatch(command: Command) -> Result<(), Problem> {
    block_on(async {
        match command {
            Command::Create(arguments) => create(arguments).await,
            Command::Start(name) => start(name.name).await,
            Command::List(arguments) => list(&arguments).await,
            Command::Stop(arguments) => stop(arguments).await,
            Command::Pause(name) => {
                daemon().await?.pause(request(name.name)).await?;
                Ok(())
            }
            Command::Resume(name) => {
                daemon().await?.resume(request(name.name)).await?;
                Ok(())
            }
            Command::Reset(name) => {
                daemon().await?.reset(request(name.name)).await?;
                Ok(())
            }
            Command::Status(arguments) => {
                let vm = daemon().await?.status(request(arguments.name)).await?;
                let vm = vm.into_inner();
                if arguments.json {
                    output::print_json(&output::VmView::from(&vm))
                } else {
                    output::print(&output::status(&vm))
                }
            }
            Command::Stats(arguments) => {
                let reply = daemon().await?.statistics(request(arguments.name)).await?;
                let reply = reply.into_inner();
                if arguments.json {
                    output::print_json(&output::StatisticsView::from(&reply))
                } else {
                    output::print(&output::statistics(&reply))
                }
            }
            Command::Delete(arguments) => delete(arguments).await,
            Command::Logs(arguments) => logs(arguments).await,
            Command::Watch(arguments) => watch(arguments.json).await,
            Command::Agent(AgentCommand::Update(arguments)) => update_agent(arguments).await,
            Command::Daemon(command) => look_after_daemon(command).await,
            // The caller has handled the commands that need no daemon.
            other => Err(Problem::failed(format!("{other:?} is not for the daemon"))),
        }
    })
}

async fn create(arguments: CreateArguments) -> Result<(), Problem> {
    let definition = definition(&arguments.name, &arguments.machine, DefaultNetwork::Passt)?;
    let definition = definition.to_toml()?;
    let disks = NewDisks::make(&arguments.machine)?;
    daemon().await?.create(v1::CreateRequest { definition }).await?;
    disks.keep();
    output::print(&format!(
        "created VM \"{name}\"; `start \"{name}\"` starts it\n",
        name = arguments.name
    ))
}

async fn start(name: String) -> Result<(), Problem> {
    let reply = daemon().await?.start(request(name)).await?.into_inner();
    let vm = reply.vm.unwrap_or_default();
    eprintln!("{}", reply.engine_choice);
    let mut text = format!("VM \"{}\" is {}", vm.name, output::state_name(vm.state));
    if !vm.ending.is_empty() {
        text.push_str(&format!(": {}", vm.ending));
    }
    output::print(&(text + "\n"))
}

async fn list(arguments: &ListArguments) -> Result<(), Problem> {
    let all = arguments.all;
    let list = daemon().await?.list(v1::ListRequest { all }).await?;
    let list = list.into_inner();
    if arguments.json {
        return output::print_json(&output::ListView::from(&list));
    }
    for broken in &list.broken {
        eprintln!("warning: {}\n  in {}", broken.message, broken.path);
    }
    if list.vms.is_empty() {
        eprintln!(
            "{}",
            if all {
                "there are no VMs; `create` makes one"
            } else {
                "no VM runs; `list --all` shows all"
            }
        );
    }
    output::print(&output::list(&list))
}

async fn stop(arguments: StopArguments) -> Result<(), Problem> {
    let vm = daemon()
        .await?
        .stop(v1::StopRequest {
            name: arguments.name,
            force: arguments.force,
            timeout: arguments.timeout,
        })
        .await?
        .into_inner();
    output::print(&format!("VM \"{}\" has ended: {}\n", vm.name, vm.ending))
}

async fn delete(arguments: DeleteArguments) -> Result<(), Problem> {
    let name = arguments.name;
    let mut daemon = daemon().await?;
    // Asked for its errors: there is nothing to confirm about a VM that is not there.
    match daemon.definition(request(name.clone())).await {
        Err(status) if status.code() == tonic::Code::NotFound => return Err(status.into()),
        _ => {}
    }
    if !arguments.yes && !confirm(&name)? {
        return Err(Problem::failed(format!("VM \"{name}\" was not deleted")));
    }
    daemon.delete(request(name.clone())).await?;
    output::print(&format!("deleted VM \"{name}\"\n"))
}

async fn update_agent(arguments: UpdateAgentArguments) -> Result<(), Problem> {
    let request = v1::UpdateAgentRequest {
        name: arguments.name,
        force: arguments.force,
        patience: arguments.wait,
    };
    let vm = daemon().await?.update_agent(request).await?.into_inner();
    let system = vm.agents.iter().find(|agent| agent.user.is_empty());
    let version = system.map_or("gone again", |agent| agent.program.as_str());
    output::print(&format!("the agent of VM \"{}\" is {version}\n", vm.name))
}

fn confirm(name: &str) -> Result<bool, Problem> {
    if !std::io::stdin().is_terminal() {
        return Err(Problem::usage(format!("VM \"{name}\" is deleted only after a question"))
            .advise("there is no terminal to ask on: add --yes"));
    }
    eprint!("Delete VM \"{name}\", its firmware variables and its logs? Its disks stay. [y/N] ");
    let failed = |error| Problem::failed(format!("cannot ask: {error}"));
    std::io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn logs(arguments: LogsArguments) -> Result<(), Problem> {
    let kind = if arguments.console { v1::LogKind::Console } else { v1::LogKind::Vm };
    let mut chunks = daemon()
        .await?
        .logs(v1::LogsRequest { name: arguments.name, kind: kind.into(), follow: arguments.follow })
        .await?
        .into_inner();
    let mut out = std::io::stdout();
    while let Some(chunk) = chunks.message().await? {
        match out.write_all(&chunk.data).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(|error| Problem::failed(format!("cannot print: {error}")))?,
        }
    }
    Ok(())
}

async fn watch(json: bool) -> Result<(), Problem> {
    let mut events = daemon().await?.watch(v1::WatchRequest {}).await?.into_inner();
    while let Some(event) = events.message().await? {
        if json {
            let line =
                serde_json::to_string(&output::EventView::from(&event)).map_err(Problem::failed)?;
            output::print(&(line + "\n"))?;
        } else {
            let state = output::state_name(event.state);
            output::print(&format!("{}: {state}: {}\n", event.name, event.message))?;
        }
    }
    Err(Problem::new(Kind::Unavailable, "the daemon has ended"))
}

async fn look_after_daemon(command: DaemonCommand) -> Result<(), Problem> {
    let places = Places::from_environment()?;
    let running = connect_if_running(&places).await?;
    match command {
        DaemonCommand::Status(arguments) => {
            let pid = match running {
                Some(mut daemon) => {
                    let reply = daemon
                        .handshake(v1::HandshakeRequest {
                            protocol: proto::PROTOCOL,
                            program: env!("CARGO_PKG_VERSION").to_owned(),
                        })
                        .await?;
                    Some(reply.into_inner().pid)
                }
                None => None,
            };
            let socket = places.daemon_socket();
            if arguments.json {
                return output::print_json(&serde_json::json!({
                    "running": pid.is_some(),
                    "pid": pid,
                    "socket": socket,
                    "log": places.daemon_log(),
                }));
            }
            match pid {
                Some(pid) => output::print(&format!(
                    "the daemon runs as process {pid} and listens on {}\n",
                    socket.display()
                )),
                None => output::print("no daemon runs; it starts when it is needed\n"),
            }
        }
        DaemonCommand::Stop => match running {
            Some(mut daemon) => {
                daemon.shutdown(v1::ShutdownRequest {}).await?;
                output::print("the daemon ends; running VMs go on\n")
            }
            None => output::print("no daemon runs\n"),
        },
    }
}

pub(super) fn console(name: &str) -> Result<(), Problem> {
    let reply = block_on(async {
        let reply = daemon().await?.console(request(name.to_owned())).await?;
        Ok(reply.into_inner())
    })?;
    terminal_console::attach(name, std::path::Path::new(&reply.socket))
}
