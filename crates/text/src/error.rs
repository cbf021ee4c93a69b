use std::path::{Path, PathBuf};

/// What can go wrong between a model directory's text files and a rendered prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file is absent or could not be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why reading it failed.
        reason: std::io::Error,
    },
    /// The directory holds none of the files that would serve.
    #[error("{}: holds neither {}", dir.display(), expected.join(" nor "))]
    Missing {
        /// The model directory.
        dir: PathBuf,
        /// The files looked for, any of which would do.
        expected: &'static [&'static str],
    },
    /// A file was read, and its contents are not what they must be.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The line or field at fault, and what was expected.
        message: String,
    },
    /// The chat template does not accept these messages (its own `raise_exception` message), or
    /// failed while rendering them.
    #[error("chat template: {0}")]
    Template(String),
}

impl TextError {
    pub(crate) fn format(path: &Path, message: impl Into<String>) -> Self {
        TextError::Format { path: path.to_owned(), message: message.into() }
    }
}

/// Reads a whole text file; an error names it.
pub(crate) fn read_text(path: &Path) -> Result<String, TextError> {
    std::fs::read_to_string(path)
        .map_err(|reason| TextError::Read { path: path.to_owned(), reason })
}

/// Reads and parses a JSON file; an error names it.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value, TextError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| TextError::format(path, format!("is not JSON: {error}")))
}
