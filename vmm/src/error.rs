//! Errors for people: what went wrong, and what to do about it.

use std::fmt;

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// A cause, and a cure where one is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    cause: String,
    cure: Option<String>,
}

impl Error {
    /// An error with its cause only.
    pub fn new(cause: impl Into<String>) -> Error {
        Error { cause: cause.into(), cure: None }
    }

    /// Adds the cure.
    #[must_use]
    pub fn cure(mut self, cure: impl Into<String>) -> Error {
        self.cure = Some(cure.into());
        self
    }

    /// What went wrong.
    pub fn cause(&self) -> &str {
        &self.cause
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        match &self.cure {
            Some(cure) => write!(f, "\n  cure: {cure}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Says what was being done when a lower layer's error came up.
pub trait Context<T> {
    /// Turns the error into ours, as "`doing`: its text".
    fn context(self, doing: &str) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: &str) -> Result<T> {
        self.map_err(|e| Error::new(format!("{doing}: {e}")))
    }
}
