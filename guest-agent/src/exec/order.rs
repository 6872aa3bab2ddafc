//! What to run, checked.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use agent_link::Role;
use proto::v1::{ExecStart, TerminalSize};
use rustix::termios::Winsize;
use tonic::Status;

use crate::status::LONGEST_USER;
use crate::user::User;

const MOST_ARGUMENTS: usize = 1024;
const MOST_ARGUMENT_BYTES: usize = 128 << 10;
const MOST_VARIABLES: usize = 256;
const MOST_VARIABLE_BYTES: usize = 64 << 10;
const LONGEST_PATH: usize = 4096;
/// Where programs are looked for when the agent's own environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// See the module.
#[derive(Clone, Debug)]
pub struct Order {
    /// Program and arguments; none for the user's shell.
    pub arguments: Vec<OsString>,
    /// Variables for the program.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it starts.
    pub folder: PathBuf,
    /// A terminal of this size.
    pub terminal: Option<Winsize>,
    /// The user it runs as.
    pub user: User,
    /// That is not the agent's own.
    pub other_user: bool,
}

/// An order that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Too much of something.
    #[error("{field} has {found}; allowed: {most}")]
    TooMuch {
        /// Of what.
        field: &'static str,
        /// How much.
        found: usize,
        /// What is allowed.
        most: usize,
    },
    /// A zero byte, which ends a text in Linux.
    #[error("{0} contains a zero byte")]
    Zero(&'static str),
    /// A variable without a name.
    #[error("a variable is not NAME=VALUE")]
    Variable,
    /// A terminal of no size.
    #[error("the terminal has {columns} columns and {rows} rows; allowed: 1 to 65535 each")]
    Terminal {
        /// Columns.
        columns: u32,
        /// Rows.
        rows: u32,
    },
    /// Nobody of that name.
    #[error("there is no user {0:?} in the guest")]
    User(String),
    /// A session's agent serves its own user.
    #[error("this agent runs programs only as its own user")]
    OtherUser,
}

impl From<OrderError> for Status {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::User(_) => Self::not_found(error.to_string()),
            OrderError::OtherUser => Self::failed_precondition(error.to_string()),
            _ => Self::invalid_argument(error.to_string()),
        }
    }
}

fn within(field: &'static str, found: usize, most: usize) -> Result<(), OrderError> {
    if found <= most { Ok(()) } else { Err(OrderError::TooMuch { field, found, most }) }
}

fn no_zero(field: &'static str, bytes: &[u8]) -> Result<(), OrderError> {
    if bytes.contains(&0) { Err(OrderError::Zero(field)) } else { Ok(()) }
}

/// A terminal's size as the kernel takes it.
pub(super) fn size(size: &TerminalSize) -> Result<Winsize, OrderError> {
    let cells = |count: u32| u16::try_from(count).ok().filter(|count| *count > 0);
    match (cells(size.columns), cells(size.rows)) {
        (Some(columns), Some(rows)) => {
            Ok(Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 })
        }
        _ => Err(OrderError::Terminal { columns: size.columns, rows: size.rows }),
    }
}

impl Order {
    /// Checks what the host wants run by the agent of `role`.
    ///
    /// # Errors
    /// What [`OrderError`] lists.
    pub fn check(start: ExecStart, role: Role) -> Result<Self, OrderError> {
        let bytes = |parts: &[Vec<u8>]| parts.iter().map(|part| part.len() + 1).sum();
        within("the number of arguments", start.arguments.len(), MOST_ARGUMENTS)?;
        within("the length of the arguments", bytes(&start.arguments), MOST_ARGUMENT_BYTES)?;
        within("the number of variables", start.environment.len(), MOST_VARIABLES)?;
        within("the length of the variables", bytes(&start.environment), MOST_VARIABLE_BYTES)?;
        within("the length of the folder", start.folder.len(), LONGEST_PATH)?;
        within("the length of the user", start.user.len(), LONGEST_USER)?;
        start.arguments.iter().try_for_each(|argument| no_zero("an argument", argument))?;
        no_zero("the folder", &start.folder)?;
        let terminal = start.terminal.as_ref().map(size).transpose()?;
        let own = User::own();
        let unknown = |_| OrderError::User(start.user.clone());
        let user = if start.user.is_empty() {
            own.as_ref().map_err(|_| unknown(())).cloned()?
        } else {
            User::find(&start.user).map_err(|_| unknown(()))?
        };
        let other_user = own.is_ok_and(|own| own.number != user.number);
        if other_user && role != Role::System {
            return Err(OrderError::OtherUser);
        }
        let mut environment = defaults(&user, terminal.is_some(), other_user);
        for variable in &start.environment {
            no_zero("a variable", variable)?;
            let at = variable.iter().position(|byte| *byte == b'=').filter(|at| *at > 0);
            let at = at.ok_or(OrderError::Variable)?;
            let part = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
            environment.push((part(&variable[..at]), part(&variable[at + 1..])));
        }
        let folder = match start.folder.is_empty() {
            true => user.home.clone(),
            false => OsString::from_vec(start.folder).into(),
        };
        let arguments = start.arguments.into_iter().map(OsString::from_vec).collect();
        Ok(Self { arguments, environment, folder, terminal, user, other_user })
    }

