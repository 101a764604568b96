//! Damage to the store's file while the service is down: refused, reported, or without consequence.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::report;
use crate::harness::{Collection, Service, copy_directory, numbered, text, wordnet_50};

/// What a sound service answers, to compare with.
struct Truth {
    words: Collection,
    other: Collection,
    answers: BTreeMap<String, Vec<u8>>,
}

fn questions(words: &Collection, other: &Collection) -> Vec<(String, Value)> {
    let all = json!({"include": ["embeddings", "documents", "metadatas", "uris"]});
    let mut asked = vec![
        (words.path("get"), all.clone()),
        (other.path("get"), all),
        (words.path("get"), json!({"where": {"pos": "noun"}})),
        (
            words.path("query"),
            json!({"query_embeddings": [wordnet_50()[3].embedding], "n_results": 50}),
        ),
    ];
    for record in wordnet_50().iter().step_by(7) {
        asked.push((words.path("get"), json!({"ids": [record.id]})));
    }
    asked
}

impl Truth {
    async fn of(service: &Service, words: Collection, other: Collection) -> Self {
        let mut answers = BTreeMap::new();
        for (path, body) in questions(&words, &other) {
            let answer = service.post(&path, body.clone()).await.expect(200);
            answers.insert(format!("{path} {body}"), answer.bytes.to_vec());
        }
        Self {
            words,
            other,
            answers,
        }
    }

    /// Asks everything again: what is answered must be true. How many questions were refused, and the
    /// statuses of the health checks that look at collections.
    async fn judge(&self, service: &Service, damage: &str) -> (usize, [u16; 3]) {
        let mut refused = 0;
        for (path, body) in questions(&self.words, &self.other) {
            let answer = service.post(&path, body.clone()).await;
            let question = format!("{path} {body}");
            if answer.status == 200 {
                let same = answer.bytes == self.answers[&question];
                assert!(
                    same,
                    "{damage}: wrong data was served for {question}: {}",
                    answer.text()
                );
            } else {
                assert!(
                    answer.status >= 500,
                    "{damage}: {question}: {} {}",
                    answer.status,
                    answer.text()
                );
                assert!(!text(&answer.json()["message"]).is_empty());
                refused += 1;
            }
        }
        let mut codes = [0; 3];
        for (code, path) in codes.iter_mut().zip([
            "/health",
            "/health/collections",
            "/health/collections/words",
        ]) {
            let answer = service.get(path).await;
            // No restart could mend one collection: the overview is 200, and says that it fails.
            *code = match answer.json()["status"].as_str() {
                Some("fail") => 503,
                _ => answer.status,
            };
        }
        (refused, codes)
    }
}

/// A stopped service with two collections, and what it answered.
async fn stopped_with_truth() -> (Service, Truth) {
    let mut service = Service::start().await;
    let (words, other) = (service.create("words").await, service.create("other").await);
    words.add(&wordnet_50()).await;
    other.add(&numbered("o", 300)).await;
    service.backup(json!({})).await;
    // What was written is read from the file, not from a cache.
    service.restart().await;
    let truth = Truth::of(&service, words.at(&service), other.at(&service)).await;
    service.stop().await;
    fs::rename(service.data_dir(), service.scratch("sound")).unwrap();
    (service, truth)
}

