//! A desk of its own for each test: private home and runtime folders, the real programs, and a tiny
//! guest that greets, echoes keys and obeys its power button.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]

pub mod displays;

use proto::v1;
use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codegen::BoxStream;

/// A tiny guest in real mode (nasm):
///
/// ```text
/// 7c00        jmp near start / db 0 / db "MHVTINY1"
/// 7c0c start: cli / xor ax,ax / mov ds,ax
/// 7c11        mov word [0x80],tick / mov [0x82],ax      ; vector 0x20
/// 7c1a        mov al,0x11 / out 0x20,al                 ; PIC: ICW1
/// 7c1e        mov al,0x20 / out 0x21,al                 ; ICW2: vectors from 0x20
/// 7c22        mov al,4    / out 0x21,al                 ; ICW3
/// 7c26        mov al,1    / out 0x21,al                 ; ICW4
/// 7c2a        mov al,0xfe / out 0x21,al                 ; IRQ 0 only
/// 7c2e        mov al,0x34 / out 0x43,al                 ; PIT channel 0: mode 2
/// 7c32        mov ax,59659 / out 0x40,al / mov al,ah / out 0x40,al   ; 20 Hz
/// 7c3b        mov si,greeting / call print
/// 7c41 main:  sti / hlt / cli
/// 7c44        mov dx,0x600 / in ax,dx / test ah,1 / jz keys   ; PM1 status: power button
/// 7c4d        mov si,farewell / call print
/// 7c53        mov dx,0x604 / mov ax,0x3c00 / out dx,ax  ; PM1 control: SLP_TYP 7, SLP_EN
/// 7c5a keys:  in ax,0xeb / cmp ah,0 / jne main          ; next key, all ones when none waits
/// 7c61        cmp al,'x' / je leave / out 0xe9,al / jmp keys
/// 7c69 leave: mov al,42 / out 0xf4,al / jmp leave       ; debug exit
/// 7c6f print: lodsb / test al,al / jz +4 / out 0xe9,al / jmp print / ret
/// 7c79 tick:  push ax / mov al,0x20 / out 0x20,al / pop ax / iret
/// 7c80        greeting: db "ready",13,10,0 / farewell: db "bye",13,10,0
/// ```
const GUEST: &[u8] = b"\
\xe9\x09\x00\x00MHVTINY1\xfa\x31\xc0\x8e\xd8\xc7\x06\x80\x00\x79\x7c\xa3\x82\x00\xb0\x11\xe6\x20\
\xb0\x20\xe6\x21\xb0\x04\xe6\x21\xb0\x01\xe6\x21\xb0\xfe\xe6\x21\xb0\x34\xe6\x43\xb8\x0b\xe9\xe6\
\x40\x88\xe0\xe6\x40\xbe\x80\x7c\xe8\x2e\x00\xfb\xf4\xfa\xba\x00\x06\xed\xf6\xc4\x01\x74\x0d\xbe\
\x88\x7c\xe8\x1c\x00\xba\x04\x06\xb8\x00\x3c\xef\xe5\xeb\x80\xfc\x00\x75\xe0\x3c\x78\x74\x04\xe6\
\xe9\xeb\xf1\xb0\x2a\xe6\xf4\xeb\xfa\xac\x84\xc0\x74\x04\xe6\xe9\xeb\xf7\xc3\x50\xb0\x20\xe6\x20\
\x58\xcfready\r\n\0bye\r\n\0";

/// The same as a Multiboot 1 kernel, which QEMU boots too; it looks for keys and the power button
/// without a pause (nasm):
///
/// ```text
/// 100000       dd 0x1badb002, 0x10000, -(0x1badb002+0x10000)
/// 10000c       dd 0x100000, 0x100000, end, end, start   ; load and entry addresses
/// 100020 start: mov esp,0x9000
/// 100025       mov dx,0x602 / mov ax,0x100 / out dx,ax  ; PM1 enable: power button
/// 10002f       mov esi,greeting / call print
/// 100039 main: mov dx,0x600 / in ax,dx / test ah,1 / jz keys    ; PM1 status
/// 100044       mov esi,farewell / call print
/// 10004e       mov dx,0x604 / mov ax,0x2000 / out dx,ax ; PM1 control: SLP_TYP 0, SLP_EN
/// 100058 keys: mov dx,0x3fd / in al,dx / test al,1 / jz main    ; COM1
/// 100061       mov dl,0xf8 / in al,dx / cmp al,'x' / je leave / out dx,al / jmp keys
/// 10006b leave: mov al,42 / out 0xf4,al / jmp leave
/// 100071 print: mov dx,0x3f8
/// 100075       lodsb / test al,al / jz +3 / out dx,al / jmp -8 / ret
/// 10007e       greeting: db "ready",13,10,0 / farewell: db "bye",13,10,0
/// ```
pub const MULTIBOOT_GUEST: &[u8] = b"\
\x02\xb0\xad\x1b\x00\x00\x01\x00\xfe\x4f\x51\xe4\x00\x00\x10\x00\x00\x00\x10\x00\x8c\x00\x10\x00\
\x8c\x00\x10\x00\x20\x00\x10\x00\xbc\x00\x90\x00\x00\x66\xba\x02\x06\x66\xb8\x00\x01\x66\xef\xbe\
\x7e\x00\x10\x00\xe8\x38\x00\x00\x00\x66\xba\x00\x06\x66\xed\xf6\xc4\x01\x74\x14\xbe\x86\x00\x10\
\x00\xe8\x23\x00\x00\x00\x66\xba\x04\x06\x66\xb8\x00\x20\x66\xef\x66\xba\xfd\x03\xec\xa8\x01\x74\
\xd8\xb2\xf8\xec\x3c\x78\x74\x03\xee\xeb\xed\xb0\x2a\xe6\xf4\xeb\xfa\x66\xba\xf8\x03\xac\x84\xc0\
\x74\x03\xee\xeb\xf8\xc3ready\r\n\0bye\r\n\0";

