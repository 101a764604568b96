//! Verification without restoring: it says how much it looked at, finds every damage its level can see,
//! and its newest result stands in the backup.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Service, assert_members, files_below, numbered, text};

const LEVELS: [&str; 3] = ["manifest", "checksums", "records"];

async fn verify(service: &Service, id: &str, level: &str, status: u16) -> Value {
    let path = format!("/backups/{id}/verify?wait=true");
    let answer = service.post(&path, json!({"level": level})).await;
    assert_eq!(answer.status, status, "{level}: {}", answer.text());
    let body = answer.json();
    let job = if status == 200 {
        body
    } else {
        body["job"].clone()
    };
    assert_eq!(job["kind"], "verification");
    assert_eq!(
        job["state"],
        if status == 200 { "succeeded" } else { "failed" }
    );
    let result = job["result"].clone();
    let members = [
        "backup",
        "level",
        "ok",
        "checked_packs",
        "checked_records",
        "checked_bytes",
        "problems",
    ];
    assert_members(&result, &members);
    assert_eq!(result["level"], level);
    assert_eq!(result["ok"], status == 200, "{result}");
    assert_eq!(
        result["problems"].as_array().unwrap().is_empty(),
        status == 200,
        "{result}"
    );
    if status != 200 {
        assert_eq!(job["problem"]["type"], "/problems/backup-corrupt", "{job}");
    }
    result
}

fn packs(service: &Service) -> Vec<PathBuf> {
    files_below(&service.repository_dir().join("packs"))
}

fn manifest_of(service: &Service, id: &str) -> PathBuf {
    service.repository_dir().join(format!("backups/{id}.json"))
}

