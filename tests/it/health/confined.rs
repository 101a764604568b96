//! Damage in one collection of a store stops that collection: the others are written, and what is advised works.

use serde_json::{Value, json};
use uuid::Uuid;

use super::report;
use crate::harness::{
    Collection, DEFAULT_NAMESPACE, Harm, Service, digest, harm, numbered, text, wordnet_50,
};

/// What is done to the values of a tree, by the collection's id, key and payload.
type Choice = fn(Uuid, &[u8], &[u8]) -> Option<Harm>;

/// The catalog's entry of a kind that is of a collection.
fn is_entry(kind: u8, id: Uuid, key: &[u8]) -> bool {
    key.split_first() == Some((&kind, id.as_bytes().as_slice()))
}

fn changed(payload: &[u8], member: &str, value: Value) -> Harm {
    let mut entry: Value = serde_json::from_slice(payload).unwrap();
    entry[member] = value;
    Harm::Rewrite(entry.to_string().into_bytes())
}

/// One record of the collection, the first.
fn first_record(id: Uuid, key: &[u8]) -> bool {
    key == [id.as_bytes().as_slice(), &[0; 8]].concat()
}

const HARMS: [(&str, &str, Choice); 9] = [
    ("a record is damaged", "records", |id, key, _| {
        first_record(id, key).then_some(Harm::Flip)
    }),
    ("a record is gone", "records", |id, key, _| {
        first_record(id, key).then_some(Harm::Remove)
    }),
    // The way in which a hostile backup stopped every write of every tenant for ever.
    ("another dimension", "catalog", |id, key, payload| {
        is_entry(b'c', id, key).then(|| changed(payload, "dimension", json!(3)))
    }),
    ("no dimension", "catalog", |id, key, payload| {
        is_entry(b'c', id, key).then(|| changed(payload, "dimension", Value::Null))
    }),
    ("a damaged descriptor", "catalog", |id, key, _| {
        is_entry(b'c', id, key).then_some(Harm::Flip)
    }),
    ("an undecodable descriptor", "catalog", |id, key, _| {
        is_entry(b'c', id, key).then(|| Harm::Rewrite(b"{}".to_vec()))
    }),
    (
        "a descriptor of a later program",
        "catalog",
        |id, key, payload| {
            is_entry(b'c', id, key).then(|| changed(payload, "format", json!(1_000)))
        },
    ),
    ("a damaged head", "catalog", |id, key, _| {
        is_entry(b'h', id, key).then_some(Harm::Flip)
    }),
    ("no head", "catalog", |id, key, _| {
        is_entry(b'h', id, key).then_some(Harm::Remove)
    }),
];

struct World {
    service: Service,
    words: Collection,
    other: Collection,
}

impl World {
    async fn start() -> Self {
        let service = Service::start().await;
        let (words, other) = (service.create("words").await, service.create("other").await);
        words.add(&wordnet_50()).await;
        other.add(&numbered("o", 20)).await;
        service.backup(json!({})).await;
        Self {
            service,
            words,
            other,
        }
    }

    /// Stops, harms one value of the collection "words" of now, and starts.
    async fn harmed(&mut self, tree: &str, choice: Choice) {
        let id = Uuid::parse_str(&self.service.open("words").await.id).unwrap();
        self.service.stop().await;
        let done = harm(self.service.data_dir(), tree, |key, payload| {
            choice(id, key, payload)
        });
        assert_eq!(done, 1);
        self.service.resume().await;
        self.words = self.service.open("words").await;
        self.other = self.other.at(&self.service);
    }