/// Starts on a copy of the sound directory with these bytes of the store's file changed. `None`: refused.
async fn start_damaged(service: &mut Service, name: &str, positions: &[usize]) -> Option<String> {
    let directory = service.scratch(name);
    copy_directory(&service.scratch("sound"), &directory);
    let file = directory.join("store/db");
    let mut bytes = fs::read(&file).unwrap();
    positions.iter().for_each(|at| bytes[*at] ^= 0x04);
    fs::write(&file, bytes).unwrap();
    service.config.storage.data_dir = directory;
    match service.try_resume().await {
        Ok(()) => None,
        Err(error) => Some(error.message().to_owned()),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Vec<usize> {
    let found = haystack
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle);
    found.map(|(at, _)| at + needle.len() / 2).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_damaged_on_the_disk_is_never_served() {
    let (mut service, truth) = stopped_with_truth().await;
    let file = fs::read(service.scratch("sound").join("store/db")).unwrap();
    let mut seen = 0;
    for (number, at) in [0_usize, 24, 49].into_iter().enumerate() {
        let record = &wordnet_50()[at];
        let floats: Vec<u8> = record.embedding[100..110]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let words = serde_json::to_value(&record.metadata).unwrap();
        let words = text(&words["words"]);
        for (part, needle) in [
            ("document", record.document.as_ref().unwrap().as_bytes()),
            ("embedding", &*floats),
            ("metadata", words.as_bytes()),
            ("id", record.id.as_bytes()),
        ] {
            let positions = find(&file, needle);
            assert!(
                !positions.is_empty(),
                "the {part} of {} is not in the file",
                record.id
            );
            let damage = format!("{part} of {} damaged at {positions:?}", record.id);
            if let Some(message) =
                start_damaged(&mut service, &format!("{part}-{number}"), &positions).await
            {
                assert!(
                    message.contains("damaged") || message.contains("accept_data_loss"),
                    "{damage}: {message}"
                );
                seen += 1;
                continue;
            }
            let (refused, codes) = truth.judge(&service, &damage).await;
            assert!(refused > 0, "{damage}: every question was answered");
            assert_eq!(codes, [503; 3], "{damage}");
            let overview = report(service.get("/health").await, 200, "fail");
            let damaged = &overview["checks"]["collections:damaged"][0];
            let output = text(&damaged["output"]);
            assert!(
                output.contains("backup_") && output.contains("words"),
                "which collection, and which backup to restore: {damaged}"
            );
            service.get("/health/ready").await.expect(200);
            // Nothing is written on top of damage, and everything elsewhere.
            let write = |width: usize| json!({"ids": ["x"], "embeddings": [vec![0.5; width]]});
            let words = truth.words.at(&service);
            words.post("add", write(384)).await.expect(503);
            let other = truth.other.at(&service);
            other.post("add", write(8)).await.expect(201);
            service.create("fresh").await.add(&numbered("f", 3)).await;
            seen += 1;
            service.stop().await;
        }
    }
    assert_eq!(seen, 12);
}

/// The entry that leads from an id to its record: where it is gone, the id must not pass for unknown.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_entry_that_was_damaged_on_the_disk_does_not_hide_its_record() {
    let (mut service, truth) = stopped_with_truth().await;
    let file = fs::read(service.scratch("sound").join("store/db")).unwrap();
    let mut looked_at = 0;
    for at in [0, 7, 21, 42] {
        let id = wordnet_50()[at].id.clone();
        // Keys share beginnings and are stored without them. In a record the dimension follows the id.
        let tail = &id.as_bytes()[id.len() - 6..];
        let is_record = |end: usize| file[end..].starts_with(&384_u32.to_le_bytes());
        let positions: Vec<_> = find(&file, tail)
            .into_iter()
            .filter(|position| !is_record(position + 3))
            .collect();
        let damage = format!("entry of {id} damaged at {positions:?}");
        assert!(!positions.is_empty(), "{damage}");
        looked_at += 1;
        if let Some(message) = start_damaged(&mut service, &format!("entry-{at}"), &positions).await
        {
            assert!(
                message.contains("damaged") || message.contains("accept_data_loss"),
                "{damage}: {message}"
            );
            continue;
        }
        let (_, codes) = truth.judge(&service, &damage).await;
        assert!(codes.contains(&503), "{damage}: health {codes:?}");
        service.stop().await;
    }
    assert_eq!(looked_at, 4);
}

/// One bit anywhere in the file: refused, reported, or without consequence. Never other data.
#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit_anywhere_never_changes_an_answer() {
    let (mut service, truth) = stopped_with_truth().await;
    let size = fs::metadata(service.scratch("sound").join("store/db"))
        .unwrap()
        .len() as usize;
    let file = fs::read(service.scratch("sound").join("store/db")).unwrap();
    let used: Vec<usize> = (0..size).filter(|at| file[*at] != 0).collect();
    let (mut refused_starts, mut reported) = (0, 0);
    for number in 0..36_usize {
        let at = used[number * 7_919_777 % used.len()];
        let damage = format!("byte {at} of {size}");
        if let Some(message) = start_damaged(&mut service, &format!("flip-{number}"), &[at]).await {
            assert!(
                message.contains("damaged") || message.contains("accept_data_loss"),
                "{damage}: {message}"
            );
            refused_starts += 1;
            continue;
        }
        let (refused, codes) = truth.judge(&service, &damage).await;
        if refused > 0 {
            assert!(
                codes.contains(&503),
                "{damage}: {refused} questions were refused, but the health is {codes:?}"
            );
            reported += 1;
        }
        service.stop().await;
    }
    assert!(
        refused_starts + reported > 0,
        "no flip was noticed: were the right bytes flipped?"
    );
}

/// More than one segment of the store's file, so that old ones are not read as a whole at the start: a page that
/// cannot be read must not keep the start busy for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_read_does_not_hang_the_start() {
    let mut service = Service::start().await;
    let words = service.create("words").await;
    let text_of = |part: usize, number: usize| format!("document {number} of part {part}.");
    for part in 0..6 {
        let mut records = numbered(&format!("p{part}-"), 500);
        for (number, record) in records.iter_mut().enumerate() {
            record.embedding = (0..384).map(|at| (at + part) as f32 / 7.0).collect();
            record.document = Some(text_of(part, number));
        }
        words.add(&records).await;
    }
    service.backup(json!({})).await;
    service.restart().await;
    service.stop().await;
    fs::rename(service.data_dir(), service.scratch("sound")).unwrap();
    let file = fs::read(service.scratch("sound").join("store/db")).unwrap();
    assert!(file.len() > 2 * 2_097_152, "it is one segment");
    for number in [3, 77, 250, 499] {
        let needle = text_of(0, number);
        // Wherever it lies: sled may have moved it.
        let flipped = find(&file, needle.as_bytes());
        assert!(!flipped.is_empty(), "{needle} is not in the file");
        let name = format!("page-{number}");
        let start = start_damaged(&mut service, &name, &flipped);
        let started = tokio::time::timeout(Duration::from_secs(60), start).await;
        match started.unwrap_or_else(|_| panic!("bytes {flipped:?}: the start hangs")) {
            Some(message) => {
                let clear = message.contains("damaged") || message.contains("accept_data_loss");
                assert!(clear, "bytes {flipped:?}: {message}");
            }
            None => {
                service.get("/health").await.expect(503);
                service.stop().await;
            }
        }
    }
}