/// A full backup and an incremental one of two collections; the id of the second.
async fn backed_up(service: &Service) -> String {
    let words = service.create("words").await;
    words.add(&numbered("w", 300)).await;
    service.create("more").await.add(&numbered("m", 40)).await;
    service.backup(json!({})).await;
    words.upsert(&numbered("new", 20)).await;
    words.delete(json!({"ids": ["w-00001", "w-00002"]})).await;
    text(&service.backup(json!({})).await["id"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_backup_passes_every_level_and_says_what_was_looked_at() {
    let mut service = Service::start().await;
    let id = backed_up(&service).await;
    let shown = service.get(&format!("/backups/{id}")).await.ok(200);
    assert_eq!(shown["verification"], Value::Null);
    let stored: u64 = packs(&service)
        .iter()
        .map(|pack| pack.metadata().unwrap().len())
        .sum();
    let manifest = manifest_of(&service, &id).metadata().unwrap().len();
    for level in LEVELS {
        let result = verify(&service, &id, level, 200).await;
        let (records, bytes) = match level {
            "manifest" => (0, manifest),
            "checksums" => (0, manifest + stored),
            _ => (358, manifest + stored),
        };
        assert_eq!(result["checked_packs"], packs(&service).len(), "{level}");
        assert_eq!(result["checked_records"], records, "{level}");
        assert_eq!(result["checked_bytes"], bytes, "{level}");
        let newest = service.get(&format!("/backups/{id}")).await.ok(200)["verification"].clone();
        assert_members(
            &newest,
            &["level", "at", "ok", "checked_records", "checked_bytes"],
        );
        assert_eq!(
            (&newest["level"], &newest["ok"]),
            (&json!(level), &json!(true))
        );
    }
    // Kept beside the backup, not in this process.
    service.restart().await;
    let listed = service.get("/backups?limit=1").await.ok(200);
    assert_eq!(listed["backups"][0]["verification"]["level"], "records");
    // Without a level all records are read; without a body as well.
    let path = format!("/backups/{id}/verify?wait=true");
    let job = service.send("POST", &path, None).await.ok(200);
    assert_eq!(job["result"]["level"], "records");

    for (path, body, status) in [
        (path.clone(), json!({"level": "deep"}), 422),
        (path.clone(), json!({"levels": "records"}), 422),
        (
            "/backups/backup_2001-01-01_00-00-00/verify".into(),
            json!({}),
            404,
        ),
    ] {
        service.post(&path, body).await.problem(status);
    }
}

/// Three nights of backups of nothing must not look as if all were well.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_nothing_is_never_verified_and_never_called_damaged() {
    let service = Service::start().await;
    service.create("nothing").await;
    let id = text(&service.backup(json!({})).await["id"]);
    for level in ["manifest", "checksums", "records"] {
        let path = format!("/backups/{id}/verify?wait=true");
        let problem = service
            .post(&path, json!({"level": level}))
            .await
            .problem(422);
        assert!(
            !text(&problem["type"]).ends_with("/backup-corrupt"),
            "{problem}"
        );
        let result = &problem["job"]["result"];
        assert_eq!(
            (&result["ok"], &result["checked_records"]),
            (&json!(false), &json!(0)),
            "{problem}"
        );
        let problems = result["problems"].to_string();
        assert!(problems.contains("nothing was checked"), "{problem}");
    }
    let backup = service.get("/backups/latest").await.ok(200);
    assert_eq!(
        (&backup["id"], &backup["verification"]),
        (&json!(id), &json!(null))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_fails_every_level_that_can_see_it() {
    let service = Service::start().await;
    let id = backed_up(&service).await;
    let packs = packs(&service);
    for pack in &packs {
        let whole = fs::read(pack).unwrap();
        let name = pack.file_stem().unwrap().to_str().unwrap();
        for position in [0, whole.len() / 3, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x10;
            fs::write(pack, damaged).unwrap();
            verify(&service, &id, "manifest", 200).await;
            for level in ["checksums", "records"] {
                let result = verify(&service, &id, level, 422).await;
                assert!(result["problems"].to_string().contains(name), "{result}");
            }
        }
        for level in LEVELS {
            fs::write(pack, &whole[..whole.len() - 1]).unwrap();
            verify(&service, &id, level, 422).await;
            fs::remove_file(pack).unwrap();
            let result = verify(&service, &id, level, 422).await;
            assert!(result["problems"].to_string().contains(name), "{result}");
        }
        fs::write(pack, whole).unwrap();
    }
    let shown = service.get(&format!("/backups/{id}")).await.ok(200);
    assert_eq!(shown["verification"]["ok"], false);
    verify(&service, &id, "records", 200).await;

    // One pack's bytes under the name of another.
    let [first, second] = [fs::read(&packs[0]).unwrap(), fs::read(&packs[1]).unwrap()];
    fs::write(&packs[0], &second).unwrap();
    verify(&service, &id, "records", 422).await;
    fs::write(&packs[0], &first).unwrap();

    // A manifest that is damaged, and one that says something else and carries the right hash for it.
    let path = manifest_of(&service, &id);
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        whole.replacen("\"records\":318", "\"records\":319", 1),
    )
    .unwrap();
    let result = verify(&service, &id, "manifest", 422).await;
    assert_eq!(result["checked_bytes"], 0, "{result}");
    let forge = |from: &str, to: &str| {
        let envelope: serde_json::Map<String, Value> = serde_json::from_str(&whole).unwrap();
        let inner = envelope["manifest"].to_string();
        assert!(inner.contains(from), "{from} is not in the manifest");
        let inner = inner.replacen(from, to, 1);
        let hash = blake3::hash(inner.as_bytes()).to_hex().to_string();
        format!("{{\"manifest\":{inner},\"blake3\":\"{hash}\"}}")
    };
    for (from, to) in [
        ("\"records\":318", "\"records\":319"),
        ("\"space\":\"l2\"", "\"space\":\"ip\""),
    ] {
        fs::write(&path, forge(from, to)).unwrap();
        verify(&service, &id, "manifest", 200).await;
        verify(&service, &id, "records", 422).await;
    }
    fs::write(&path, whole).unwrap();
    verify(&service, &id, "records", 200).await;
}

/// Names of the collections that need a pack, by its manifest.
fn needed_by(manifest: &Value, pack: &str) -> Vec<String> {
    let collections = manifest["manifest"]["collections"].as_array().unwrap();
    let needs = |collection: &&Value| collection["layers"].to_string().contains(pack);
    let names = collections.iter().filter(needs);
    names.map(|collection| text(&collection["name"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_200_flipped_bytes_and_each_removed_object_is_named() {
    let service = Service::start().await;
    let id = backed_up(&service).await;
    let manifest_path = manifest_of(&service, &id);
    let manifest: Value = serde_json::from_slice(&fs::read(&manifest_path).unwrap()).unwrap();
    let mut objects = packs(&service);
    objects.retain(|pack| {
        !needed_by(&manifest, pack.file_stem().unwrap().to_str().unwrap()).is_empty()
    });
    assert!(objects.len() >= 4, "{objects:?}");
    objects.push(manifest_path.clone());
    // Every byte is as likely as any other.
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = |end: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % end as u64) as usize
    };
    let sizes: Vec<usize> = objects.iter().map(|o| fs::read(o).unwrap().len()).collect();
    let named = |object: &Path, result: &Value| {
        let problems = result["problems"].to_string();
        if object == manifest_path {
            assert!(problems.contains(&id), "{result}");
            return;
        }
        let pack = object.file_stem().unwrap().to_str().unwrap();
        assert!(problems.contains(pack), "{result}");
        for collection in needed_by(&manifest, pack) {
            let name = format!("default_tenant/default_database/{collection}");
            assert!(problems.contains(&name), "{name}: {result}");
        }
    };
    for _ in 0..200 {
        let (mut at, mut index) = (below(sizes.iter().sum()), 0);
        while at >= sizes[index] {
            at -= sizes[index];
            index += 1;
        }
        let whole = fs::read(&objects[index]).unwrap();
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << below(8);
        fs::write(&objects[index], damaged).unwrap();
        named(
            &objects[index],
            &verify(&service, &id, "records", 422).await,
        );
        fs::write(&objects[index], whole).unwrap();
    }
    for object in &objects[..objects.len() - 1] {
        let whole = fs::read(object).unwrap();
        fs::remove_file(object).unwrap();
        for level in LEVELS {
            named(object, &verify(&service, &id, level, 422).await);
        }
        fs::write(object, whole).unwrap();
    }
    verify(&service, &id, "records", 200).await;
    // Without its manifest there is no backup.
    fs::remove_file(&manifest_path).unwrap();
    let path = format!("/backups/{id}/verify");
    service.post(&path, json!({})).await.problem(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_looks_well_from_afar_does_not_replace_what_was_seen_from_near() {
    let service = Service::start().await;
    let id = backed_up(&service).await;
    let shown = async || {
        let backup = service.get(&format!("/backups/{id}")).await.ok(200);
        let verification = &backup["verification"];
        (verification["level"].clone(), verification["ok"].clone())
    };
    verify(&service, &id, "manifest", 200).await;
    assert_eq!(shown().await, (json!("manifest"), json!(true)));
    verify(&service, &id, "records", 200).await;
    verify(&service, &id, "manifest", 200).await;
    assert_eq!(shown().await, (json!("records"), json!(true)));
    let pack = packs(&service).remove(0);
    let whole = fs::read(&pack).unwrap();
    let mut damaged = whole.clone();
    damaged[9] ^= 1;
    fs::write(&pack, damaged).unwrap();
    verify(&service, &id, "records", 422).await;
    verify(&service, &id, "manifest", 200).await;
    assert_eq!(shown().await, (json!("records"), json!(false)));
    fs::write(&pack, whole).unwrap();
    verify(&service, &id, "records", 200).await;
    assert_eq!(shown().await, (json!("records"), json!(true)));
}
