//! What the engine measures of itself.

use std::sync::LazyLock;

use metrics::{Counter, Histogram};

use crate::metrics::{counter, histogram};

/// Writes of records only: they are the ones that wait for each other and for whoever holds everything up.
pub(super) static WRITE_LOCK_WAIT: LazyLock<Histogram> = LazyLock::new(|| {
    histogram(
        "vectorkeep_write_lock_wait_seconds",
        "How long writes of records waited for the write lock.",
        &[],
    )
});

pub(super) static COMMIT_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    histogram(
        "vectorkeep_commit_duration_seconds",
        "How long transactions in the store took, without the sync that makes them durable.",
        &[],
    )
});

pub(super) static SYNC_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    histogram(
        "vectorkeep_sync_duration_seconds",
        "How long syncs of the store took.",
        &[],
    )
});

pub(super) static SYNC_COMMITS: LazyLock<Histogram> = LazyLock::new(|| {
    histogram(
        "vectorkeep_sync_commits",
        "How many commits one sync made durable.",
        &[],
    )
});

pub(super) static SEARCH_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    histogram(
        "vectorkeep_search_duration_seconds",
        "How long searches took, each with all its query vectors, its filter, and reading what was found.",
        &[],
    )
});

pub(super) static VECTORS_COMPARED: LazyLock<Counter> = LazyLock::new(|| {
    counter(
        "vectorkeep_search_vectors_compared_total",
        "Stored vectors that were compared with query vectors.",
        &[],
    )
});

pub(super) static COMPACTIONS: LazyLock<Counter> = LazyLock::new(|| {
    counter(
        "vectorkeep_compactions_total",
        "Compactions that put fresh files in the store's place.",
        &[],
    )
});

/// Makes all of them, so that they are there, at zero, before anything happens.
pub(super) fn start() {
    for histogram in [
        &WRITE_LOCK_WAIT,
        &COMMIT_DURATION,
        &SYNC_DURATION,
        &SYNC_COMMITS,
        &SEARCH_DURATION,
    ] {
        LazyLock::force(histogram);
    }
    LazyLock::force(&VECTORS_COMPARED);
    LazyLock::force(&COMPACTIONS);
}
