//! Copies that catch up with writers who write more in the meantime than can be copied.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use vectorkeep::engine::{CatchUp, RecordPatch, SnapshotScope, WriteMode};
use vectorkeep::progress::Progress;

use super::{create, open, patch_of};
use crate::harness::numbered;

const RECORDS: usize = 2_000;
const LAST_ROUND: usize = 200;
/// Far fewer than are written.
const COPIED_PER_SECOND: u64 = 2_000;
/// So few that no write waits for as long as it may, however slow the copy is on a busy machine.
const WRITTEN_AT_ONCE: usize = 10;
/// Before the end is forced, in which all records are read: nobody comes that far who catches up.
const MAX_ROUNDS: usize = 40;

/// The same content again would be no change.
fn changed(patches: &[RecordPatch], turn: usize) -> Vec<RecordPatch> {
    let mut patches = patches.to_vec();
    for patch in &mut patches {
        patch.document = Some(format!("turn {turn}"));
    }
    patches
}

/// Seen before: a full backup copied seven times its records while others wrote, and beside other jobs none ended.
#[test]
fn rounds_shrink_although_writers_are_faster_than_the_copy() {
    let home = TempDir::new().unwrap();
    let engine = open(home.path());
    let collection = create(&engine, "hot", "l2");
    let records = numbered("r", RECORDS);
    let patches: Vec<_> = records.iter().map(patch_of).collect();
    engine
        .write(collection, WriteMode::Add, patches.clone())
        .unwrap();

    let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut rounds, during) = std::thread::scope(|scope| {
        for writer in 0..2 {
            let (engine, patches, over, written) = (&engine, &patches, &over, &written);
            scope.spawn(move || {
                let chunks = patches.chunks(WRITTEN_AT_ONCE).cycle().skip(writer * 100);
                for (turn, chunk) in chunks.enumerate() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let chunk = changed(chunk, turn);
                    engine.write(collection, WriteMode::Upsert, chunk).unwrap();
                    written.fetch_add(WRITTEN_AT_ONCE as u64, Ordering::Relaxed);
                }
            });
        }
        let catch_up = CatchUp {
            max_last_round: LAST_ROUND,
            max_rounds: MAX_ROUNDS,
        };
        let before = written.load(Ordering::Relaxed);
        let mut rounds = Vec::new();
        let cut = engine.begin_snapshot(SnapshotScope::All).unwrap();
        let last = cut.run(catch_up, &Progress::default(), |_, round| {
            let mut copied = 0;
            round.for_each(|_, _| {
                copied += 1;
                std::thread::sleep(Duration::from_micros(1_000_000 / COPIED_PER_SECOND));
                Ok(())
            })?;
            rounds.push(copied);
            Ok(())
        });
        let during = written.load(Ordering::Relaxed) - before;
        over.store(true, Ordering::Relaxed);
        last.unwrap();
        (rounds, during)
    });
    // The end was not forced: writers waited for a short last round only, and had not been stopped.
    let at_the_end = rounds.pop().unwrap();
    assert!(at_the_end <= LAST_ROUND, "{at_the_end}, {rounds:?}");
    assert!(rounds.len() < MAX_ROUNDS / 2, "{rounds:?}");
    assert!(
        rounds.len() > 1 && during > RECORDS as u64,
        "{rounds:?}, {during}"
    );
    engine.close().unwrap();
}
