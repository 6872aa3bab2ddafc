//! Programs that the host runs through a real agent.

mod support;

use std::time::Duration;

use agent_link::Role;
use proto::v1::exec_ended::Ending::{Code, Signal};
use proto::v1::exec_input::Input;
use proto::v1::{ExecEndOfInput, ExecInput, ExecStart, TerminalSize};
use support::{Desk, PATIENCE, arguments, finish};
use tonic::Code as StatusCode;

fn input(input: Input) -> ExecInput {
    ExecInput { input: Some(input) }
}

/// Waits until the process with this number is `sleep` (`runs`), or is not any longer. One that has ended
/// may stay as a zombie where nobody collects it; it has no command line then, nor has one that just begins.
async fn wait_for_sleep(number: &[u8], runs: bool) {
    let number = std::str::from_utf8(number).unwrap().trim();
    let line = std::path::Path::new("/proc").join(number).join("cmdline");
    let is = || std::fs::read(&line).is_ok_and(|line| line.starts_with(b"sleep"));
    let waiting = async {
        while is() != runs {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the process neither comes nor goes");
}

#[tokio::test]
async fn a_program_gives_its_outputs_and_its_code() {
    let desk = Desk::new();
    let _agent = desk.agent("system");
    let mut agent = desk.connected(Role::System).await;
    let ran = agent.run(arguments(&["sh", "-c", "echo out; echo err >&2; exit 7"])).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
    assert_eq!(ran.ending, Some(Code(7)));
    let killed = agent.run(arguments(&["sh", "-c", "kill -TERM $$"])).await.unwrap();
    assert_eq!(killed.ending, Some(Signal(15)));
    let order = ExecStart {
        environment: vec![b"GREETING=hello there".to_vec()],
        folder: b"/usr/lib".to_vec(),
        ..arguments(&["sh", "-c", "echo $GREETING; pwd; echo $HOME"])
    };
    let home = guest_agent::user::User::own().unwrap().home;
    let said = format!("hello there\n/usr/lib\n{}\n", home.display());
    assert_eq!(agent.run(order).await.unwrap().out, said);
}

#[tokio::test]
async fn what_cannot_run_is_said_and_the_agent_goes_on() {
    let desk = Desk::new();
    let _agent = desk.agent("system");
    let mut agent = desk.connected(Role::System).await;
    let missing = agent.run(arguments(&["/no/such/program"])).await.unwrap_err();
    assert_eq!(missing.code(), StatusCode::NotFound);
    assert!(missing.message().contains("/no/such/program"), "{missing}");
    let many = agent.run(ExecStart { arguments: vec![vec![]; 2000], ..ExecStart::default() }).await;
    assert_eq!(many.unwrap_err().code(), StatusCode::InvalidArgument);
    let (inputs, mut outputs) = agent.start(arguments(&["cat"])).await.unwrap();
    inputs.send(input(Input::Signal(65_536))).await.unwrap();
    assert_eq!(finish(&mut outputs).await.unwrap_err().code(), StatusCode::InvalidArgument);
    assert_eq!(agent.run(arguments(&["true"])).await.unwrap().ending, Some(Code(0)));
}

#[tokio::test]
async fn more_than_any_buffer_goes_through_a_program_and_comes_back() {
    let desk = Desk::new();
    let _agent = desk.agent("system");
    let mut agent = desk.connected(Role::System).await;
    let (inputs, mut outputs) = agent.start(arguments(&["cat"])).await.unwrap();
    // More than pipes, channels and windows together hold: nothing is read until all is on its way.
    let pieces = 128;
    let feeding = tokio::spawn(async move {
        for count in 0..pieces {
            let byte = b'a' + (count % 26) as u8;
            inputs.send(input(Input::Stdin(vec![byte; 64 << 10]))).await.unwrap();
        }
        inputs.send(input(Input::EndOfInput(ExecEndOfInput {}))).await.unwrap();
        inputs
    });
    let ran = tokio::time::timeout(PATIENCE, finish(&mut outputs)).await.unwrap().unwrap();
    let _inputs = feeding.await.unwrap();
    assert_eq!((ran.out.len(), ran.ending), (pieces << 16, Some(Code(0))));
    assert!(
        ran.out
            .as_bytes()
            .chunks(64 << 10)
            .enumerate()
            .all(|(count, piece)| { piece.iter().all(|byte| *byte == b'a' + (count % 26) as u8) })
    );
}

#[tokio::test]
async fn an_agent_that_was_started_with_signals_ignored_starts_programs_that_take_them() {
    let desk = Desk::new();
    let agent = desk.agent_command("system");
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP INT QUIT TERM USR1 USR2; exec \"$0\" \"$@\""]);
    shell.arg(agent.as_std().get_program()).args(agent.as_std().get_args());
    let _agent = shell.kill_on_drop(true).spawn().unwrap();
    let mut agent = desk.connected(Role::System).await;
    let (_inputs, mut outputs) =
        agent.start(arguments(&["grep", "SigIgn", "/proc/self/status"])).await.unwrap();
    let ran = tokio::time::timeout(PATIENCE, finish(&mut outputs)).await.unwrap().unwrap();
    let ignored = ran.out.split_whitespace().last().unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    for number in [1, 2, 3, 10, 12, 15] {
        assert_eq!(ignored & 1 << (number - 1), 0, "signal {number}: {}", ran.out);
    }
}

