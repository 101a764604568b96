//! What deep checks there are, and which includes which.

use std::fmt;

use uuid::Uuid;

use crate::health::Sample;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeepCheck {
    /// The disk and the repository.
    Storage,
    /// The records of one collection, or of all, against themselves.
    Collections(Option<Uuid>),
    /// Embeddings of one collection, or of all.
    Embeddings(Option<Uuid>, Sample),
}

impl DeepCheck {
    /// The collection, where it is of one.
    pub fn collection(self) -> Option<Uuid> {
        match self {
            Self::Storage => None,
            Self::Collections(id) | Self::Embeddings(id, _) => id,
        }
    }

    /// Whether it looks at all that another one looks at.
    pub(super) fn covers(self, other: Self) -> bool {
        let all = |ours: Option<Uuid>, theirs: Option<Uuid>| ours.is_none() || ours == theirs;
        match (self, other) {
            (Self::Storage, Self::Storage) => true,
            (Self::Collections(ours), Self::Collections(theirs)) => all(ours, theirs),
            (Self::Embeddings(ours, sample), Self::Embeddings(theirs, other)) => {
                all(ours, theirs) && sample >= other
            }
            _ => false,
        }
    }

    /// The name of its last result in the overview.
    pub(super) fn observation(self) -> &'static str {
        match self {
            Self::Storage => "storage:last_check",
            Self::Collections(_) => "collections:integrity",
            Self::Embeddings(..) => "embeddings:sample",
        }
    }
}

impl fmt::Display for DeepCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Storage => "storage",
            Self::Collections(_) => "collections",
            Self::Embeddings(..) => "embeddings",
        })
    }
}
