//! The service's one error type. It knows a kind, a message for the caller and a cause for the log;
//! it knows nothing of HTTP (the kind becomes a status in `api/error.rs`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Result with the service's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A value that is not allowed; sending it again cannot help.
    InvalidArgument,
    /// Well-formed, but asks for something impossible or not offered.
    Unprocessable,
    /// The named thing does not exist.
    NotFound,
    /// A name is taken.
    NameConflict,
    /// The state of the thing forbids it (another exclusive job runs, too late to cancel).
    Conflict,
    /// Not allowed here, whoever asks.
    Forbidden,
    /// No key, or none of ours.
    Unauthenticated,
    /// The key's role or scope does not allow it.
    RoleTooSmall,
    /// A bound of the configuration was reached for now.
    Overloaded,
    /// The service cannot do it now: it starts, drains, or has stopped accepting writes.
    Unavailable,
    /// Chroma's protocol has it, this server does not.
    Unimplemented,
    /// A stored value, a data directory or a sled file is damaged.
    StorageFault,
    /// The repository's directory is not there, cannot be read or written, or is another one than it was.
    RepositoryUnusable,
    /// A backup is damaged or incomplete.
    BackupCorrupt,
    /// Another machine that this one needs cannot be reached, or answers badly.
    RemoteUnavailable,
    /// Not enough room on the disk.
    InsufficientStorage,
    /// The request itself did not arrive in time.
    SlowRequest,
    /// It took longer than the configured bound.
    Timeout,
    /// The body or the number of things in it is above the configured bound.
    TooLarge,
    /// The thing is there, but not to be used this way.
    NotAllowed,
    /// The body has a media type that is not read here.
    UnsupportedMediaType,
    /// The work was cancelled by its caller.
    Canceled,
    /// A defect of this program or an unexpected failure of the machine.
    Internal,
}

impl Kind {
    /// Of a file that cannot be written or read: a full disk is no fault of the storage.
    pub(crate) fn of_file(error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded => Self::InsufficientStorage,
            _ => Self::StorageFault,
        }
    }
}

/// An error with a public message, members for the problem body, and a private cause.
pub struct Error {
    kind: Kind,
    message: String,
    members: Vec<(&'static str, serde_json::Value)>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` whose `message` may be shown to the caller.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            members: Vec::new(),
            cause: None,
        }
    }

    /// A value that is not allowed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// Well-formed, but impossible or not offered.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unprocessable, message)
    }

    /// The named thing does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// A name is taken.
    pub fn name_conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::NameConflict, message)
    }

    /// Stored data is damaged.
    pub fn storage(message: impl Into<String>) -> Self {
        Self::new(Kind::StorageFault, message)
    }

    /// A file could not be read or written: `InsufficientStorage` where the disk is full, else `StorageFault`.
    pub(crate) fn file(message: impl Into<String>, error: std::io::Error) -> Self {
        Self::new(Kind::of_file(&error), message).because(error)
    }

    /// The repository cannot be used.
    pub fn repository(message: impl Into<String>) -> Self {
        Self::new(Kind::RepositoryUnusable, message)
    }

    /// A backup is damaged.
    pub fn backup_corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::BackupCorrupt, message)
    }

    /// A defect or an unexpected failure; `message` is for the log as well as for the caller, so it
    /// must not carry secrets.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Adds a member to the problem body.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// Adds the cause, which is logged and never sent.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same error for another caller; the cause as text.
    pub fn again(&self) -> Self {
        Self {
            kind: self.kind,
            message: self.message.clone(),
            members: self.members.clone(),
            cause: self.cause_text().map(Into::into),
        }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The public message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Members of the case for the problem body.
    pub fn members(&self) -> &[(&'static str, serde_json::Value)] {
        &self.members
    }

    /// The private cause as text, for the log.
    pub fn cause_text(&self) -> Option<String> {
        self.cause.as_ref().map(ToString::to_string)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        if let Some(cause) = &self.cause {
            write!(f, " ({cause})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause
            .as_deref()
            .map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}
