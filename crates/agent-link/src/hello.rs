//! The first line of a connection, and its answer.
//!
//! ```text
//! guest:  macrohard-agent 1 ROLE DIRECTION PROOF\n
//! host:   ok\n     or     no REASON\n  and the end
//! ```
//!
//! ROLE is `system` or `user:UID`; DIRECTION is `calls`, `serves`, `windows`, or `share:UID:GID`.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::token::{Proof, Token};

/// Version of this line.
const VERSION: &str = "1";
/// The first word.
const WORD: &str = "macrohard-agent";
/// Most bytes of a line either way, its end included.
pub const MAX_LINE: usize = 192;
/// How long the other side may take for its line.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which agent of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The one that runs as root from the guest's start on.
    System,
    /// The one of the session of the user with this number in the guest.
    User(u32),
}

/// Who makes the calls on a connection, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The agent calls the host.
    Calls,
    /// The host calls the agent.
    Serves,
    /// The agent tells of its session's windows (crate `window-link`).
    Windows,
    /// The guest's kernel mounts a folder of the host (9P2000.L) for one of its users.
    Share {
        /// Number of the user.
        user: u32,
        /// The user's group.
        group: u32,
    },
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which agent.
    pub role: Role,
    /// Which way.
    pub direction: Direction,
    /// That it is that agent.
    pub proof: Proof,
}

/// A line that is no hello.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Another protocol, or garbage.
    #[error("the first line is not one of an agent")]
    Foreign,
    /// A later one of this protocol.
    #[error("the agent speaks version {0:?} of the first line, this program speaks {VERSION}")]
    Version(String),
    /// A word that this version does not know.
    #[error("the {0} in the first line is wrong")]
    Word(&'static str),
}

/// Why the host turns an agent away.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not a hello.
    #[error(transparent)]
    Line(#[from] HelloError),
    /// Not the agent it says it is.
    #[error("the proof is not that of {0}")]
    Proof(Role),
    /// The connection ended or stood still.
    #[error("no first line: {0}")]
    Stream(#[from] io::Error),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::User(user) => write!(f, "user:{user}"),
        }
    }
}

impl FromStr for Role {
    type Err = HelloError;

    fn from_str(text: &str) -> Result<Self, HelloError> {
        match text.split_once(':') {
            None if text == "system" => Ok(Self::System),
            Some(("user", digits)) => {
                number(digits).map(Self::User).ok_or(HelloError::Word("role"))
            }
            _ => Err(HelloError::Word("role")),
        }
    }
}

/// One way to write a number: what is proven is the text.
fn number(digits: &str) -> Option<u32> {
    let canonical = digits == "0" || !digits.starts_with(['0', '+']);
    digits.parse().ok().filter(|_| canonical)
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calls => f.write_str("calls"),
            Self::Serves => f.write_str("serves"),
            Self::Windows => f.write_str("windows"),
            Self::Share { user, group } => write!(f, "share:{user}:{group}"),
        }
    }
}

impl FromStr for Direction {
    type Err = HelloError;

    fn from_str(text: &str) -> Result<Self, HelloError> {
        let mut words = text.split(':');
        let direction = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("calls"), None, ..) => Some(Self::Calls),
            (Some("serves"), None, ..) => Some(Self::Serves),
            (Some("windows"), None, ..) => Some(Self::Windows),
            (Some("share"), Some(user), Some(group), None) => {
                number(user).zip(number(group)).map(|(user, group)| Self::Share { user, group })
            }
            _ => None,
        };
        direction.ok_or(HelloError::Word("direction"))
    }
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WORD} {VERSION} {} {} {}", self.role, self.direction, self.proof)
    }
}

impl FromStr for Hello {
    type Err = HelloError;

    /// From the line without its end.
    fn from_str(line: &str) -> Result<Self, HelloError> {
        let mut words = line.split(' ');
        if words.next() != Some(WORD) {
            return Err(HelloError::Foreign);
        }
        match words.next() {
            Some(VERSION) => {}
            other => return Err(HelloError::Version(other.unwrap_or_default().to_owned())),
        }
        let role = words.next().unwrap_or_default().parse()?;
        let direction = words.next().unwrap_or_default().parse()?;
        let proof = words.next().unwrap_or_default().parse();
        let proof = proof.map_err(|_| HelloError::Word("proof"))?;
        match words.next() {
            None => Ok(Self { role, direction, proof }),
            Some(_) => Err(HelloError::Word("end")),
        }
    }
}

/// Reads a line, byte by byte so that nothing behind it is taken.
async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let reading = async {
        let mut line = Vec::new();
        loop {
            match stream.read_u8().await? {
                b'\n' => break,
                byte if line.len() + 1 < MAX_LINE => line.push(byte),
                _ => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
                }
            }
        }
        String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not text"))
    };
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(read) => read,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no line came")),
    }
}

/// The agent's side: says `hello` and waits to be let in.
///
/// # Errors
/// The host turns it away (`PermissionDenied`, with its reason), or the connection ends.
pub async fn introduce<S>(stream: &mut S, hello: &Hello) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(format!("{hello}\n").as_bytes()).await?;
    stream.flush().await?;
    let answer = read_line(stream).await?;
    match answer.split_once(' ') {
        None if answer == "ok" => Ok(()),
        Some(("no", reason)) => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, reason.to_owned()))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not one of a host")),
    }
}

