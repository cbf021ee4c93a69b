use std::path::PathBuf;

/// Why a checkpoint cannot be used. The text names the file, and the tensor or field, at fault.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is missing or cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A file was read but its contents are not what they should be.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A tensor is missing or not what the configuration calls for.
    #[error("{path}: tensor {tensor}: {problem}", path = path.display())]
    Tensor {
        /// The shard, or the directory if no shard holds the tensor.
        path: PathBuf,
        /// Full name.
        tensor: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The model cannot be split over that many ranks.
    #[error("--tensor-parallel-size {ranks}: {problem}")]
    Parallel {
        /// The ranks asked for.
        ranks: usize,
        /// What does not divide.
        problem: String,
    },
}
