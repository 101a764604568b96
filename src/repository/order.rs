//! Which of two backups holds the newer state: the one order that listings, selectors, retention and health use.
//!
//! Clocks are wrong at times, a store's sequence never is: of two backups of one store that with the higher sequence is the newer
//! one, whatever the clocks said. (A store that was set back to an earlier state, by a copy of its directory say, begins a new
//! line: what is made of it from then on is newer than what was made before.) Backups of different stores are compared by
//! time: that of a backup counts as no earlier than those of older ones of its store, and as that of its neighbours where it lies in
//! the future.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::format::Summary;

/// How far clocks may differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(10);

/// Whether a moment lies in the future: told by a clock that was wrong, or judged by one.
pub fn is_future(moment: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    moment > now + CLOCK_TOLERANCE
}

/// What of a backup says where it is in the order.
#[derive(Clone, Debug)]
struct Position<'a> {
    store: Uuid,
    line: u64,
    sequence: u64,
    as_of: DateTime<Utc>,
    id: IdKey<'a>,
}

impl<'a> Position<'a> {
    fn of(backup: &'a Summary) -> Self {
        Self {
            store: backup.store_id,
            line: backup.line,
            sequence: backup.sequence,
            as_of: backup.created_at,
            id: IdKey::of(&backup.id),
        }
    }

    /// Of one store: which is the newer one.
    fn within_store(&self) -> (u64, u64, DateTime<Utc>, &IdKey<'a>) {
        (self.line, self.sequence, self.as_of, &self.id)
    }
}

/// An id as the numbers it is made of: `…-10` comes after `…-9`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct IdKey<'a>(Vec<u64>, &'a str);

impl<'a> IdKey<'a> {
    fn of(id: &'a str) -> Self {
        let numbers = id.split(|c: char| !c.is_ascii_digit());
        Self(
            numbers.filter_map(|digits| digits.parse().ok()).collect(),
            id,
        )
    }
}

/// Sorts backups, newest first.
pub(super) fn sort_newest_first(backups: &mut Vec<Summary>, now: DateTime<Utc>) {
    let positions: Vec<Position<'_>> = backups.iter().map(Position::of).collect();
    let places = places(&positions, now);
    drop(positions);
    let mut placed: Vec<_> = places.into_iter().zip(backups.drain(..)).collect();
    placed.sort_by_key(|(place, _)| *place);
    backups.extend(placed.into_iter().map(|(_, backup)| backup));
}

/// The place of each in the order, newest first.
fn places(positions: &[Position<'_>], now: DateTime<Utc>) -> Vec<usize> {
    let mut stores: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
    for (index, position) in positions.iter().enumerate() {
        stores.entry(position.store).or_default().push(index);
    }
    // Each with the time that counts for it, and its number within its store.
    let mut counted: Vec<(DateTime<Utc>, Uuid, usize, usize)> = Vec::new();
    let at = |index: usize| positions.get(index);
    for (store, mut indices) in stores {
        if store.is_nil() {
            // Imports are of no store.
            indices.sort_by(|a, b| {
                let key = |index: usize| at(index).map(|position| (position.as_of, &position.id));
                key(*a).cmp(&key(*b))
            });
        } else {
            indices.sort_by(|a, b| {
                at(*a)
                    .map(Position::within_store)
                    .cmp(&at(*b).map(Position::within_store))
            });
        }
        let times = indices.iter().filter_map(|index| at(*index));
        let times: Vec<_> = times.map(|position| position.as_of).collect();
        let times = if store.is_nil() {
            times
        } else {
            counted_times(&times, now)
        };
        for (number, (index, time)) in indices.into_iter().zip(times).enumerate() {
            counted.push((time, store, number, index));
        }
    }
    counted.sort_unstable();
    let mut places = vec![0; positions.len()];
    for (place, (_, _, _, index)) in counted.into_iter().rev().enumerate() {
        if let Some(slot) = places.get_mut(index) {
            *slot = place;
        }
    }
    places
}

/// The times of one store's backups, oldest first, as they count: none is earlier than one before it, and none of the future
/// counts by itself.
fn counted_times(times: &[DateTime<Utc>], now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let mut counted: Vec<DateTime<Utc>> = Vec::with_capacity(times.len());
    for (index, time) in times.iter().enumerate() {
        let before = counted.last().copied();
        let own = if is_future(*time, now) {
            let rest = times.iter().skip(index);
            let later = rest.copied().find(|later| !is_future(*later, now));
            before.or(later).unwrap_or(*time)
        } else {
            *time
        };
        counted.push(before.map_or(own, |before| before.max(own)));
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn now() -> DateTime<Utc> {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn position(store: Uuid, line: u64, sequence: u64, at: &'static str) -> Position<'static> {
        Position {
            store,
            line,
            sequence,
            as_of: at.parse().unwrap(),
            id: IdKey::of(at),
        }
    }

    /// The indices, newest first.
    fn order(positions: &[Position<'_>]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..positions.len()).collect();
        let places = places(positions, now());
        order.sort_by_key(|index| places[*index]);
        order
    }

    #[test]
    fn a_clock_that_was_ahead_or_was_set_back_changes_nothing_within_a_store() {
        let positions = [
            position(STORE, 0, 10, "2026-11-23T10:00:00Z"),
            // Ahead by a year.
            position(STORE, 0, 20, "2027-11-23T10:10:00Z"),
            position(STORE, 0, 30, "2026-11-23T10:20:00Z"),
            // Set back by hours.
            position(STORE, 0, 40, "2026-11-23T05:30:00Z"),
            position(OTHER, 0, 99, "2026-11-23T10:05:00Z"),
            position(OTHER, 0, 100, "2026-11-23T10:25:00Z"),
        ];
        assert_eq!(order(&positions), [5, 3, 2, 4, 1, 0]);
    }

    #[test]
    fn a_store_that_was_set_back_begins_a_new_line() {
        let positions = [
            position(STORE, 0, 10, "2026-11-23T10:00:00Z"),
            position(STORE, 0, 90, "2026-11-23T10:10:00Z"),
            position(STORE, 1, 11, "2026-11-23T10:20:00Z"),
        ];
        assert_eq!(order(&positions), [2, 1, 0]);
    }

    #[test]
    fn the_same_sequence_is_ordered_by_time_and_imports_always_are() {
        let positions = [
            position(STORE, 0, 10, "2026-11-23T10:00:00Z"),
            position(STORE, 0, 10, "2026-11-23T10:01:00Z"),
            position(Uuid::nil(), 0, 0, "2026-11-23T10:00:30Z"),
            position(Uuid::nil(), 0, 0, "2026-11-23T09:00:00Z"),
        ];
        assert_eq!(order(&positions), [1, 2, 0, 3]);
    }

    #[test]
    fn ids_are_compared_by_their_numbers() {
        let id = IdKey::of;
        assert!(id("backup_2026-11-23_10-30-00-10") > id("backup_2026-11-23_10-30-00-9"));
        assert!(id("backup_2026-11-23_10-30-00-2") > id("backup_2026-11-23_10-30-00"));
        assert!(id("backup_2026-11-23_10-30-01") > id("backup_2026-11-23_10-30-00-9"));
    }

    #[test]
    fn clocks_may_differ_a_little() {
        assert!(!is_future("2026-11-23T12:09:00Z".parse().unwrap(), now()));
        assert!(is_future("2026-11-23T12:11:00Z".parse().unwrap(), now()));
    }
}
