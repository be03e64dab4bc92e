//! Why a role cannot go on: what will pass, what will not, and being asked to stop.

use std::{error::Error, fmt::Display};

/// Stops a role's current step.
#[derive(Debug)]
pub enum Failure {
    /// It will not pass: the process exits with 2 and this line.
    Permanent(String),
    /// It may pass: the step is tried again, and `/status` shows this line meanwhile.
    Transient(String),
    /// The process was asked to stop.
    Stopped,
}

impl Failure {
    /// Will not pass, with the whole chain of causes in one line.
    pub fn permanent(error: impl Error) -> Self {
        Self::Permanent(chain(&error))
    }

    /// May pass.
    pub fn transient(error: impl Error) -> Self {
        Self::Transient(chain(&error))
    }

    /// Puts what was being done before the line.
    pub fn context(self, what: impl Display) -> Self {
        match self {
            Self::Permanent(line) => Self::Permanent(format!("{what}: {line}")),
            Self::Transient(line) => Self::Transient(format!("{what}: {line}")),
            Self::Stopped => Self::Stopped,
        }
    }
}

/// The error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    causes(error).replace('\n', " ")
}

/// The error and its causes, joined by colons; a cause that its parent already printed is not repeated.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

impl From<crate::bucket::Error> for Failure {
    fn from(error: crate::bucket::Error) -> Self {
        if error.is_transient() { Self::transient(error) } else { Self::permanent(error) }
    }
}

impl From<crate::chain::Error> for Failure {
    fn from(error: crate::chain::Error) -> Self {
        // Who asks at the newest head it knows, after minutes without the chain, finds that state gone; the next head's is
        // there. Who asks for an old window's on purpose looks at this error itself.
        let asked_late = matches!(error, crate::chain::Error::StatePruned { .. });
        if asked_late || error.is_transient() { Self::transient(error) } else { Self::permanent(error) }
    }
}

/// A full disk can be emptied and a volume can come back: nothing about files is final.
impl From<crate::files::Error> for Failure {
    fn from(error: crate::files::Error) -> Self {
        Self::transient(error)
    }
}

impl From<bistro_protocol::manifest::ManifestError> for Failure {
    fn from(error: bistro_protocol::manifest::ManifestError) -> Self {
        Self::permanent(error)
    }
}
