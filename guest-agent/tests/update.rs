//! Another version of the agent, as a real agent process takes it. The package manager is a stand-in that
//! notes how it is called: the order of things is what is tested, not dpkg.

mod support;

use agent_link::Role;
use proto::v1::update_chunk::Chunk;
use proto::v1::{
    ExecStart, GuestStatusRequest, PingRequest, PowerRequest, UpdateChunk, UpdateStart,
};
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use support::{Connected, Desk, arguments};
use tonic::{Code, Status};

const PACKAGE: &[u8] = b"!<arch>\nas good as a package";

/// Programs of a guest: each notes its arguments, then does this.
fn programs(folder: &Path, programs: &[(&str, &str)]) {
    std::fs::create_dir_all(folder).unwrap();
    for (name, script) in programs {
        let path = folder.join(name);
        let log = folder.join("log");
        let text = format!("#!/bin/sh\necho \"{name} $*\" >> {}\n{script}\n", log.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

const DEB: (&str, &str) =
    ("dpkg-deb", "echo 'Package: macrohard-guest-agent'; echo 'Version: 9.9'");

struct Guest {
    desk: Desk,
    _agent: tokio::process::Child,
    connected: Connected,
}

impl Guest {
    async fn with(scripts: &[(&str, &str)], kind: &str, protocol: u32) -> Self {
        let mut desk = Desk::new();
        desk.protocol = protocol;
        programs(&desk.path("bin"), scripts);
        let mut command = desk.agent_command(kind);
        // The shell's own programs and no package manager but ours.
        command.env("PATH", desk.path("bin")).env("RUNTIME_DIRECTORY", desk.path("update"));
        let agent = command.spawn().unwrap();
        let connected = desk.connected(Role::System).await;
        Self { desk, _agent: agent, connected }
    }

    async fn update(&mut self, start: UpdateStart, pieces: &[&[u8]]) -> Result<(), Status> {
        let pieces = pieces.iter().map(|piece| Chunk::Data(piece.to_vec()));
        let chunks: Vec<_> = std::iter::once(Chunk::Start(start))
            .chain(pieces)
            .map(|chunk| UpdateChunk { chunk: Some(chunk) })
            .collect();
        self.connected.guest.update(tokio_stream::iter(chunks)).await.map(|_| ())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.desk.path("bin/log")).unwrap_or_default()
    }
}

fn start(version: &str) -> UpdateStart {
    let digest = Sha256::digest(PACKAGE).to_vec();
    UpdateStart { version: version.into(), size: PACKAGE.len() as u64, digest }
}

#[tokio::test]
async fn a_whole_package_is_installed_by_a_unit_of_its_own() {
    let scripts = [DEB, ("dpkg", ""), ("systemd-run", "")];
    let mut guest = Guest::with(&scripts, "system", proto::PROTOCOL).await;
    guest.update(start("9.9"), &[&PACKAGE[..5], &PACKAGE[5..]]).await.unwrap();
    let path = guest.desk.path("update/update.deb");
    assert_eq!(std::fs::read(&path).unwrap(), PACKAGE);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let folder = std::fs::metadata(guest.desk.path("update")).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    let log = guest.log();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert_eq!(lines[0], format!("dpkg-deb -f {} Package Version", path.display()));
    assert!(lines[1].starts_with("systemd-run ") && lines[1].contains("--no-block"), "{log}");
    assert!(lines[1].ends_with(&format!("dpkg --install {}", path.display())), "{log}");
}

#[tokio::test]
async fn what_is_not_the_package_is_refused_and_nothing_is_installed() {
    let scripts = [DEB, ("dpkg", ""), ("systemd-run", "echo no unit >&2; exit 1")];
    let mut guest = Guest::with(&scripts, "system", proto::PROTOCOL).await;
    let wrong = UpdateStart { digest: vec![0; 32], ..start("9.9") };
    assert_eq!(guest.update(wrong, &[PACKAGE]).await.unwrap_err().code(), Code::DataLoss);
    assert_eq!(guest.update(start("9.9"), &[]).await.unwrap_err().code(), Code::DataLoss);
    let long = guest.update(start("9.9"), &[PACKAGE, b"x"]).await.unwrap_err();
    assert_eq!(long.code(), Code::InvalidArgument);
    let huge = UpdateStart { size: 65 << 20, ..start("9.9") };
    assert_eq!(guest.update(huge, &[]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(guest.log(), "");
    let other = guest.update(start("9.8"), &[PACKAGE]).await.unwrap_err();
    assert!(other.message().contains("this is not macrohard-guest-agent 9.8"), "{other}");
    assert!(!guest.log().contains("systemd-run"));
    // What cannot be begun is said, and leaves nothing.
    let failed = guest.update(start("9.9"), &[PACKAGE]).await.unwrap_err();
    assert!(failed.message().contains("no unit"), "{failed}");
    assert!(!guest.desk.path("update/update.deb").exists());
    let no_start = [UpdateChunk { chunk: Some(Chunk::Data(PACKAGE.to_vec())) }];
    let refused = guest.connected.guest.update(tokio_stream::iter(no_start)).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn without_systemd_dpkg_is_started_and_without_dpkg_nothing() {
    let mut guest = Guest::with(&[DEB, ("dpkg", "")], "system", proto::PROTOCOL).await;
    guest.update(start("9.9"), &[PACKAGE]).await.unwrap();
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    while !guest.log().contains("dpkg --install") {
        assert!(tokio::time::Instant::now() < deadline, "{}", guest.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut guest = Guest::with(&[], "system", proto::PROTOCOL).await;
    let refused = guest.update(start("9.9"), &[PACKAGE]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("no dpkg"), "{refused}");
}

#[tokio::test]
async fn a_host_of_another_protocol_may_ping_and_update_and_nothing_else() {
    let scripts = [DEB, ("dpkg", ""), ("systemd-run", "")];
    let mut guest = Guest::with(&scripts, "system", proto::PROTOCOL + 1).await;
    guest.connected.guest.ping(PingRequest {}).await.unwrap();
    let status = guest.connected.guest.guest_status(GuestStatusRequest {}).await.unwrap_err();
    assert!(status.message().contains("another protocol"), "{status}");
    let power = guest.connected.guest.power(PowerRequest { action: 1 }).await.unwrap_err();
    assert_eq!(power.code(), Code::FailedPrecondition);
    let exec: ExecStart = arguments(&["true"]);
    assert_eq!(guest.connected.run(exec).await.unwrap_err().code(), Code::FailedPrecondition);
    guest.update(start("9.9"), &[PACKAGE]).await.unwrap();
    assert!(guest.log().contains("systemd-run"));
}
