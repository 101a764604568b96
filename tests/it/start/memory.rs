//! The memory of a job does not grow with what it works on.

use std::fs;

use serde_json::{Value, json};

use super::Process;
use crate::harness::text;

const MEMORY_BYTES: u64 = 8 << 20;
/// Of records, in bytes: ten times the memory of a job, and far above what is allowed.
const CONTENT_BYTES: usize = 80 << 20;
const DOCUMENT_BYTES: usize = 32 << 10;
const BATCH: usize = 64;

/// A line of /proc/PID/status, in bytes.
fn memory(process: &Process, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.unwrap().trim_start_matches(':').trim();
    kib.trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

/// How far resident memory rises above where it is while something is done.
async fn rise<T>(process: &Process, what: impl Future<Output = T>) -> (T, u64) {
    fs::write(format!("/proc/{}/clear_refs", process.child.id()), "5").unwrap();
    let before = memory(process, "VmRSS");
    let done = what.await;
    (done, memory(process, "VmHWM").saturating_sub(before))
}

/// Text that zstd finds little in.
fn document(seed: usize) -> String {
    let mut state = seed as u64 + 1;
    let letter = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 59) as u8 % 26)
    };
    (0..DOCUMENT_BYTES).map(letter).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_on_ten_times_their_memory_stay_within_it() {
    let home = tempfile::tempdir().unwrap();
    let memory_bytes = MEMORY_BYTES.to_string();
    let process = Process::start(
        home.path(),
        &[
            ("VECTORKEEP__JOBS__MEMORY_BYTES", memory_bytes.as_str()),
            ("VECTORKEEP__REPOSITORY__PACK_BYTES", "262144"),
            ("VECTORKEEP__STORAGE__CACHE_BYTES", "4194304"),
        ],
    )
    .await;
    let http = &process.http;
    let large = http.create("large").await;
    for start in (0..CONTENT_BYTES / DOCUMENT_BYTES).step_by(BATCH) {
        let numbers = start..start + BATCH;
        let ids: Vec<_> = numbers.clone().map(|n| format!("id-{n}")).collect();
        let documents: Vec<_> = numbers.clone().map(document).collect();
        let vectors: Vec<_> = numbers.map(|n| [n as f32, 1.0]).collect();
        let body = json!({"ids": ids, "embeddings": vectors, "documents": documents});
        large.post("add", body).await.expect(201);
    }
    let mut rises = Vec::new();
    let (backup, bytes) = rise(&process, http.backup(json!({}))).await;
    assert!(backup["raw_bytes"].as_u64().unwrap() >= CONTENT_BYTES as u64);
    rises.push(("backup", bytes));
    let id = text(&backup["id"]);
    let path = format!("/backups/{id}/verify?wait=true");
    let verify = http.post(&path, json!({}));
    let (verified, bytes) = rise(&process, verify).await;
    verified.expect(200);
    rises.push(("verification", bytes));
    let path = format!("/backups/{id}/export");
    let export = http.get(&path);
    let (exported, bytes) = rise(&process, export).await;
    rises.push(("export", bytes));
    let document = exported.expect(200).bytes;
    assert!(document.len() > CONTENT_BYTES);
    let import = http
        .request("POST", "/backups/import?wait=true")
        .header("content-type", "application/json")
        .body(document);
    let (imported, bytes) = rise(&process, crate::harness::Http::try_send(import)).await;
    let imported: Value = imported.unwrap().ok(201);
    assert_eq!(
        imported["result"]["collections"][0]["digest"],
        backup["collections"][0]["digest"]
    );
    rises.push(("import", bytes));
    // Beside the job's: stacks, buffers of connections, pages of the store's cache, what each thread's
    // allocator keeps.
    let allowed = MEMORY_BYTES + (56 << 20);
    assert!(allowed < CONTENT_BYTES as u64);
    assert!(
        rises.iter().all(|(_, bytes)| *bytes <= allowed),
        "allowed {allowed}: {rises:?}"
    );
    eprintln!("resident memory rose by {rises:?}");
}