#[tokio::test]
async fn a_signal_reaches_the_program_and_what_it_started() {
    let desk = Desk::new();
    let _agent = desk.agent("system");
    let mut agent = desk.connected(Role::System).await;
    let script = "sleep 1000 & trap 'echo caught; exit 3' INT; echo ready; wait";
    let (inputs, mut outputs) = agent.start(arguments(&["sh", "-c", script])).await.unwrap();
    for _ in 0..2 {
        outputs.message().await.unwrap().unwrap();
    }
    inputs.send(input(Input::Signal(2))).await.unwrap();
    let ran = tokio::time::timeout(PATIENCE, finish(&mut outputs)).await.unwrap().unwrap();
    assert_eq!((ran.out.as_str(), ran.ending), ("caught\n", Some(Code(3))));
}

#[tokio::test]
async fn a_program_and_its_children_end_with_the_call() {
    let desk = Desk::new();
    let _agent = desk.agent("system");
    let mut agent = desk.connected(Role::System).await;
    let script = "sleep 1000 & echo $!; wait";
    let (inputs, mut outputs) = agent.start(arguments(&["sh", "-c", script])).await.unwrap();
    outputs.message().await.unwrap().unwrap();
    let said = outputs.message().await.unwrap().unwrap();
    let Some(proto::v1::exec_output::Output::Stdout(child)) = said.output else {
        panic!("{said:?}");
    };
    wait_for_sleep(&child, true).await;
    drop((inputs, outputs));
    wait_for_sleep(&child, false).await;
}

#[tokio::test]
async fn a_terminal_has_a_size_that_follows_and_ends_like_one() {
    let desk = Desk::new();
    let _agent = desk.agent("system");
    let mut agent = desk.connected(Role::System).await;
    let terminal = Some(TerminalSize { columns: 91, rows: 17 });
    let script =
        "tty; stty size; stty -echo; echo ready; read line; stty size; echo \"[$line]\"; cat";
    let order = ExecStart { terminal, ..arguments(&["sh", "-c", script]) };
    let (inputs, mut outputs) = agent.start(order).await.unwrap();
    let mut said = String::new();
    while !said.contains("ready") {
        let output = outputs.message().await.unwrap().unwrap().output;
        if let Some(proto::v1::exec_output::Output::Stdout(bytes)) = output {
            said.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
    assert!(said.starts_with("/dev/pts/") && said.contains("17 91\r\n"), "{said}");
    let resize = TerminalSize { columns: 120, rows: 40 };
    inputs.send(input(Input::Resize(resize))).await.unwrap();
    inputs.send(input(Input::Stdin(b"typed\n".to_vec()))).await.unwrap();
    inputs.send(input(Input::EndOfInput(ExecEndOfInput {}))).await.unwrap();
    let ran = tokio::time::timeout(PATIENCE, finish(&mut outputs)).await.unwrap().unwrap();
    assert_eq!((ran.out.as_str(), ran.ending), ("40 120\r\n[typed]\r\n", Some(Code(0))));
}

#[tokio::test]
async fn ctrl_c_on_a_terminal_interrupts_its_foreground_program() {
    let desk = Desk::new();
    let _agent = desk.agent("system");
    let mut agent = desk.connected(Role::System).await;
    let terminal = Some(TerminalSize { columns: 80, rows: 25 });
    let order = ExecStart { terminal, ..arguments(&["sh", "-c", "echo ready; exec sleep 1000"]) };
    let (inputs, mut outputs) = agent.start(order).await.unwrap();
    for _ in 0..2 {
        outputs.message().await.unwrap().unwrap();
    }
    inputs.send(input(Input::Stdin(vec![3]))).await.unwrap();
    let ran = tokio::time::timeout(PATIENCE, finish(&mut outputs)).await.unwrap().unwrap();
    assert_eq!(ran.ending, Some(Signal(2)));
}

#[tokio::test]
async fn the_system_agent_runs_programs_as_another_user() {
    if !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let desk = Desk::new();
    let _agent = desk.agent("system");
    let mut agent = desk.connected(Role::System).await;
    let script =
        "id -un; echo $HOME $USER; cut -d' ' -f2 /proc/self/attr/current 2>/dev/null; exit 5";
    let order = ExecStart {
        user: "daemon".into(),
        folder: b"/".to_vec(),
        ..arguments(&["sh", "-c", script])
    };
    let ran = agent.run(order).await.unwrap();
    assert!(ran.out.starts_with("daemon\n/usr/sbin daemon\n"), "{ran:?}");
    assert_eq!(ran.ending, Some(Code(5)));
    // Killing the call must reach a program that runuser started.
    let order = ExecStart {
        user: "daemon".into(),
        folder: b"/".to_vec(),
        ..arguments(&["sh", "-c", "echo $$; exec sleep 1000"])
    };
    let (inputs, mut outputs) = agent.start(order).await.unwrap();
    outputs.message().await.unwrap().unwrap();
    let said = outputs.message().await.unwrap().unwrap().output;
    let Some(proto::v1::exec_output::Output::Stdout(child)) = said else { panic!("{said:?}") };
    wait_for_sleep(&child, true).await;
    drop((inputs, outputs));
    wait_for_sleep(&child, false).await;
}
