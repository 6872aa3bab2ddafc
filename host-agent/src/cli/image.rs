//! `image build`: hands the order to [`crate::image`] and says how to use what was made.

use super::arguments::{BuildArguments, ImageCommand};
use super::output;
use super::vm::block_on;
use crate::image::{Order, build};
use crate::problem::Problem;

pub(super) fn dispatch(command: ImageCommand) -> Result<(), Problem> {
    let ImageCommand::Build(arguments) = command;
    let BuildArguments { output, size, suite, include, mirror, hostname, user, password, force } =
        *arguments;
    let output = std::path::absolute(&output)
        .map_err(|error| Problem::usage(format!("--output is {output:?}: {error}")))?;
    let order = Order { output, size, suite, include, mirror, hostname, user, password, force };
    let files = block_on(build(&order))?;
    output::print(&format!(
        "made {disk}, {kernel}, {initrd}\n\
         log in as {user} or root; the password is the one given ({default})\n\
         to use it:\n  \
         macrohard-hypervisor create --name {name} --memory 1024 --disk {disk} \\\n    \
         --kernel {kernel} --initrd {initrd} --append \"root=/dev/vda rw console=ttyS0\"\n  \
         macrohard-hypervisor start {name} && macrohard-hypervisor console {name}\n",
        disk = files.disk.display(),
        kernel = files.kernel.display(),
        initrd = files.initrd.display(),
        user = order.user,
        default = "guest unless --password was used",
        name = order.hostname,
    ))
}
