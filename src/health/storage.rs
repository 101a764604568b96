//! The data directory and the repository: there, writable, and with room.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Instant;

use super::{Report, Status};
use crate::config::HealthConfig;
use crate::disk;
use crate::engine::Engine;
use crate::error::Result;
use crate::repository::Repository;

const PROBE_BYTES: usize = 64 * 1024;

/// Writes, reads back and removes a file; asks for free room; asks the repository.
pub fn check_storage(
    engine: &Engine,
    repository: Result<Repository>,
    config: &HealthConfig,
) -> Report {
    let mut report = Report::default();
    let data_dir = engine.data_dir();
    match fs::metadata(data_dir) {
        Ok(metadata) if metadata.is_dir() => {
            report.pass("storage:data_dir", data_dir.display().to_string(), "path");
        }
        Ok(_) => fail(
            &mut report,
            "storage:data_dir",
            "the data directory is not a directory",
        ),
        Err(error) => fail(
            &mut report,
            "storage:data_dir",
            &format!("the data directory: {error}"),
        ),
    }
    match write_probe(data_dir) {
        Ok(latency_ms) => report.pass("storage:write_latency", latency_ms, "ms"),
        Err(error) => fail(
            &mut report,
            "storage:write_latency",
            &format!("{} cannot be written: {error}", data_dir.display()),
        ),
    }
    check_accepting(&mut report, engine, &repository);
    check_disk(&mut report, engine, config);
    match engine.size_bytes() {
        Ok(size) => report.pass("storage:used", size, "bytes"),
        Err(error) => fail(&mut report, "storage:used", error.message()),
    }
    match repository.and_then(|repository| repository.probe().map(|()| repository)) {
        Ok(repository) => report.pass("repository:reachable", repository.location(), "path"),
        Err(error) => fail(&mut report, "repository:reachable", error.message()),
    }
    report
}

fn fail(report: &mut Report, name: &str, output: &str) {
    report.add(
        name,
        Status::Fail,
        false,
        "boolean",
        Some(output.to_owned()),
    );
}

/// A file really written, synced, read back and removed; milliseconds for it.
fn write_probe(data_dir: &Path) -> std::io::Result<u64> {
    let path = data_dir.join("health-probe.tmp");
    let started = Instant::now();
    let written = vec![0xa5; PROBE_BYTES];
    let outcome = (|| {
        let mut file = File::create(&path)?;
        file.write_all(&written)?;
        file.sync_all()?;
        let mut read = Vec::new();
        File::open(&path)?.read_to_end(&mut read)?;
        if read == written {
            Ok(())
        } else {
            Err(std::io::Error::other(
                "what was read back is not what was written",
            ))
        }
    })();
    let removed = fs::remove_file(&path);
    outcome?;
    removed?;
    Ok(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Whether the store takes writes; if not, which backup to restore.
pub(super) fn check_accepting(
    report: &mut Report,
    engine: &Engine,
    repository: &Result<Repository>,
) {
    let Some(fault) = engine.fault() else {
        report.pass("storage:accepting_writes", true, "boolean");
        return;
    };
    let newest = repository
        .as_ref()
        .ok()
        .and_then(|repository| repository.latest().ok())
        .map_or_else(
            || "there is no backup".to_owned(),
            |manifest| format!("the newest backup is {}", manifest.id),
        );
    let output = format!(
        "no writes are taken after a storage fault: {fault}. Restart; if it stays, restore into an empty data \
         directory: {newest}"
    );
    report.add(
        "storage:accepting_writes",
        Status::Fail,
        false,
        "boolean",
        Some(output),
    );
}

/// Free room against the two configured floors.
pub(super) fn check_disk(report: &mut Report, engine: &Engine, config: &HealthConfig) {
    let name = "storage:disk_free";
    match disk::available_bytes(engine.data_dir()) {
        Ok(free) => {
            let (status, floor) = if free < config.disk_fail_bytes {
                (Status::Fail, config.disk_fail_bytes)
            } else if free < config.disk_warn_bytes {
                (Status::Warn, config.disk_warn_bytes)
            } else {
                (Status::Pass, 0)
            };
            let output = (status != Status::Pass).then(|| {
                format!("less than {floor} bytes are free; make room or move the data directory")
            });
            report.add(name, status, free, "bytes", output);
        }
        Err(error) => fail(report, name, error.message()),
    }
}
