//! One shape for everything a person is told when something cannot be done: what was tried and
//! found, what to do, and whether it was a matter of usage. Travels from the daemon to its clients
//! in the details of a gRPC status.

use crate::lifecycle::Refusal;
use definition::{FieldProblem, PlaceError, StoreError, TextError, WriteError};
use prost::Message;
use std::fmt;
use tonic::{Code, Status};

/// Exit code for a value or an option that is not allowed.
pub const EXIT_USAGE: u8 = 2;
/// Exit code for everything else that failed.
pub const EXIT_FAILURE: u8 = 1;

/// What a gRPC status code says about a problem, and no more than clients act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The value asked for is not allowed.
    Usage,
    /// No such VM.
    Unknown,
    /// A VM of that name is there.
    Taken,
    /// Impossible in the present state.
    Refused,
    /// It took longer than it may.
    TimedOut,
    /// Nobody listens.
    Unavailable,
    /// Everything else.
    Failed,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which sort.
    pub kind: Kind,
    /// What was tried and what was found.
    pub message: String,
    /// What the person can do.
    pub advice: Option<String>,
}

impl Problem {
    /// A failure.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// A value that is not allowed.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A problem of any sort.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), advice: None }
    }

    /// Adds what the person can do.
    #[must_use]
    pub fn advise(mut self, advice: impl fmt::Display) -> Self {
        self.advice = Some(advice.to_string());
        self
    }

    /// The exit code of a program that ends with this problem.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => EXIT_USAGE,
            _ => EXIT_FAILURE,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

impl From<FieldProblem> for Problem {
    fn from(problem: FieldProblem) -> Self {
        // A well-formed value that the host refuses (a missing file) is no matter of usage.
        let kind = match problem.found {
            Some(_) => Kind::Failed,
            None => Kind::Usage,
        };
        Self::new(kind, problem)
    }
}

impl From<TextError> for Problem {
    fn from(error: TextError) -> Self {
        Self::failed(error)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Name(problem) => problem.into(),
            StoreError::Unknown { .. } => {
                Self::new(Kind::Unknown, error).advise("`list --all` shows the VMs there are")
            }
            StoreError::Taken { .. } => {
                Self::new(Kind::Taken, error).advise("choose another name, or delete that VM first")
            }
            StoreError::Text { name, path: Some(path), source } => Self::failed(format!(
                "the definition of VM \"{name}\" in {} is not valid: {source}",
                path.display()
            ))
            .advise(format!("correct it with `edit \"{name}\"`")),
            StoreError::Text { path: None, source, .. } => match &source.problem {
                Some(problem) => (**problem).clone().into(),
                None => Self::failed(source),
            },
            other => Self::failed(other),
        }
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        Self::failed(error)
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Self {
        Self::failed(error)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let advice = refusal.advice();
        Self::new(Kind::Refused, refusal).advise(advice)
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let code = match problem.kind {
            Kind::Usage => Code::InvalidArgument,
            Kind::Unknown => Code::NotFound,
            Kind::Taken => Code::AlreadyExists,
            Kind::Refused => Code::FailedPrecondition,
            Kind::TimedOut => Code::DeadlineExceeded,
            Kind::Unavailable => Code::Unavailable,
            Kind::Failed => Code::Internal,
        };
        let details = proto::v1::Problem { advice: problem.advice.unwrap_or_default() };
        Self::with_details(code, problem.message, details.encode_to_vec().into())
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        // A status with a source was made on this side: no answer came.
        if let Some(source) = std::error::Error::source(&status) {
            return Self::new(
                Kind::Unavailable,
                format!("the daemon went away before it answered ({source})"),
            )
            .advise("VMs go on without it; `list --all` shows where they stand");
        }
        let kind = match status.code() {
            Code::InvalidArgument => Kind::Usage,
            Code::NotFound => Kind::Unknown,
            Code::AlreadyExists => Kind::Taken,
            Code::FailedPrecondition => Kind::Refused,
            Code::DeadlineExceeded => Kind::TimedOut,
            Code::Unavailable => Kind::Unavailable,
            _ => Kind::Failed,
        };
        let advice = proto::v1::Problem::decode(status.details())
            .map(|details| details.advice)
            .unwrap_or_default();
        Self {
            kind,
            message: match status.message() {
                "" => format!("the daemon answered {}", status.code()),
                message => message.to_owned(),
            },
            advice: (!advice.is_empty()).then_some(advice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_way_through_grpc() {
        for kind in [
            Kind::Usage,
            Kind::Unknown,
            Kind::Taken,
            Kind::Refused,
            Kind::TimedOut,
            Kind::Unavailable,
            Kind::Failed,
        ] {
            let plain = Problem::new(kind, "tried ü, found ö");
            for problem in [plain.clone(), plain.advise("do ä")] {
                assert_eq!(Problem::from(Status::from(problem.clone())), problem);
            }
        }
    }

    #[test]
    fn only_usage_ends_with_the_exit_code_for_usage() {
        assert_eq!(Problem::usage("x").exit_code(), 2);
        assert_eq!(Problem::failed("x").exit_code(), 1);
    }
}
