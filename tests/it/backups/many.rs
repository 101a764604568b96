//! Backups of many collections: one for each file, as applications make them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{DEFAULT_NAMESPACE, Service, files_below, text};

const MANY: usize = 150;
const NAMESPACES: [&str; 2] = [
    DEFAULT_NAMESPACE,
    "/api/v2/tenants/default_tenant/databases/files",
];

/// As many collections of a record, some in a database of their own.
async fn with_many() -> Service {
    let service = Service::with(|config| config.repository.grace_ms = 0).await;
    let database = json!({"name": "files"});
    let databases = "/api/v2/tenants/default_tenant/databases";
    service.post(databases, database).await.expect(200);
    for number in 0..MANY {
        let named = json!({"name": format!("file-{number}")});
        let collection = service.create_in(NAMESPACES[number % 2], named).await;
        let record = json!({"ids": [format!("r{number}")], "embeddings": [[number, 1.0]]});
        collection.post("add", record).await.expect(201);
    }
    service
}

fn packs(service: &Service) -> Vec<PathBuf> {
    let mut files = files_below(&service.repository_dir().join("packs"));
    files.sort();
    files
}

fn is_part(path: &Path) -> bool {
    path.to_str().unwrap().ends_with(".json.zst")
}

fn added(before: &[PathBuf], after: &[PathBuf]) -> Vec<PathBuf> {
    let new = after.iter().filter(|path| !before.contains(path));
    new.cloned().collect()
}

fn manifest_bytes(service: &Service, id: &str) -> u64 {
    let path = format!("backups/{id}.json");
    fs::metadata(service.repository_dir().join(path))
        .unwrap()
        .len()
}

/// Name and digest of every collection.
fn content(backup: &Value) -> Vec<(String, String, String)> {
    let collections = backup["collections"].as_array().unwrap().iter();
    let mut content: Vec<_> = collections
        .map(|c| (text(&c["database"]), text(&c["name"]), text(&c["digest"])))
        .collect();
    content.sort();
    content
}

/// Seen before: 3.4 MB of manifest for 2,000 collections of which none had changed, and 403 requests for 200.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_did_not_change_costs_next_to_nothing() {
    let mut service = with_many().await;
    let first = service.backup(json!({})).await;
    assert_eq!(
        (&first["kind"], &first["records"]),
        (&json!("full"), &json!(MANY))
    );
    let stored = packs(&service);

    let unchanged = service.backup(json!({})).await;
    assert_eq!(unchanged["kind"], "incremental");
    assert_eq!(packs(&service), stored);
    let bytes = manifest_bytes(&service, &text(&unchanged["id"]));
    assert!(bytes < 4_096, "{bytes}");
    // It counts what it wrote, the manifest.
    assert_eq!(unchanged["new_bytes"], bytes);
    assert_eq!(content(&unchanged), content(&first));

    // The results of such jobs are long, and stand in the store only.
    for restarted in [false, true] {
        if restarted {
            service.restart().await;
        }
        let listed = service.get("/jobs?kind=backup").await.ok(200);
        let [newest, oldest] = listed["jobs"].as_array().unwrap().as_slice() else {
            panic!("{listed}")
        };
        assert_eq!((&newest["result"], &oldest["result"]), (&unchanged, &first));
        let id = text(&newest["id"]);
        let same = service.get(&format!("/jobs/{id}")).await.ok(200);
        assert_eq!(same, *newest);
        let events = service.get(&format!("/jobs/{id}/events")).await.text();
        assert!(events.contains("file-149"), "{events}");
    }

    let one = service.open_in(NAMESPACES[1], "file-77").await;
    let record = json!({"ids": ["new"], "embeddings": [[0.5, 0.5]]});
    one.post("upsert", record).await.expect(200);
    service.restart().await;
    let changed = service.backup(json!({})).await;
    let new = added(&stored, &packs(&service));
    let parts = new.iter().filter(|path| is_part(path)).count();
    assert_eq!((parts, new.len()), (1, 2), "{new:?}");
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let bytes = manifest_bytes(&service, &text(&changed["id"])) + new.iter().map(size).sum::<u64>();
    assert_eq!(changed["new_bytes"], bytes);
    let differ = |(a, b): &(_, _)| a != b;
    let pairs = content(&first).into_iter().zip(content(&changed));
    assert_eq!(pairs.filter(differ).count(), 1);

    // Each is whole by itself; what only those that are gone needed goes.
    for gone in [&first, &unchanged] {
        let path = format!("/backups/{}", text(&gone["id"]));
        service.send("DELETE", &path, None).await.expect(200);
    }
    assert_eq!(
        packs(&service).iter().filter(|path| is_part(path)).count(),
        parts_of(&service, &changed)
    );
    let id = text(&changed["id"]);
    for level in ["manifest", "checksums", "records"] {
        let path = format!("/backups/{id}/verify?wait=true");
        let verified = service.post(&path, json!({"level": level})).await.ok(200);
        assert_eq!(verified["result"]["ok"], true, "{verified}");
    }
    for (number, namespace) in (0..MANY).zip(NAMESPACES.into_iter().cycle()) {
        let path = format!("{namespace}/collections/file-{number}");
        service.send("DELETE", &path, None).await.expect(200);
    }
    let restored = service.post("/restore?wait=true", json!({"backup": id}));
    assert_eq!(restored.await.ok(200)["state"], "succeeded");
    let again = service.backup(json!({})).await;
    assert_eq!(content(&again), content(&changed));
}

