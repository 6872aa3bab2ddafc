//! The Debian package of the guest's agent, which `image build` puts into images.

use crate::failure::{Context, Result};
use crate::process::{Output, Step};
use crate::{binaries, packages, workspace};
use std::path::{Path, PathBuf};

/// Name of the file, beside the product's programs.
pub(crate) const FILE: &str = "macrohard-guest-agent.deb";

/// Units and who wants them. Links in the package, so that they are on without a step of its own.
const WANTED: [(&str, &str, &str); 2] = [
    ("system", "multi-user.target", "macrohard-guest-agent.service"),
    ("user", "default.target", "macrohard-guest-session.service"),
];

/// Packs the agent built in `programs` there.
pub(crate) fn pack(programs: &Path) -> Result<PathBuf> {
    packages::require(&["dpkg-dev"])?;
    let _lock = workspace::lock("guest-package")?;
    let folder = workspace::folder("package/guest")?;
    let tree = folder.join("tree");
    let _ = std::fs::remove_dir_all(&tree);
    binaries::stripped(
        &programs.join("macrohard-guest-agent"),
        &tree.join("usr/bin/macrohard-guest-agent"),
    )?;
    let source = workspace::root().join("packaging/guest");
    copy(&source, &tree)?;
    for (manager, target, unit) in WANTED {
        let wants = tree.join("usr/lib/systemd").join(manager).join(format!("{target}.wants"));
        std::fs::create_dir_all(&wants).context(|| format!("make {}", wants.display()))?;
        std::os::unix::fs::symlink(Path::new("..").join(unit), wants.join(unit))
            .context(|| format!("link {unit} in {}", wants.display()))?;
    }
    let documents = tree.join("usr/share/doc/macrohard-guest-agent");
    std::fs::create_dir_all(&documents).context(|| format!("make {}", documents.display()))?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        std::fs::copy(workspace::root().join(licence), documents.join(licence))
            .context(|| format!("copy {licence}"))?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let control = format!(
        "Package: macrohard-guest-agent\nVersion: {version}\nArchitecture: amd64\n\
         Maintainer: The macrohard-hypervisor authors <nobody@localhost>\nSection: admin\nPriority: optional\n\
         Recommends: xvfb, x11-xkb-utils\n\
         Suggests: xserver-xorg-core, xserver-xorg-input-libinput, x-window-manager\n\
         Description: agent of macrohard-hypervisor in a Linux guest\n \
         Runs programs for the host, sets the clock after a pause, powers off in order, shows notifications and windows on the host.\n"
    );
    std::fs::write(tree.join("DEBIAN/control"), control).context(|| "write control".to_owned())?;
    // Whole at every moment: a daemon may be sending it to a guest.
    let (package, new) = (programs.join(FILE), folder.join(FILE));
    Step::new("dpkg-deb")
        .arguments(["--root-owner-group", "--build"])
        .argument(&tree)
        .argument(&new)
        .run(Output::Logged(folder.join("package.log")))?;
    std::fs::rename(&new, &package).context(|| format!("put {} in place", package.display()))?;
    Ok(package)
}

/// Copies a folder with all in it, modes included.
pub(crate) fn copy(from: &Path, to: &Path) -> Result {
    std::fs::create_dir_all(to).context(|| format!("make {}", to.display()))?;
    let entries = std::fs::read_dir(from).context(|| format!("read {}", from.display()))?;
    for entry in entries.flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target).context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}