/// What the guest leaves with when `x` is typed.
pub const GUEST_EXIT: i32 = 42;

/// Bound on waits for things that take milliseconds; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    /// It succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It failed with `code` and said each of `words`.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// True when guests can run on `/dev/kvm` here; says so loudly otherwise.
pub fn kvm() -> bool {
    match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED: /dev/kvm cannot be used: {error}");
            false
        }
    }
}

/// True when engine tcg can run here; says so loudly otherwise.
pub fn qemu() -> bool {
    match Command::new("qemu-system-x86_64").arg("--version").output() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED: qemu-system-x86_64 cannot be started: {error}");
            false
        }
    }
}

pub struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("desk").tempdir().unwrap();
        for name in ["home", "run"] {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .unwrap();
        }
        let desk = Self { folder };
        std::fs::write(desk.path("guest.bin"), GUEST).unwrap();
        std::fs::write(desk.path("multiboot.bin"), MULTIBOOT_GUEST).unwrap();
        desk
    }

    /// A path in the desk's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Where the runtime files of the product are.
    pub fn runtime(&self) -> PathBuf {
        self.path("run/macrohard")
    }

    /// The definition file of a VM.
    pub fn definition(&self, name: &str) -> PathBuf {
        self.path(&format!("home/.config/macrohard/vms/{name}.toml"))
    }

    /// A program at this desk.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// The CLI with arguments, not started.
    pub fn prepared<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_macrohard-hypervisor"));
        command.args(arguments);
        command
    }

    /// Runs the CLI to its end.
    pub fn cli<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Said {
        self.prepared(arguments).output().unwrap().into()
    }

    /// Defines a VM with the tiny guest on engine kvm.
    pub fn create(&self, name: &str) {
        let guest = self.text("guest.bin");
        let machine = ["--kernel", &guest, "--memory", "16", "--net", "none"];
        let mut arguments = vec!["create", "--name", name, "--engine", "kvm"];
        arguments.extend(machine);
        self.cli(&arguments).ok();
    }

    /// Defines and starts one, and waits for its greeting.
    pub fn start(&self, name: &str) {
        self.create(name);
        self.cli(&["start", name]).ok();
        self.wait_for_console(name, "ready");
    }

    pub fn status(&self, name: &str) -> serde_json::Value {
        self.cli(&["status", name, "--json"]).ok().json()
    }

    pub fn state(&self, name: &str) -> String {
        self.status(name)["state"].as_str().unwrap().to_owned()
    }

    /// Process id of a running VM.
    pub fn vm_pid(&self, name: &str) -> u32 {
        let pid = self.status(name)["pid"].as_u64().expect("the VM runs");
        u32::try_from(pid).unwrap()
    }

    pub fn daemon_pid(&self) -> u32 {
        let status = self.cli(&["daemon", "status", "--json"]).ok().json();
        u32::try_from(status["pid"].as_u64().expect("a daemon runs")).unwrap()
    }

    pub fn wait_for_console(&self, name: &str, text: &str) {
        let log = self.path(&format!("home/.local/state/macrohard/vms/{name}/console.log"));
        wait_until(&format!("{text:?} on the console of {name}"), || {
            std::fs::read_to_string(&log).is_ok_and(|log| log.contains(text))
        });
    }

    pub fn wait_for_state(&self, name: &str, state: &str) {
        wait_until(&format!("{name} is {state}"), || self.state(name) == state);
    }

    /// A daemon as a user of its own would start it; its end is the caller's business.
    pub fn daemon(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_macrohardd"));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn daemon_answers(&self) -> bool {
        UnixStream::connect(self.runtime().join("daemon.sock")).is_ok()
    }

    /// Process ids in the files that the programs lock while they run.
    fn pids(&self) -> Vec<u32> {
        let mut files = vec![self.runtime().join("daemon.pid")];
        if let Ok(vms) = std::fs::read_dir(self.runtime().join("vms")) {
            for vm in vms.flatten() {
                files.extend(["pid", "compositor.pid"].map(|name| vm.path().join(name)));
            }
        }
        let read = |file: PathBuf| std::fs::read_to_string(file).ok()?.trim().parse().ok();
        files.into_iter().filter_map(read).collect()
    }
}

