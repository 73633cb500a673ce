//! What is wrong with an object or a file, in a form that a person can act on.

use std::fmt;
use std::path::PathBuf;

use weft_model::name::ObjectRef;

/// Something that is wrong with an object or a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, if it came from one.
    pub file: Option<PathBuf>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The object, if one could be made out.
    pub object: Option<ObjectRef>,
    /// `spec.rules[0].matches[1].path.type`; empty: the object as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    pub fix: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object, or the file, is not acted on: its last good state is held.
    Error,
    /// It is acted on, but not wholly as written.
    Warning,
    /// For information.
    Notice,
}

impl Problem {
    /// A problem with a file rather than with an object.
    pub fn of_file(
        file: impl Into<PathBuf>,
        line: Option<u32>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            file: Some(file.into()),
            line,
            object: None,
            field: String::new(),
            message: message.into(),
            fix: fix.into(),
            severity: Severity::Error,
        }
    }
}

impl Severity {
    /// `error`, `warning` or `notice`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `FILE:LINE: HTTPRoute shop/reviews: spec.rules[0].matches[1].path.type: … (fix: …)`, on one line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{}:{line}: ", file.display())?,
            (Some(file), None) => write!(f, "{}: ", file.display())?,
            (None, _) => {}
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        // A message may quote what was written; a terminal must not be driven by it.
        let clean = |text: &str| {
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect::<String>()
        };
        f.write_str(&clean(&self.message))?;
        if !self.fix.is_empty() {
            write!(f, " (fix: {})", clean(&self.fix))?;
        }
        Ok(())
    }
}