    /// The program for a message.
    #[must_use]
    pub fn name(&self) -> String {
        let program = self.arguments.first().map_or(OsStr::new(&self.user.shell), |name| name);
        format!("{program:?}")
    }
}

/// What a login sets (login(1)), where the agent's own environment has not got it.
fn defaults(user: &User, terminal: bool, other_user: bool) -> Vec<(OsString, OsString)> {
    let mut defaults: Vec<(&str, OsString)> = vec![
        ("HOME", user.home.clone().into()),
        ("USER", user.name.clone().into()),
        ("LOGNAME", user.name.clone().into()),
        ("SHELL", user.shell.clone().into()),
    ];
    if other_user || std::env::var_os("PATH").is_none() {
        defaults.push(("PATH", PATH.into()));
    }
    if terminal {
        // The host says its own kind after this.
        defaults.push(("TERM", "linux".into()));
    }
    defaults.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(start: ExecStart) -> String {
        Order::check(start, Role::System).unwrap_err().to_string()
    }

    #[test]
    fn every_limit_is_kept_and_named() {
        let start = ExecStart::default;
        let many = |count: usize, text: &[u8]| vec![text.to_vec(); count];
        for (order, reason) in [
            (ExecStart { arguments: many(1025, b""), ..start() }, "number of arguments has 1025"),
            (
                ExecStart { arguments: many(2, &[b'a'; 65536]), ..start() },
                "length of the arguments",
            ),
            (ExecStart { arguments: many(1, b"a\0"), ..start() }, "an argument contains a zero"),
            (ExecStart { environment: many(257, b"a=b"), ..start() }, "number of variables"),
            (ExecStart { environment: many(1, b"=b"), ..start() }, "NAME=VALUE"),
            (ExecStart { environment: many(1, b"a"), ..start() }, "NAME=VALUE"),
            (ExecStart { environment: many(1, b"a=\0"), ..start() }, "a variable contains a zero"),
            (ExecStart { folder: vec![b'/'; 4097], ..start() }, "length of the folder has 4097"),
            (ExecStart { user: "x".repeat(33), ..start() }, "length of the user has 33"),
            (ExecStart { user: "nobody here".into(), ..start() }, "no user \"nobody here\""),
        ] {
            let said = refused(order);
            assert!(said.contains(reason), "{said}");
        }
        for (columns, rows) in [(0, 1), (1, 0), (65536, 1)] {
            let terminal = Some(TerminalSize { columns, rows });
            assert!(refused(ExecStart { terminal, ..start() }).contains("1 to 65535"));
        }
    }

    #[test]
    fn an_order_is_completed_from_the_user() {
        let order = Order::check(
            ExecStart {
                arguments: vec![b"true".to_vec()],
                environment: vec![b"A=b=c".to_vec()],
                ..ExecStart::default()
            },
            Role::System,
        )
        .unwrap();
        let own = User::own().unwrap();
        assert_eq!((order.folder, order.other_user), (own.home.clone(), false));
        assert!(order.environment.contains(&("HOME".into(), own.home.into())));
        assert!(order.environment.contains(&("A".into(), "b=c".into())));
        assert!(order.terminal.is_none());
    }

    #[test]
    fn a_session_agent_runs_nothing_as_another() {
        let nobody = ExecStart { user: "nobody".into(), ..ExecStart::default() };
        let order = Order::check(nobody.clone(), Role::System).unwrap();
        assert!(order.other_user);
        assert_eq!(Order::check(nobody, Role::User(1000)).unwrap_err(), OrderError::OtherUser);
    }
}
