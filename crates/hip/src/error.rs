//! What can go wrong below the backend.

use model::DeviceError;

/// A library that cannot be used, or a call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No library of these names can be opened.
    #[error("{names}: {reason}")]
    Library {
        /// The file names tried.
        names: String,
        /// The loader's message about the last one.
        reason: String,
    },
    /// The library lacks a function.
    #[error("the GPU runtime has no function {name}: {reason}")]
    Symbol {
        /// The function.
        name: &'static str,
        /// The loader's message.
        reason: String,
    },
    /// The machine does not fit; says what was found and what is needed.
    #[error("{0}")]
    Unfit(String),
    /// A call that returned an error.
    #[error("{call}: {name} ({code})")]
    Call {
        /// What was being done.
        call: String,
        /// The runtime's name of the error.
        name: String,
        /// Its number.
        code: i32,
    },
}

impl From<Error> for DeviceError {
    fn from(error: Error) -> DeviceError {
        DeviceError(error.to_string())
    }
}
