//! The VM process as its callers meet it: exit codes, sockets, records. On `/dev/kvm`, with guests
//! of a few instructions.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vm_control::{Client, Ending, ExitRecord, Files, LaunchSpec, Phase, Reply, Request};

const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with the first byte of input as its code; prints it first.
const ECHO: &[u8] = &[
    0xeb, 0x0a, 0, 0, b'M', b'H', b'V', b'T', b'I', b'N', b'Y', b'1', // jump over the magic
    0xb0, b'>', 0xe6, 0xe9, // mov al, '>'; out 0xe9, al
    0xe4, 0xeb, // in al, 0xeb
    0x3c, 0xff, 0x74, 0xfa, // cmp al, 0xff; je back
    0xe6, 0xe9, // out 0xe9, al
    0xe6, 0xec, // out 0xec, al
    0xf4, // hlt
];

fn no_kvm() -> bool {
    match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => false,
        Err(error) => {
            eprintln!("SKIPPED: /dev/kvm: {error}");
            true
        }
    }
}

struct Vm {
    child: Child,
    folder: tempfile::TempDir,
}

fn specification(folder: &Path, foreground: bool, timeout: Option<u64>) -> LaunchSpec {
    let kernel = folder.join("kernel");
    std::fs::write(&kernel, ECHO).unwrap();
    let kernel = kernel.to_str().unwrap();
    let definition = serde_json::json!({
        "name": "process", "memory": 16, "cpus": 1, "boot": {"kernel": kernel},
    });
    LaunchSpec {
        version: vm_control::VERSION,
        definition: serde_json::from_value(definition).unwrap(),
        engine: definition::EngineChoice::Kvm,
        runtime: folder.to_owned(),
        state: folder.to_owned(),
        foreground,
        agent_token: None,
        timeout,
    }
}

fn launch(spec: &LaunchSpec) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_macrohard-vm"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    spec.write_to(child.stdin.as_mut().unwrap()).unwrap();
    child
}

fn start(foreground: bool, timeout: Option<u64>) -> Vm {
    let folder = tempfile::tempdir().unwrap();
    let child = launch(&specification(folder.path(), foreground, timeout));
    Vm { child, folder }
}

impl Vm {
    fn files(&self) -> Files<'_> {
        Files::new(self.folder.path(), self.folder.path())
    }

    fn client(&self) -> Client {
        wait_for(|| Client::connect(&self.files().control(), PATIENCE).ok())
    }

    /// A console client that has seen the prompt.
    fn console(&self) -> UnixStream {
        let mut stream = wait_for(|| UnixStream::connect(self.files().console()).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut prompt = [0];
        stream.read_exact(&mut prompt).unwrap();
        assert_eq!(&prompt, b">");
        stream
    }

    fn code(&mut self) -> i32 {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().code().unwrap()
    }

    fn record(&self) -> Ending {
        let bytes = std::fs::read(self.files().exit_record()).unwrap();
        serde_json::from_slice::<ExitRecord>(&bytes).unwrap().ending
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < give_up, "nothing came in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_keyboard_behind_the_specification_reaches_the_guest_and_its_code_comes_back() {
    if no_kvm() {
        return;
    }
    let mut vm = start(true, Some(60));
    vm.child.stdin.as_mut().unwrap().write_all(b"*").unwrap();
    assert_eq!(vm.code(), i32::from(b'*'));
    let mut printed = String::new();
    vm.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(printed, ">*");
    assert_eq!(vm.record(), Ending::DebugExit { code: b'*' });
    let log = std::fs::read_to_string(vm.files().console_log()).unwrap();
    assert_eq!(log, ">*");
    assert!(!vm.files().control().exists());
}

#[test]
fn a_client_pauses_resumes_resets_and_stops_it() {
    if no_kvm() {
        return;
    }
    let mut vm = start(false, None);
    let mut client = vm.client();
    let mut ask = |request| client.ask(&request).unwrap();
    assert_eq!(ask(Request::Pause), Reply::Done);
    assert!(
        matches!(ask(Request::Pause), Reply::Refused { message } if message.contains("it is paused"))
    );
    let Reply::Status(status) = ask(Request::Status) else { panic!("no status") };
    assert_eq!((status.phase, status.engine.as_str()), (Phase::Paused, "kvm"));
    assert_eq!(ask(Request::Reset), Reply::Done);
    assert_eq!(ask(Request::Resume), Reply::Done);
    let Reply::Statistics(statistics) = ask(Request::Statistics) else { panic!("no statistics") };
    assert_eq!(statistics.processors.len(), 1);
    assert!(statistics.overhead > 0);
    assert!(matches!(ask(Request::Inspect), Reply::Inspect { tree } if tree["pci"].is_array()));
    assert_eq!(ask(Request::Quit), Reply::Done);
    assert_eq!(vm.code(), 0);
    assert_eq!(vm.record(), Ending::Stopped);
}

#[test]
fn every_console_client_sees_the_output_and_the_newest_types() {
    if no_kvm() {
        return;
    }
    let mut vm = start(false, None);
    let mut old = vm.console();
    let mut new = vm.console();
    old.write_all(b"A").unwrap();
    new.write_all(b"B").unwrap();
    for stream in [&mut old, &mut new] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"B");
    }
    assert_eq!(vm.code(), i32::from(b'B'));
}

