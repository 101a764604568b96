//! The export of a backup.

use serde_json::json;
use vectorkeep::model::record::Record;

use super::exported;
use crate::harness::{Service, numbered, text, wordnet_50};

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_one_json_document_with_every_bit_in_order() {
    let service = Service::start().await;
    let words = service.create("words").await;
    let mut records = wordnet_50();
    records[3].embedding[..4].copy_from_slice(&[-0.0, f32::from_bits(1), f32::MAX, 16_777_216.0]);
    records[4].document = None;
    records[5].metadata.clear();
    records[6].uri = Some("file:///ü\u{1}\"\\".to_owned());
    words.add(&records).await;
    words.post("update", json!({"ids": [records[8].id], "metadatas": [{"floats": [1.0, -0.0, 5e-324], "big": 9007199254740993_i64,
        "whole": 2.0, "texts": ["a", ""], "flags": [true, false], "ints": [-1, 1]}]})).await.expect(200);
    let last = records.remove(10);
    words.delete(json!({"ids": [last.id]})).await;
    words.add(std::slice::from_ref(&last)).await;
    let small = service.create("small").await;
    small.add(&numbered("s", 2_000)).await;
    let backup = service.backup(json!({})).await;
    let id = text(&backup["id"]);

    // Changes after the backup are not in it.
    words.delete(json!({"where": {"pos": "noun"}})).await;
    small.upsert(&numbered("later", 10)).await;

    let answer = service
        .get(&format!("/backups/{id}/export?format=json"))
        .await
        .expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let disposition = format!("attachment; filename=\"{id}.json\"");
    assert_eq!(answer.header("content-disposition"), Some(&*disposition));
    let raw = answer.text();
    for record in &records {
        let shortest = serde_json::to_string(&record.embedding).unwrap();
        assert!(
            raw.contains(&format!("\"embedding\":{shortest}")),
            "floats of {} are not the shortest",
            record.id
        );
    }
    let found = exported(&service, &id, "").await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["small", "words"]);
    assert_eq!(found["small"], numbered("s", 2_000));
    let order: Vec<_> = records
        .iter()
        .chain([&last])
        .map(|record| record.id.clone())
        .collect();
    assert_eq!(
        found["words"]
            .iter()
            .map(|record| record.id.clone())
            .collect::<Vec<_>>(),
        order
    );
    let bits = |record: &Record| {
        record
            .embedding
            .iter()
            .map(|x| x.to_bits())
            .collect::<Vec<_>>()
    };
    assert_eq!(bits(&found["words"][3]), bits(&records[3]));
    let typed = serde_json::to_string(&found["words"][8].metadata).unwrap();
    for part in [
        "\"floats\":[1.0,-0.0,5e-324]",
        "\"big\":9007199254740993",
        "\"whole\":2.0",
        "\"ints\":[-1,1]",
        "\"texts\":[\"a\",\"\"]",
    ] {
        assert!(typed.contains(part), "{part} in {typed}");
    }
    assert_eq!(
        (
            &found["words"][4].document,
            found["words"][5].metadata.len()
        ),
        (&None, 0)
    );
    assert_eq!(found["words"][6].uri, records[6].uri);

    let one = exported(&service, &id, "?collection=small").await;
    assert_eq!(one.keys().collect::<Vec<_>>(), ["small"]);
    assert_eq!(one["small"], found["small"]);
    service
        .get(&format!("/backups/{id}/export?collection=nobody"))
        .await
        .problem(404);
    service
        .get(&format!(
            "/backups/{id}/export?collection=small&database=nobody"
        ))
        .await
        .problem(404);
    service
        .get(&format!("/backups/{id}/export?format=csv"))
        .await
        .problem(422);
    service
        .get(&format!("/backups/{id}/export?fromat=json"))
        .await
        .problem(422);
}
