//! Finding the pool among the kernel's devices.

use super::error::CoreError;
use super::pool::Pool;
use super::{GROUP, gate};
use crate::EngineError;
use hypervisor_abi::VERSION;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// The kernel's list of such devices, and where their files are.
const LIST: &str = "/sys/bus/dax/devices";
const FILES: &str = "/dev";

/// The pool of the core beneath this machine.
pub(super) fn pool() -> Result<Pool, EngineError> {
    let found = gate::version().ok_or(CoreError::NotBeneath)?;
    if found >> 16 != VERSION >> 16 {
        return Err(CoreError::Version { found }.into());
    }
    pool_among(Path::new(LIST), Path::new(FILES))
}

/// The first device that is a pool. What kept others from being looked at counts only when none is.
fn pool_among(list: &Path, files: &Path) -> Result<Pool, EngineError> {
    let mut names: Vec<String> = fs::read_dir(list)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(CoreError::NoDevice.into());
    }
    let mut obstacle = None;
    for name in &names {
        match look_at(&list.join(name), &files.join(name), name) {
            Ok(Some(pool)) => return Ok(pool),
            Ok(None) => {}
            // A version or a page that is wrong is the pool's own word.
            Err(error @ EngineError::Core(CoreError::Version { .. })) => return Err(error),
            Err(error) => obstacle = obstacle.or(Some(error)),
        }
    }
    Err(obstacle.unwrap_or_else(|| CoreError::NoPool { devices: names.join(", ") }.into()))
}

fn look_at(device: &Path, path: &Path, name: &str) -> Result<Option<Pool>, EngineError> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) => return Err(cannot_open(device, path, name, error).into()),
    };
    Pool::of(file).map_err(|error| match error {
        EngineError::Call { source, .. } => {
            CoreError::Device { operation: "mapping", path: path.to_owned(), source }.into()
        }
        other => other,
    })
}

fn cannot_open(device: &Path, path: &Path, name: &str, error: io::Error) -> CoreError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            CoreError::NoPermission { path: path.to_owned(), group: GROUP.to_owned() }
        }
        // The list has it, but no driver that makes a file of it.
        io::ErrorKind::NotFound => {
            let driver = fs::read_link(device.join("driver")).ok();
            let driver = driver.as_deref().and_then(Path::file_name).map_or_else(
                || "no driver".to_owned(),
                |driver| format!("driver {}", driver.to_string_lossy()),
            );
            CoreError::OtherDriver { device: name.to_owned(), driver }
        }
        _ => CoreError::Device { operation: "opening", path: path.to_owned(), source: error },
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_core::information;
    use super::*;
    use hypervisor_abi::InformationPage;
    use std::os::unix::fs::symlink;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("sys")).unwrap();
            fs::create_dir_all(folder.path().join("dev")).unwrap();
            Self(folder)
        }

        fn device(&self, name: &str, content: Option<&[u8]>) {
            fs::create_dir(self.0.path().join("sys").join(name)).unwrap();
            if let Some(content) = content {
                let path = self.0.path().join("dev").join(name);
                fs::write(&path, content).unwrap();
                File::options().write(true).open(&path).unwrap().set_len(8 << 20).unwrap();
            }
        }

        fn find(&self) -> Result<Pool, String> {
            pool_among(&self.0.path().join("sys"), &self.0.path().join("dev"))
                .map_err(|error| error.to_string())
        }
    }

    fn page(page: &InformationPage) -> Vec<u8> {
        super::super::test_core::bytes(page)
    }

    #[test]
    fn the_pool_is_found_behind_other_devices() {
        let machine = Machine::new();
        machine.device("dax0.0", Some(b"something else"));
        machine.device("dax1.0", None);
        machine.device("dax2.0", Some(&page(&information())));
        assert_eq!(machine.find().unwrap().information().pool_size, 8 << 20);
    }

    #[test]
    fn each_obstacle_has_its_own_advice() {
        let machine = Machine::new();
        assert!(machine.find().err().unwrap().contains("modprobe"));
        machine.device("dax0.0", Some(b""));
        assert!(machine.find().err().unwrap().contains("none of dax0.0"));
        machine.device("dax1.0", None);
        assert!(machine.find().err().unwrap().contains("with no driver"));
        let folder = machine.0.path();
        fs::create_dir_all(folder.join("drivers/kmem")).unwrap();
        symlink("../../drivers/kmem", folder.join("sys/dax1.0/driver")).unwrap();
        let text = machine.find().err().unwrap();
        assert!(text.contains("driver kmem") && text.contains("unbind"), "{text}");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let text = cannot_open(folder, Path::new("/dev/dax0.0"), "dax0.0", denied).to_string();
        assert!(text.contains("/dev/dax0.0") && text.contains("group `macrohard`"), "{text}");
        let old = InformationPage { version: 0x0009_0000, ..information() };
        machine.device("dax2.0", Some(&page(&old)));
        assert!(machine.find().err().unwrap().contains("version 9.0"));
    }
}
