//! A test double, not part of the product: the guest's session agent as a process with an environment of its
//! own, which tests of the daemon can kill. Built with the tests.
//!
//! Arguments: where the host listens (`unix:PATH`) and the token of the boot.
#![forbid(unsafe_code)]

use agent_link::{Address, Role, Token};
use guest_agent::link::Identity;
use guest_agent::user::User;

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let host: Address = arguments.next().expect("an address").parse().expect("an address");
    let token: Token = arguments.next().expect("a token").parse().expect("a token");
    let user = User::own().expect("a user");
    let role = Role::User(user.number);
    let identity = Identity { host, role, proof: token.proof(role), user: user.name };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    eprintln!("{}", runtime.expect("a runtime").block_on(identity.hold()));
}
