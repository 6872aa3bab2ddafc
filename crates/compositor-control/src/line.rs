//! A message as a line: the document, and the descriptor that stands beside it. At most one goes with a line.

use crate::messages::{
    Answer, FromCompositor, Mode, Question, Start, Status, ToCompositor, Window,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::os::fd::OwnedFd;

/// A message of one side. Only the two of this crate.
pub trait Message: sealed::Sealed {}
impl Message for ToCompositor {}
impl Message for FromCompositor {}

pub(crate) mod sealed {
    use super::{DeserializeOwned, OwnedFd, Serialize};

    pub trait Sealed: Sized {
        /// What stands on the line.
        type Line: Serialize + DeserializeOwned;
        fn apart(self) -> (Self::Line, Option<OwnedFd>);
        /// `take` gives the descriptor; none when the line's own is missing.
        fn together(line: Self::Line, take: impl FnOnce() -> Option<OwnedFd>) -> Option<Self>;
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToLine {
    Start {
        start: Start,
    },
    Memory {
        #[serde(default)]
        offset: u64,
        length: u64,
    },
    Guest {
        user: u32,
    },
    Display {},
    Mode {
        mode: Mode,
    },
    Ask {
        number: u64,
        question: Question,
    },
    Launched {},
    End {},
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FromLine {
    Ready { version: u32, program: String },
    Wish { mode: Mode },
    Answer { number: u64, answer: AnswerLine },
    GuestGone { reason: String },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AnswerLine {
    Status { status: Status },
    Windows { windows: Vec<Window> },
    Picture { length: u64 },
    Refused { message: String },
}

impl sealed::Sealed for ToCompositor {
    type Line = ToLine;

    fn apart(self) -> (ToLine, Option<OwnedFd>) {
        match self {
            Self::Start(start) => (ToLine::Start { start }, None),
            Self::Memory { memory, offset, length } => {
                (ToLine::Memory { offset, length }, Some(memory))
            }
            Self::Guest { connection, user } => (ToLine::Guest { user }, Some(connection)),
            Self::Display { connection } => (ToLine::Display {}, Some(connection)),
            Self::Mode(mode) => (ToLine::Mode { mode }, None),
            Self::Ask { number, question } => (ToLine::Ask { number, question }, None),
            Self::Launched => (ToLine::Launched {}, None),
            Self::End => (ToLine::End {}, None),
        }
    }

    fn together(line: ToLine, take: impl FnOnce() -> Option<OwnedFd>) -> Option<Self> {
        Some(match line {
            ToLine::Start { start } => Self::Start(start),
            ToLine::Memory { offset, length } => Self::Memory { memory: take()?, offset, length },
            ToLine::Guest { user } => Self::Guest { connection: take()?, user },
            ToLine::Display {} => Self::Display { connection: take()? },
            ToLine::Mode { mode } => Self::Mode(mode),
            ToLine::Ask { number, question } => Self::Ask { number, question },
            ToLine::Launched {} => Self::Launched,
            ToLine::End {} => Self::End,
        })
    }
}

impl sealed::Sealed for FromCompositor {
    type Line = FromLine;

    fn apart(self) -> (FromLine, Option<OwnedFd>) {
        match self {
            Self::Ready { version, program } => (FromLine::Ready { version, program }, None),
            Self::Wish(mode) => (FromLine::Wish { mode }, None),
            Self::GuestGone { reason } => (FromLine::GuestGone { reason }, None),
            Self::Answer { number, answer } => {
                let (answer, descriptor) = match answer {
                    Answer::Status(status) => (AnswerLine::Status { status }, None),
                    Answer::Windows(windows) => (AnswerLine::Windows { windows }, None),
                    Answer::Picture { file, length } => {
                        (AnswerLine::Picture { length }, Some(file))
                    }
                    Answer::Refused { message } => (AnswerLine::Refused { message }, None),
                };
                (FromLine::Answer { number, answer }, descriptor)
            }
        }
    }

    fn together(line: FromLine, take: impl FnOnce() -> Option<OwnedFd>) -> Option<Self> {
        Some(match line {
            FromLine::Ready { version, program } => Self::Ready { version, program },
            FromLine::Wish { mode } => Self::Wish(mode),
            FromLine::GuestGone { reason } => Self::GuestGone { reason },
            FromLine::Answer { number, answer } => {
                let answer = match answer {
                    AnswerLine::Status { status } => Answer::Status(status),
                    AnswerLine::Windows { windows } => Answer::Windows(windows),
                    AnswerLine::Picture { length } => Answer::Picture { file: take()?, length },
                    AnswerLine::Refused { message } => Answer::Refused { message },
                };
                Self::Answer { number, answer }
            }
        })
    }
}