/// The host's side: reads the first line and checks its proof. The caller answers with [`admit`] when it
/// is ready for the agent; a refusal is answered here.
///
/// # Errors
/// Not an agent of this boot.
pub async fn receive<S>(stream: &mut S, token: &Token) -> Result<Hello, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let heard: Result<Hello, Refusal> = async {
        let hello: Hello = read_line(stream).await?.parse()?;
        match token.admits(hello.role, &hello.proof) {
            true => Ok(hello),
            false => Err(Refusal::Proof(hello.role)),
        }
    }
    .await;
    if let Err(refusal @ (Refusal::Line(_) | Refusal::Proof(_))) = &heard {
        // It may have gone away, which is all the same now.
        let _ = stream.write_all(format!("no {refusal}\n").as_bytes()).await;
    }
    heard
}

/// Lets the agent in.
///
/// # Errors
/// The connection has ended.
pub async fn admit(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(b"ok\n").await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello(token: &Token, role: Role) -> Hello {
        Hello { role, direction: Direction::Serves, proof: token.proof(role) }
    }

    /// What a guest and a host with these two make of each other.
    async fn meet(line: &str, token: &Token) -> (Result<Hello, Refusal>, String) {
        let (mut guest, mut host) = tokio::io::duplex(1024);
        guest.write_all(line.as_bytes()).await.unwrap();
        let heard = receive(&mut host, token).await;
        if heard.is_ok() {
            admit(&mut host).await.unwrap();
        }
        drop(host);
        let mut answer = String::new();
        guest.read_to_string(&mut answer).await.unwrap();
        (heard, answer)
    }

    #[tokio::test]
    async fn an_agent_that_proves_its_role_is_let_in() {
        let token = Token::random().unwrap();
        for role in [Role::System, Role::User(0), Role::User(u32::MAX)] {
            let said = hello(&token, role);
            let (heard, answer) = meet(&format!("{said}\n"), &token).await;
            assert_eq!(heard.unwrap(), said);
            assert_eq!(answer, "ok\n");
        }
    }

    #[tokio::test]
    async fn others_are_turned_away_with_the_reason() {
        let (token, other) = (Token::random().unwrap(), Token::random().unwrap());
        let good = hello(&token, Role::System).to_string();
        let stolen = Hello { role: Role::System, ..hello(&token, Role::User(1000)) };
        for (line, reason) in [
            (format!("{}\n", hello(&other, Role::System)), "the proof is not that of system"),
            (format!("{stolen}\n"), "the proof is not that of system"),
            ("GET / HTTP/1.1\n".to_owned(), "not one of an agent"),
            (format!("{}\n", good.replacen('1', "2", 1)), "version \"2\""),
            (format!("{} x\n", good), "the end"),
            (format!("{}\n", good.replace("serves", "sits")), "the direction"),
            (format!("{}\n", good.replace("system", "user:007")), "the role"),
            (format!("{}\n", good.replace("system", "user:4294967296")), "the role"),
        ] {
            let (heard, answer) = meet(&line, &token).await;
            let refusal = heard.expect_err(&line).to_string();
            assert!(refusal.contains(reason), "{refusal}");
            assert_eq!(answer, format!("no {refusal}\n"));
        }
        let endless = "x".repeat(MAX_LINE);
        let (heard, answer) = meet(&endless, &token).await;
        assert!(matches!(heard, Err(Refusal::Stream(_))) && answer.is_empty());
    }

    #[tokio::test]
    async fn nothing_behind_the_line_is_taken() {
        let token = Token::random().unwrap();
        let (mut guest, mut host) = tokio::io::duplex(1024);
        let line = format!("{}\nPRI *", hello(&token, Role::System));
        guest.write_all(line.as_bytes()).await.unwrap();
        receive(&mut host, &token).await.unwrap();
        drop(guest);
        let mut rest = String::new();
        host.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "PRI *");
    }

    #[tokio::test]
    async fn an_agent_hears_why_it_is_turned_away() {
        let (token, other) = (Token::random().unwrap(), Token::random().unwrap());
        let (mut guest, mut host) = tokio::io::duplex(1024);
        let said = hello(&other, Role::System);
        let (heard, introduced) =
            tokio::join!(receive(&mut host, &token), introduce(&mut guest, &said));
        assert!(heard.is_err());
        let error = introduced.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("proof"));
    }

    #[test]
    fn a_share_is_for_one_user_and_written_in_one_way() {
        let share = Direction::Share { user: 1000, group: 0 };
        assert_eq!(
            (share.to_string().as_str(), "share:1000:0".parse()),
            ("share:1000:0", Ok(share))
        );
        for wrong in ["share", "share:1", "share:1:2:3", "share:01:2", "share:-1:2", "calls:1", ""]
        {
            assert!(wrong.parse::<Direction>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_or_refused(line in ".{0,200}") {
            if let Ok(hello) = line.parse::<Hello>() {
                prop_assert_eq!(hello.to_string(), line);
            }
        }
    }
}