    /// Nothing of "words", everything elsewhere.
    async fn assert_confined(&self, what: &str) {
        let service = &self.service;
        let write = json!({"ids": ["x"], "embeddings": [vec![0.5; 384]]});
        for (verb, body) in [
            ("get", json!({})),
            ("add", write.clone()),
            ("upsert", write),
            ("delete", json!({"ids": ["x"]})),
        ] {
            let refused = self.words.post(verb, body).await;
            assert_eq!(refused.status, 503, "{what}, {verb}: {}", refused.text());
            let message = text(&refused.json()["message"]);
            assert!(
                message.contains("replace") && message.contains("drop"),
                "{what}: {message}"
            );
        }
        self.other.upsert(&numbered("new", 5)).await;
        assert!(self.other.count().await >= 25);
        let overview = report(service.get("/health").await, 200, "fail");
        let damaged = overview["checks"]["collections:damaged"]
            .as_array()
            .unwrap();
        assert_eq!(damaged.len(), 1, "{what}: {damaged:?}");
        let output = text(&damaged[0]["output"]);
        assert!(
            output.contains("words") && output.contains("backup_"),
            "{what}: {output}"
        );
        assert_eq!(
            overview["checks"]["storage:accepting_writes"][0]["status"],
            "pass"
        );
        service.get("/health/ready").await.expect(200);
    }

    async fn assert_sound(&mut self, what: &str) {
        for _ in 0..2 {
            let overview = report(self.service.get("/health").await, 200, "pass");
            assert_eq!(
                overview["checks"]["collections:damaged"],
                Value::Null,
                "{what}"
            );
            let inspected = self.service.get("/health/collections").await.ok(200);
            assert_eq!(inspected["status"], "pass", "{what}: {inspected}");
            self.service.restart().await;
        }
        self.other = self.other.at(&self.service);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_collection_stops_no_other_and_is_replaced_or_dropped() {
    let mut world = World::start().await;
    for (what, tree, choice) in HARMS {
        world.harmed(tree, choice).await;
        world.assert_confined(what).await;
        // As the message advises.
        let asked = json!({"backup": "latest", "collections": [{"name": "words"}], "on_conflict": "replace"});
        let job = world
            .service
            .post("/restore?wait=true", asked)
            .await
            .ok(200);
        let restored = &job["result"]["collections"][0];
        assert_eq!(
            restored["digest"],
            digest(&wordnet_50()),
            "{what}: {restored}"
        );
        let words = world.service.open("words").await;
        assert_eq!(words.records().await, wordnet_50(), "{what}");
        words.upsert(&wordnet_50()[..3]).await;
        world.assert_sound(what).await;
    }
    for (what, tree, choice) in HARMS {
        world.harmed(tree, choice).await;
        world.service.drop_collection("words").await;
        world.assert_sound(what).await;
        let words = world.service.create("words").await;
        words.add(&wordnet_50()).await;
    }
}

/// Where a name leads may be damaged, and there is one live collection of that name.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_names_tenants_and_databases_lose_no_collection() {
    let mut world = World::start().await;
    for kind in [b'n', b't', b'd'] {
        world.service.stop().await;
        let of_kind = |key: &[u8], _: &[u8]| (key.first() == Some(&kind)).then_some(Harm::Flip);
        assert!(harm(world.service.data_dir(), "catalog", of_kind) > 0);
        world.service.resume().await;
        let words = world.service.open_in(DEFAULT_NAMESPACE, "words").await;
        assert_eq!(words.records().await, wordnet_50());
        world
            .words
            .at(&world.service)
            .upsert(&wordnet_50()[..1])
            .await;
        world
            .other
            .at(&world.service)
            .upsert(&numbered("o", 1))
            .await;
    }
    // A marker that cannot be read costs a full backup at most.
    world.service.stop().await;
    let marker = |key: &[u8], _: &[u8]| (key.first() == Some(&b'm')).then_some(Harm::Flip);
    assert_eq!(harm(world.service.data_dir(), "catalog", marker), 2);
    world.service.resume().await;
    world.service.backup(json!({})).await;
    world.service.drop_collection("words").await;
    world.service.restart().await;
    report(world.service.get("/health").await, 200, "pass");
}
