//! The data directory and the repository: there, writable, and with room.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::Access;
use uuid::Uuid;

use super::{Report, Status};
use crate::config::HealthConfig;
use crate::disk;
use crate::engine::Engine;
use crate::error::Result;
use crate::repository::Repository;

const PROBE_BYTES: usize = 64 * 1024;
const PROBE_PREFIX: &str = "health-probe-";

/// Writes, reads back and removes a file; asks for free room; asks the repository.
pub fn check_storage(
    engine: &Engine,
    repository: Result<Repository>,
    config: &HealthConfig,
) -> Report {
    let mut report = Report::default();
    let data_dir = engine.data_dir();
    check_directory(&mut report, data_dir);
    check_writing(&mut report, data_dir, config);
    let newest = repository.as_ref().ok().and_then(|repository| {
        engine.fault()?;
        repository.backups_seen().ok().map(|seen| seen.newest)
    });
    let room = disk::available_bytes(data_dir).ok();
    check_accepting(&mut report, engine, newest, room);
    check_disk(&mut report, engine, config);
    match engine.size_bytes() {
        Ok(size) => report.pass("storage:used", size, "bytes"),
        Err(error) => report.fail("storage:used", error.message()),
    }
    check_repository(&mut report, repository, config);
    report
}

fn check_directory(report: &mut Report, data_dir: &Path) {
    let shown = data_dir.display();
    match fs::metadata(data_dir) {
        Ok(metadata) if metadata.is_dir() => {
            report.pass("storage:data_dir", shown.to_string(), "path");
        }
        Ok(_) => report.fail(
            "storage:data_dir",
            &format!("{shown} is not a directory: move what is there out of the way"),
        ),
        Err(error) => report.fail("storage:data_dir", &format!("{shown}: {error}")),
    }
    let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    match rustix::fs::access(data_dir, wanted) {
        Ok(()) => report.pass("storage:permissions", "rwx", "access"),
        Err(error) => report.fail(
            "storage:permissions",
            &format!(
                "{shown} must be readable, writable and searchable for the user that the service runs as: {error}"
            ),
        ),
    }
}

fn check_writing(report: &mut Report, data_dir: &Path, config: &HealthConfig) {
    let name = "storage:write_latency";
    match write_probe(data_dir) {
        Ok(latency_ms) if latency_ms > config.write_latency_warn_ms => {
            let output = format!(
                "writing and syncing {PROBE_BYTES} bytes took longer than health.write_latency_warn_ms = {}; look \
                 for what else uses the disk",
                config.write_latency_warn_ms
            );
            report.add(name, Status::Warn, latency_ms, "ms", Some(output));
        }
        Ok(latency_ms) => report.pass(name, latency_ms, "ms"),
        Err(error) => report.fail(
            name,
            &format!("{} cannot be written: {error}", data_dir.display()),
        ),
    }
}

/// A file really written, synced, read back and removed; milliseconds for it.
fn write_probe(data_dir: &Path) -> io::Result<u64> {
    // Several at a time have their own.
    let path = data_dir.join(format!("{PROBE_PREFIX}{}.tmp", Uuid::new_v4()));
    let started = Instant::now();
    let outcome = write_and_read(&path);
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && outcome.is_err() => Ok(()),
        removed => removed,
    };
    outcome?;
    removed?;
    Ok(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
}

fn write_and_read(path: &Path) -> io::Result<()> {
    let written = vec![0xa5; PROBE_BYTES];
    let mut file = File::create_new(path)?;
    file.write_all(&written)?;
    file.sync_all()?;
    let mut read = Vec::new();
    File::open(path)?.read_to_end(&mut read)?;
    if read == written {
        return Ok(());
    }
    Err(io::Error::other(
        "what was read back is not what was written",
    ))
}

/// Removes the files of probes that an earlier process did not get to remove.
pub fn clear_probes(data_dir: &Path) {
    let left = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PROBE_PREFIX))
    };
    let entries = fs::read_dir(data_dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(left) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(file = %path.display(), %error, "a probe's file stays");
        }
    }
}

/// Which backup is the newest, in words; `None` where the repository was not read.
pub(super) fn newest_words(newest: Option<Option<String>>) -> String {
    match newest {
        Some(Some(id)) => format!("the newest backup is {id}"),
        Some(None) => "there is no backup".to_owned(),
        None => "which backup is the newest is not known yet".to_owned(),
    }
}

/// Whether the store takes writes; if not, why, and which backup to restore. `newest`: the id of the newest backup that
/// is not known to be damaged, `None` where the repository was not read. `room`: bytes that are free on its disk.
pub(super) fn check_accepting(
    report: &mut Report,
    engine: &Engine,
    newest: Option<Option<String>>,
    room: Option<u64>,
) {
    let Some(fault) = engine.fault() else {
        let least = engine.min_free_bytes();
        match room.filter(|room| *room < least) {
            None => report.pass("storage:accepting_writes", true, "boolean"),
            Some(room) => report.fail(
                "storage:accepting_writes",
                &format!(
                    "writes are answered 507: {room} bytes are free on the disk of the data directory, and \
                     storage.min_free_bytes = {least} of them are kept free; make room, or move the data directory"
                ),
            ),
        }
        return;
    };
    let newest = newest_words(newest);
    report.fail(
        "storage:accepting_writes",
        &format!(
            "no writes are taken after a storage fault: {fault}. Restart; if it stays, restore into an empty data \
             directory: {newest}"
        ),
    );
}

/// Free room against the two configured floors; used and total bytes of the file system.
pub(super) fn check_disk(report: &mut Report, engine: &Engine, config: &HealthConfig) {
    match disk::room(engine.data_dir()) {
        Ok(room) => {
            let what = "make room or move the data directory";
            check_free(
                report,
                "storage:disk_free",
                room.available_bytes,
                what,
                config,
            );
            report.pass("storage:disk_used", room.used_bytes, "bytes");
            report.pass("storage:disk_total", room.total_bytes, "bytes");
        }
        Err(error) => report.fail("storage:disk_free", error.message()),
    }
}

fn check_free(report: &mut Report, name: &str, free: u64, what: &str, config: &HealthConfig) {
    let (status, floor) = if free < config.disk_fail_bytes {
        (Status::Fail, config.disk_fail_bytes)
    } else if free < config.disk_warn_bytes {
        (Status::Warn, config.disk_warn_bytes)
    } else {
        (Status::Pass, 0)
    };
    let output =
        (status != Status::Pass).then(|| format!("less than {floor} bytes are free; {what}"));
    report.add(name, status, free, "bytes", output);
}

fn check_repository(report: &mut Report, repository: Result<Repository>, config: &HealthConfig) {
    let reached = repository.and_then(|repository| {
        repository.probe()?;
        Ok((repository.available_bytes()?, repository))
    });
    match reached {
        Ok((free, repository)) => {
            report.pass("repository:reachable", repository.location(), "path");
            if let Some(free) = free {
                let what = "make room, or no more backups can be made";
                check_free(report, "repository:disk_free", free, what, config);
            }
        }
        Err(error) => report.fail("repository:reachable", error.message()),
    }
}
