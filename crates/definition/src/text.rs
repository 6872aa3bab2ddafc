//! From TOML text to a checked definition and back; every refusal points at its place.

use crate::check::{Field, FieldProblem, Step};
use crate::machine::VmDefinition;
use std::fmt;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// A definition text that is not a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// Line from 1.
    pub line: usize,
    /// Character within the line, from 1.
    pub column: usize,
    /// The line itself.
    pub source_line: String,
    /// What is wrong there.
    pub message: String,
    /// The rule that is broken, when the text is TOML but a value is not allowed.
    pub problem: Option<Box<FieldProblem>>,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, source_line, message, .. } = self;
        let margin = line.to_string().len();
        let under = column.saturating_sub(1);
        write!(
            f,
            "line {line}, column {column}: {message}\n{line} | {source_line}\n{:margin$} | {:under$}^",
            "", ""
        )
    }
}

impl std::error::Error for TextError {}

impl TextError {
    fn at(text: &str, offset: usize, message: String) -> Self {
        let offset = (0..=offset.min(text.len()))
            .rev()
            .find(|offset| text.is_char_boundary(*offset))
            .unwrap_or(0);
        let (before, _) = text.split_at(offset);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let source_line = text[line_start..].lines().next().unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: text[line_start..offset].chars().count() + 1,
            source_line: source_line.replace(char::is_control, " "),
            message,
            problem: None,
        }
    }
}

/// Reads and checks a definition; looks at no file the definition names.
///
/// # Errors
/// The text is not TOML, has unknown, missing or wrongly typed fields, or a value that is not
/// allowed; the error carries line and column.
pub fn parse(text: &str) -> Result<VmDefinition, TextError> {
    let definition: VmDefinition = toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        TextError::at(text, offset, in_words(error.message()))
    })?;
    definition.check().map_err(|problem| {
        let offset = place_of(text, &problem.field).map_or(0, |span| span.start);
        TextError {
            problem: Some(Box::new(problem.clone())),
            ..TextError::at(text, offset, problem.to_string())
        }
    })?;
    Ok(definition)
}

/// The parser's message without the names of Rust's types.
fn in_words(message: &str) -> String {
    ["u64", "u32", "u16"].iter().fold(message.replace(" as i128", ""), |message, number| {
        message.replace(&format!("expected {number}"), "expected a whole number, 0 or more")
    })
}

/// The text of a file, which must be UTF-8; else where it is not.
pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        format!(
            "line {}, column {}: byte {:#04x} is not UTF-8 text",
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
            error.as_bytes()[valid]
        )
    })
}

/// Where `field` stands in `text`, or its closest ancestor that stands there.
fn place_of(text: &str, field: &Field) -> Option<Range<usize>> {
    let root = DeTable::parse(text).ok()?;
    let mut steps = field.0.iter();
    let Some(Step::Key(first)) = steps.next() else {
        return None;
    };
    let mut value = root.get_ref().get(*first)?;
    for step in steps {
        let next = match (step, value.get_ref()) {
            (Step::Key(key), DeValue::Table(table)) => table.get(*key),
            (Step::Index(index), DeValue::Array(array)) => array.get(*index),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => break,
        }
    }
    Some(value.span())
}

impl VmDefinition {
    /// The definition as the TOML text that [`parse`] reads back to an equal value.
    ///
    /// # Errors
    /// The definition is not allowed ([`VmDefinition::check`]), so it must not be stored.
    pub fn to_toml(&self) -> Result<String, FieldProblem> {
        self.check()?;
        toml::to_string_pretty(self)
            .map_err(|error| FieldProblem::new(Field::default(), &self.name, error.to_string()))
    }
}