#[test]
fn nonsense_on_the_control_socket_is_refused_and_others_are_served() {
    if no_kvm() {
        return;
    }
    let vm = start(false, None);
    let mut client = vm.client();
    let mut rude = UnixStream::connect(vm.files().control()).unwrap();
    rude.set_read_timeout(Some(PATIENCE)).unwrap();
    rude.write_all(b"\xff\xfe not json\n").unwrap();
    // A line without end, longer than any request. The process may hang up while we write.
    let _ = rude.write_all(&vec![b'x'; 1 << 20]);
    let mut answers = Vec::new();
    let _ = rude.read_to_end(&mut answers);
    let answers = String::from_utf8_lossy(&answers);
    assert!(answers.contains("not understood"), "{answers}");
    assert!(matches!(client.ask(&Request::Status), Ok(Reply::Status(_))));
}

#[test]
fn a_second_process_for_the_same_vm_is_refused() {
    if no_kvm() {
        return;
    }
    let vm = start(false, None);
    vm.client();
    let second = launch(&specification(vm.folder.path(), false, None));
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("already running"), "{said}");
    assert!(matches!(vm.client().ask(&Request::Status), Ok(Reply::Status(_))));
}

/// The child of process `parent` that runs QEMU.
fn qemu_of(parent: u32) -> Option<rustix::process::Pid> {
    let children = std::fs::read_dir("/proc").unwrap().flatten();
    children.into_iter().find_map(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, fields) = stat.rsplit_once(')')?;
        let is_child = fields.split_whitespace().nth(1)?.parse() == Ok(parent);
        (is_child && name.contains("(qemu"))
            .then(|| rustix::process::Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))?
    })
}

#[test]
fn while_qemu_hangs_others_are_answered_and_the_vm_can_be_ended() {
    if !support::qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut spec = specification(folder.path(), false, None);
    spec.engine = definition::EngineChoice::Tcg;
    std::fs::write(folder.path().join("kernel"), support::MULTIBOOT_GUEST).unwrap();
    let mut vm = Vm { child: launch(&spec), folder };
    // The console is there when the guest runs.
    let mut console = wait_for(|| UnixStream::connect(vm.files().console()).ok());
    console.set_read_timeout(Some(PATIENCE)).unwrap();
    console.read_exact(&mut [0; 5]).unwrap();
    let qemu = qemu_of(vm.child.id()).expect("QEMU runs");
    rustix::process::kill_process(qemu, rustix::process::Signal::STOP).unwrap();
    let mut waiting = UnixStream::connect(vm.files().control()).unwrap();
    waiting.write_all(b"{\"request\":\"pause\"}\n").unwrap();
    let mut client = vm.client();
    let mut ask = |request| client.ask(&request).unwrap();
    let begun = Instant::now();
    let Reply::Status(status) = ask(Request::Status) else { panic!("no status") };
    assert_eq!(status.phase, Phase::Running);
    assert_eq!(ask(Request::Quit), Reply::Done);
    // Far below what QEMU is given to answer.
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(vm.code(), 0);
    assert_eq!(vm.record(), Ending::Stopped);
}

#[test]
fn requests_of_one_client_are_answered_in_order() {
    if no_kvm() {
        return;
    }
    let vm = start(false, None);
    vm.client();
    let mut stream = UnixStream::connect(vm.files().control()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let lines = ["inspect", "status", "pause", "nonsense", "resume", "status"];
    for line in lines {
        writeln!(stream, "{{\"request\":\"{line}\"}}").unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let kinds: Vec<String> = answers
        .lines()
        .map(|line| {
            let answer: serde_json::Value = serde_json::from_str(line).unwrap();
            answer["reply"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(kinds, ["inspect", "status", "done", "refused", "done", "status"]);
}

#[test]
fn a_termination_signal_stops_it_in_order() {
    if no_kvm() {
        return;
    }
    let mut vm = start(false, None);
    vm.client();
    let pid = rustix::process::Pid::from_child(&vm.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(vm.code(), 0);
    assert_eq!(vm.record(), Ending::Stopped);
}

#[test]
fn a_timeout_has_a_code_of_its_own() {
    if no_kvm() {
        return;
    }
    let mut vm = start(true, Some(1));
    // Standard input stays open: its end is no reason to end.
    let code = vm.child.wait().unwrap().code();
    assert_eq!(code, Some(124));
    assert_eq!(vm.record(), Ending::TimedOut);
}

#[test]
fn a_kernel_that_is_none_fails_with_the_reason_in_the_record() {
    if no_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let spec = specification(folder.path(), false, None);
    std::fs::write(folder.path().join("kernel"), "no kernel").unwrap();
    let mut vm = Vm { child: launch(&spec), folder };
    assert_eq!(vm.code(), 1);
    assert!(matches!(vm.record(), Ending::Failed { message } if message.contains("not a kernel")));
}

#[test]
fn window_memory_is_handed_to_each_client_that_asks_and_is_the_same() {
    if no_kvm() {
        return;
    }
    let vm = start(false, None);
    let memory = |client: &mut Client| {
        let memory = client.window_memory().unwrap();
        assert_eq!((memory.offset, memory.length), (0, 256 << 20));
        File::from(memory.file)
    };
    let mut client = vm.client();
    let first = memory(&mut client);
    first.write_all_at(b"pixels", 1 << 20).unwrap();
    let mut bytes = [0; 6];
    // As a daemon that was started anew, and twice on one connection.
    for second in [memory(&mut vm.client()), memory(&mut client)] {
        second.read_exact_at(&mut bytes, 1 << 20).unwrap();
        assert_eq!(&bytes, b"pixels");
        assert!(second.set_len(4096).is_err(), "it can shrink");
    }
    assert_eq!(client.ask(&Request::Quit).unwrap(), Reply::Done);
}

#[test]
fn a_vm_without_window_memory_says_so() {
    if no_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut spec = specification(folder.path(), false, None);
    spec.definition.windows.memory = 0;
    let vm = Vm { child: launch(&spec), folder };
    let error = vm.client().window_memory().unwrap_err().to_string();
    assert_eq!(error, "this VM has no window memory");
}
