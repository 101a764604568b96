//! What released versions wrote opens, verifies and restores for ever: a store and a repository of each version of the
//! formats lie in `tests/data/formats`, with what is in them beside.
//!
//! The first test writes the like with today's program. `FIXTURE=tests/data/formats/NAME cargo test --test it
//! formats::todays` keeps what it wrote there.

mod damaged;
mod kept;
mod write;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vectorkeep::config::Config;

use crate::harness::{Service, files_below};

/// Of a kept store every file is compressed: its log is mostly zeros. A repository lies there as it is.
const COMPRESSED: &str = "zst";
/// What a service showed of it: collections with their records, backups with what they hold, jobs.
const EXPECTED: &str = "expected.json.zst";

/// A store, a repository and what they hold.
struct Fixture {
    root: PathBuf,
}

impl Fixture {
    /// All that are kept.
    fn all() -> Vec<Self> {
        let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/formats");
        let mut found: Vec<_> = fs::read_dir(kept)
            .unwrap()
            .map(|entry| Self {
                root: entry.unwrap().path(),
            })
            .collect();
        found.sort_by(|a, b| a.root.cmp(&b.root));
        assert!(!found.is_empty(), "no fixture is kept in {kept}");
        found
    }

    fn expected(&self) -> Value {
        let packed = fs::read(self.root.join(EXPECTED)).unwrap();
        serde_json::from_slice(&zstd::decode_all(&*packed).unwrap()).unwrap()
    }

    /// Puts it down as files in use are.
    fn unpack(&self, data_dir: &Path, repository: &Path) {
        for file in files_below(&self.root.join("store")) {
            let bytes = zstd::decode_all(&*fs::read(&file).unwrap()).unwrap();
            put(
                &self.root.join("store"),
                &file.with_extension(""),
                data_dir,
                &bytes,
            );
            assert_eq!(file.extension().unwrap(), COMPRESSED);
        }
        for file in files_below(&self.root.join("repository")) {
            let bytes = fs::read(&file).unwrap();
            put(&self.root.join("repository"), &file, repository, &bytes);
        }
    }

    /// Keeps what a stopped service left.
    fn pack(root: &Path, service: &Service, expected: &Value) -> Self {
        for file in files_below(service.data_dir()) {
            let bytes = zstd::encode_all(&*fs::read(&file).unwrap(), 19).unwrap();
            let name = format!("{}.{COMPRESSED}", file.display());
            put(
                service.data_dir(),
                Path::new(&name),
                &root.join("store"),
                &bytes,
            );
        }
        for file in files_below(&service.repository_dir()) {
            let bytes = fs::read(&file).unwrap();
            put(
                &service.repository_dir(),
                &file,
                &root.join("repository"),
                &bytes,
            );
        }
        let expected = serde_json::to_vec_pretty(expected).unwrap();
        let packed = zstd::encode_all(&*expected, 19).unwrap();
        fs::write(root.join(EXPECTED), packed).unwrap();
        Self {
            root: root.to_owned(),
        }
    }

    /// A service that runs on a copy of it; nothing in it is too old to be kept.
    async fn served(&self) -> Service {
        self.try_served(|_, _| (), |_| ()).await.unwrap()
    }

    /// As [`Fixture::served`] after something was done to the copy, of the store and of the repository.
    async fn try_served(
        &self,
        change: impl FnOnce(&Path, &Path),
        adjust: impl FnOnce(&mut Config),
    ) -> vectorkeep::error::Result<Service> {
        let mut service = Service::start().await;
        service.stop().await;
        let (data_dir, repository) = (
            service.scratch("kept-data"),
            service.scratch("kept-repository"),
        );
        self.unpack(&data_dir, &repository);
        change(&data_dir, &repository);
        let config = &mut service.config;
        config.storage.data_dir = data_dir;
        config.repository.url = repository.display().to_string();
        let century = 100 * 365 * 86_400_000;
        config.repository.grace_ms = century;
        config.jobs.kept_ms = century;
        config.migration.checkpoint_kept_ms = century;
        adjust(config);
        service.try_resume().await.map(|()| service)
    }
}

/// Writes a file of `from` to the same place below `to`.
fn put(from: &Path, file: &Path, to: &Path, bytes: &[u8]) {
    let target = to.join(file.strip_prefix(from).unwrap());
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::write(target, bytes).unwrap();
}

/// Asserts that all of `expected` stands in `found`. Members may be new; none may be gone or another.
#[track_caller]
fn assert_holds(found: &Value, expected: &Value, place: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (name, expected) in expected {
                let place = format!("{place}.{name}");
                let found = found.get(name).unwrap_or(&Value::Null);
                assert_holds(found, expected, &place);
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{place}: {found:?}");
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_holds(found, expected, &format!("{place}[{at}]"));
            }
        }
        _ => assert_eq!(found, expected, "{place}"),
    }
}