impl Drop for Desk {
    /// Nothing of a failed test runs on.
    fn drop(&mut self) {
        for pid in self.pids() {
            if belongs_to(pid, self.folder.path()) {
                kill(pid);
            }
        }
    }
}

/// The process was started at this desk.
fn belongs_to(pid: u32, desk: &Path) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let desk = desk.to_str().unwrap().as_bytes();
    environment.windows(desk.len()).any(|part| part == desk)
}

/// Kills without asking, as the kernel does when memory runs out.
pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

pub fn is_alive(pid: u32) -> bool {
    // A zombie has no executable any more.
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `command` in a process group of its own.
pub fn detached(command: &mut Command) -> std::process::Child {
    command.process_group(0).spawn().unwrap()
}

/// Answers calls of the host with what no agent should.
#[derive(Clone, Copy)]
pub struct LyingGuest;

#[tonic::async_trait]
impl proto::stand_in::guest_server::Guest for LyingGuest {
    async fn exec(
        &self,
        request: tonic::Request<tonic::Streaming<v1::ExecInput>>,
    ) -> Result<tonic::Response<BoxStream<v1::ExecOutput>>, Status> {
        use v1::exec_output::Output;
        let first = request.into_inner().message().await?.and_then(|input| input.input);
        let Some(v1::exec_input::Input::Start(start)) = first else {
            return Err(Status::internal("no start"));
        };
        let output = match &start.arguments[0][..] {
            b"too-much" => Some(Output::Stdout(vec![b'x'; 70_000])),
            b"nonsense" => None,
            _ => {
                let message = "\u{1b}[2J\u{202e}".repeat(400);
                return Err(Status::permission_denied(message));
            }
        };
        let (to, outputs) = tokio::sync::mpsc::channel(1);
        to.send(Ok(v1::ExecOutput { output })).await.unwrap();
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(outputs))))
    }

    async fn fetch_clipboard(
        &self,
        request: tonic::Request<v1::ClipboardFetch>,
    ) -> Result<tonic::Response<BoxStream<v1::ClipboardChunk>>, Status> {
        let (to, chunks) = tokio::sync::mpsc::channel(1);
        let chunk = |size, data: &[u8]| Ok(v1::ClipboardChunk { size, data: data.to_vec().into() });
        // What is wrong is told by the number of the copy.
        match request.into_inner().sequence % 8 {
            0 => to.send(chunk(4, b"more than four")).await.unwrap(),
            1 => to.send(chunk(u64::MAX, b"x")).await.unwrap(),
            2 => to.send(chunk(4, b"\xff\xfe\xfd\xfc")).await.unwrap(),
            3 => to.send(chunk(4, b"les")).await.unwrap(),
            4 => to.send(chunk(200_000, &[b'x'; 70_000])).await.unwrap(),
            5 => return Err(Status::internal("\u{1b}[2J")),
            6 => {
                // Without an end.
                tokio::spawn(async move {
                    let _ = to.send(chunk(1 << 20, b"x")).await;
                    while to.send(chunk(0, b"xxxxxxxxxxxxxxxxxxxxxxxxx")).await.is_ok() {}
                });
            }
            _ => {}
        }
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(chunks))))
    }

    async fn set_shares(
        &self,
        request: tonic::Request<v1::SetSharesRequest>,
    ) -> Result<tonic::Response<v1::SetSharesReply>, Status> {
        let problem = |tag: &str, user| v1::ShareProblem {
            tag: tag.to_owned(),
            user,
            reason: format!("\u{1b}[2Jno room {}", "x".repeat(100_000)),
        };
        let mut problems: Vec<_> = request
            .into_inner()
            .shares
            .iter()
            .filter(|share| share.tag.starts_with("full"))
            .map(|share| problem(&share.tag, share.user))
            .collect();
        problems.push(problem("../../etc", 0));
        Ok(tonic::Response::new(v1::SetSharesReply { problems }))
    }
}