fn parts_of(service: &Service, backup: &Value) -> usize {
    let path = format!("backups/{}.json", text(&backup["id"]));
    let manifest = fs::read(service.repository_dir().join(path)).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    manifest["manifest"]["parts"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_of_a_manifest_is_known_of_all_backups_that_have_it() {
    let service = with_many().await;
    let ids = [
        text(&service.backup(json!({})).await["id"]),
        text(&service.backup(json!({})).await["id"]),
    ];
    let files = packs(&service);
    let part = files.iter().find(|path| is_part(path)).unwrap();
    let mut bytes = fs::read(part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(part, bytes).unwrap();
    let hash = part.file_name().unwrap().to_str().unwrap();
    let hash = hash.strip_suffix(".json.zst").unwrap();

    let path = format!("/backups/{}/verify?wait=true", ids[0]);
    let level = json!({"level": "manifest"});
    let problem = service.post(&path, level).await.problem(422);
    assert!(text(&problem["detail"]).contains(hash), "{problem}");
    for id in &ids {
        let refused = service.post("/restore?wait=true", json!({"backup": id}));
        let refused = refused.await.problem(422);
        assert_eq!(refused["type"], "/problems/backup-corrupt");
        assert_eq!(refused["pack"], hash);
    }
    let listed = service.get("/backups").await.ok(200);
    assert_eq!(listed["backups"], json!([]));
    for id in &ids {
        assert!(text(&listed["damaged"][id]).contains(hash), "{listed}");
    }
    service.get("/backups/latest").await.expect(404);
    // Nothing is collected while nobody knows what they need.
    let before = packs(&service);
    let pruned = service.post("/backups/prune?wait=true", json!({"keep_last": 1}));
    pruned.await.expect(422);
    assert_eq!(packs(&service), before);

    // The cure: a full backup writes it again, and all are whole.
    let whole = service.backup(json!({"kind": "full"})).await;
    let path = format!("/backups/{}/verify?wait=true", text(&whole["id"]));
    service.post(&path, json!({})).await.expect(200);
    let path = format!("/backups/{}/verify?wait=true", ids[0]);
    service.post(&path, json!({})).await.expect(200);
    let listed = service.get("/backups").await.ok(200);
    let listed = listed["backups"].as_array().unwrap().iter();
    let known: Vec<_> = listed.map(|one| text(&one["restorable"])).collect();
    assert_eq!(known, ["verified", "unknown", "verified"]);
}
