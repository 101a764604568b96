//! Chroma's API: what is written comes back, in order, bit for bit, found by exact search, across restarts.

mod bounds;
mod concurrency;
mod filters;
mod fork;
mod ground_truth;
mod surface;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use crate::harness::{
    Collection, DEFAULT_NAMESPACE, Http, Service, numbered, parse_record, wordnet_50,
};

fn ids_of(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.id.clone()).collect()
}

async fn create_in_space(http: &Http, name: &str, space: &str) -> Collection {
    let body = json!({"name": name, "configuration": {"hnsw": {"space": space}}});
    http.create_in(DEFAULT_NAMESPACE, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_in_insertion_order_and_pages_are_slices_of_it() {
    let service = Service::start().await;
    let collection = service.create("ordered").await;
    let mut records = wordnet_50();
    collection.add(&records).await;
    assert_eq!(collection.count().await, 50);
    assert_eq!(collection.records().await, records);

    // The order of the request does not matter; unknown and repeated ids are left out.
    let asked: Vec<_> = [40, 3, 3, 17]
        .iter()
        .map(|at| records[*at].id.clone())
        .chain(["nobody".into()])
        .collect();
    let found = collection.ids(json!({ "ids": asked })).await;
    assert_eq!(found, [3, 17, 40].map(|at| records[at].id.clone()));

    // An upsert stays in its place; deleted and added again goes last.
    collection.upsert(&records[5..6]).await;
    let returning: Vec<_> = [2, 20, 49]
        .iter()
        .rev()
        .map(|at| records.remove(*at))
        .collect();
    assert_eq!(
        collection.delete(json!({"ids": ids_of(&returning)})).await,
        3
    );
    assert_eq!(collection.ids(json!({})).await, ids_of(&records));
    collection.add(&returning).await;
    records.extend(returning);
    let order = ids_of(&records);
    assert_eq!(collection.ids(json!({})).await, order);

    for limit in [1, 7, 50, 80] {
        let mut walked = Vec::new();
        for offset in (0..60).step_by(limit) {
            walked.extend(
                collection
                    .ids(json!({"limit": limit, "offset": offset}))
                    .await,
            );
        }
        assert_eq!(walked, order, "pages of {limit}");
    }
    let filtered = json!({"is_common": true});
    let all = collection.ids(json!({ "where": filtered })).await;
    assert_eq!(all.len(), 28);
    let page = collection
        .ids(json!({"where": filtered, "limit": 10, "offset": 15}))
        .await;
    assert_eq!(page, all[15..25]);
    assert!(collection.ids(json!({"limit": 0})).await.is_empty());
    assert!(collection.ids(json!({"offset": 50})).await.is_empty());
    assert!(collection.ids(json!({"ids": []})).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_merge_skip_and_delete_as_the_protocol_says() {
    let service = Service::start().await;
    let collection = service.create("writes").await;
    let row = async |id: &str| {
        let include = json!(["embeddings", "documents", "metadatas", "uris"]);
        let got = collection
            .post("get", json!({"ids": [id], "include": include}))
            .await
            .ok(200);
        json!([
            got["embeddings"][0],
            got["documents"][0],
            got["uris"][0],
            got["metadatas"][0]
        ])
    };
    let full = json!({"ids": ["a", "a"], "embeddings": [[1, 2], [3, 4]], "documents": ["first", "second"],
        "uris": ["u", null], "metadatas": [{"k": 1, "gone": true, "list": [1, 2]}, null]});
    collection.post("add", full).await.expect(201);
    let first = json!([[1.0, 2.0], "first", "u", {"gone": true, "k": 1, "list": [1, 2]}]);
    assert_eq!(
        row("a").await,
        first,
        "of two equal ids in one add the first counts"
    );

    let again = json!({"ids": ["a", "b"], "embeddings": [[9, 9], [0, 0]]});
    collection.post("add", again).await.expect(201);
    assert_eq!(row("a").await, first, "an add leaves what is there alone");
    assert_eq!(row("b").await, json!([[0.0, 0.0], null, null, null]));

    let update = json!({"ids": ["a", "nobody"], "embeddings": [null, [1, 1]], "documents": ["new", "x"],
        "metadatas": [{"k": "typed anew", "gone": null, "more": 2.0}, null]});
    collection.post("update", update).await.expect(200);
    let merged = json!([[1.0, 2.0], "new", "u", {"k": "typed anew", "list": [1, 2], "more": 2.0}]);
    assert_eq!(row("a").await, merged);
    assert_eq!(collection.count().await, 2, "an update makes no records");

    let upsert = json!({"ids": ["b", "c", "c"], "embeddings": [[5, 5], [6, 6], [7, 7]],
        "metadatas": [{"k": 1}, {"x": 1, "y": 1}, {"y": 2}]});
    collection.post("upsert", upsert).await.expect(200);
    assert_eq!(row("b").await, json!([[5.0, 5.0], null, null, {"k": 1}]));
    assert_eq!(
        row("c").await,
        json!([[7.0, 7.0], null, null, {"x": 1, "y": 2}])
    );
    assert_eq!(collection.ids(json!({})).await, ["a", "b", "c"]);

    assert_eq!(collection.delete(json!({})).await, 0);
    assert_eq!(
        collection
            .delete(json!({"where": {"y": 2}, "ids": ["a", "c"]}))
            .await,
        1
    );
    assert_eq!(
        collection.delete(json!({"ids": ["b", "nobody"]})).await,
        2,
        "as many as were sent"
    );
    assert_eq!(collection.ids(json!({})).await, ["a"]);
    collection.add(&[]).await;

    let more = json!({"ids": ["d", "e", "f"], "embeddings": [[1, 1], [1, 1], [1, 1]], "metadatas": [{"z": 1}, {"z": 1}, {"z": 1}]});
    collection.post("add", more).await.expect(201);
    assert_eq!(
        collection
            .delete(json!({"where": {"z": 1}, "limit": 2}))
            .await,
        2
    );
    assert_eq!(
        collection.ids(json!({})).await,
        ["a", "f"],
        "the first inserted go first"
    );

    service.drop_collection("writes").await;
    let gone = collection.post("get", json!({})).await.ok(404);
    assert_eq!(gone["error"], "NotFoundError");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_write_changes_nothing() {
    let service = Service::start().await;
    let collection = service.create("refusals").await;
    collection.add(&numbered("r", 5)).await;
    let before = collection.dump().await;
    let one = |embedding: Value| json!({"ids": ["r-00000"], "embeddings": [embedding]});
    let nan = BASE64_STANDARD.encode(f32::NAN.to_le_bytes().repeat(8));
    let eight = [1; 8];
    for (verb, body, status) in [
        ("upsert", one(json!([1, 2])), 400),
        ("upsert", one(json!([])), 400),
        ("upsert", one(json!([1e39, 1, 1, 1, 1, 1, 1, 1])), 400),
        ("upsert", one(json!("no base64!")), 400),
        ("upsert", one(json!("AAAA")), 400),
        ("upsert", one(json!(nan)), 400),
        ("upsert", one(json!(null)), 422),
        (
            "upsert",
            json!({"ids": ["x", "y"], "embeddings": [eight]}),
            400,
        ),
        (
            "upsert",
            json!({"ids": ["", "y"], "embeddings": [eight, eight]}),
            400,
        ),
        (
            "upsert",
            json!({"ids": ["x", "y"], "embeddings": [eight, [1, 2]]}),
            400,
        ),
        (
            "upsert",
            json!({"ids": ["x"], "embeddings": [eight], "metadatas": [{"#k": 1}]}),
            400,
        ),
        (
            "upsert",
            json!({"ids": ["x"], "embeddings": [eight], "metadatas": [{"k": {"nested": 1}}]}),
            422,
        ),
        (
            "upsert",
            json!({"ids": ["x"], "embeddings": [eight], "metadatas": [{"k": [1, "a"]}]}),
            422,
        ),
        (
            "add",
            json!({"ids": ["x"], "embeddings": [eight], "metadatas": [{"k": null}]}),
            422,
        ),
        ("add", json!({"ids": ["x"]}), 422),
        ("update", json!({"ids": "r-00000", "documents": ["x"]}), 422),
        ("delete", json!({"ids": []}), 400),
        ("delete", json!({"ids": ["r-00000"], "limit": 1}), 400),
        ("delete", json!({"where": {"n": {"$gt": "x"}}}), 400),
    ] {
        let shown = body.to_string();
        let answer = collection.post(verb, body).await;
        assert_eq!(answer.status, status, "{verb} {shown}: {}", answer.text());
        assert!(answer.json()["message"].is_string(), "{verb} {shown}");
        assert_eq!(collection.dump().await, before, "{verb} {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn base64_and_numbers_store_the_same_bits() {
    let service = Service::start().await;
    let odd = [
        0.0,
        -0.0,
        1.1,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
        -f32::from_bits(0x7f_ffff),
        f32::MAX,
        f32::MIN,
    ];
    let mut vectors = vec![odd.to_vec()];
    // Many mantissas: parsing must not round twice.
    let mut bits = 0x3f80_0000_u32;
    for _ in 0..500 {
        vectors.push(
            (0..8)
                .map(|_| {
                    bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    f32::from_bits(bits & 0x7eff_ffff)
                })
                .collect(),
        );
    }
    let ids: Vec<String> = (0..vectors.len()).map(|at| at.to_string()).collect();
    let bytes = |vector: &Vec<f32>| {
        vector
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let encoded: Vec<_> = vectors
        .iter()
        .map(|vector| BASE64_STANDARD.encode(bytes(vector)))
        .collect();
    // Shortest decimals that read back as the same f32, as an f32 client prints them.
    let printed = format!(
        r#"{{"ids":{},"embeddings":{}}}"#,
        json!(ids),
        serde_json::to_string(&vectors).unwrap()
    );
    let (numbers, base64) = (
        service.create("numbers").await,
        service.create("base64").await,
    );
    let request = service
        .request("POST", &numbers.path("add"))
        .header("content-type", "application/json")
        .body(printed);
    Http::try_send(request).await.unwrap().expect(201);
    base64
        .post("add", json!({"ids": ids, "embeddings": encoded}))
        .await
        .expect(201);
    assert_eq!(numbers.dump().await, base64.dump().await);
    for (record, vector) in base64.records().await.iter().zip(&vectors) {
        assert_eq!(bytes(&record.embedding), bytes(vector), "{}", record.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_a_restart_byte_for_byte() {
    let mut service = Service::start().await;
    service
        .post("/api/v2/tenants", json!({"name": "another tenant"}))
        .await
        .expect(200);
    service
        .post(
            "/api/v2/tenants/another%20tenant/databases",
            json!({"name": "its-database"}),
        )
        .await
        .expect(200);
    let body = json!({"name": "words", "metadata": {"a": 1, "b": 2.0, "c": "x", "d": false},
        "configuration": {"hnsw": {"space": "cosine", "ef_search": 77}, "embedding_function":
            {"type": "known", "name": "mine", "config": {"deep": [1, {"x": null}]}}}});
    let words = service
        .create_in(
            "/api/v2/tenants/another%20tenant/databases/its-database",
            body,
        )
        .await;
    let records = wordnet_50();
    words.add(&records[..30]).await;
    words.delete(json!({"where": {"pos": "verb"}})).await;
    words.upsert(&records).await;
    words
        .post(
            "update",
            json!({"ids": [records[7].id], "metadatas": [{"pos": ["a", "b"], "length": null}]}),
        )
        .await
        .expect(200);
    let empty = service.create("empty").await;
    let long = service.create("long-values").await;
    let mut longs = numbered("long", 6);
    for (record, size) in longs
        .iter_mut()
        .zip([0, 24_000, 24_576, 24_577, 60_000, 200_000])
    {
        record.document = Some("päge ".repeat(size / 6));
    }
    long.add(&longs).await;

    let look = async |service: &Service| {
        let mut seen = Vec::new();
        for collection in [&words, &empty, &long] {
            let here = collection.at(service);
            seen.extend([
                here.dump().await.to_vec(),
                here.definition().await.to_string().into_bytes(),
            ]);
            seen.push(here.count().await.to_string().into_bytes());
        }
        let queries = json!({"query_embeddings": [records[0].embedding, records[9].embedding], "n_results": 50});
        seen.push(
            words
                .at(service)
                .post("query", queries)
                .await
                .expect(200)
                .bytes
                .to_vec(),
        );
        for path in [
            "/api/v2/tenants/another%20tenant",
            "/api/v2/tenants/another%20tenant/databases",
            DEFAULT_NAMESPACE,
        ] {
            seen.push(service.get(path).await.expect(200).bytes.to_vec());
        }
        seen.push(
            service
                .get(&format!("{DEFAULT_NAMESPACE}/collections"))
                .await
                .expect(200)
                .bytes
                .to_vec(),
        );
        seen
    };
    let before = look(&service).await;
    assert_eq!(long.records().await, longs);
    for round in 0..2 {
        service.restart().await;
        for (at, (now, then)) in look(&service).await.iter().zip(&before).enumerate() {
            assert!(
                now == then,
                "part {at} after restart {round}: {}",
                String::from_utf8_lossy(now)
            );
        }
    }
    // What comes after the restart goes behind what was there.
    let after = numbered("after", 2);
    long.at(&service).add(&after).await;
    assert_eq!(
        long.at(&service).ids(json!({})).await,
        ids_of(&[longs, after].concat())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_brings_a_new_server_back_and_is_complete_at_once() {
    let mut service = Service::start().await;
    service
        .post("/api/v2/tenants", json!({"name": "tenant"}))
        .await
        .expect(200);
    let old = service.create("old").await;
    old.add(&numbered("r", 10)).await;
    service.post("/api/v2/reset", json!(null)).await.expect(200);
    for _ in 0..2 {
        assert_eq!(service.names().await, BTreeSet::new());
        service.get("/api/v2/tenants/tenant").await.expect(404);
        old.at(&service).post("get", json!({})).await.expect(404);
        let database = service.get(DEFAULT_NAMESPACE).await.ok(200);
        assert_eq!(database["id"], "00000000-0000-0000-0000-000000000000");
        service.restart().await;
    }
    let new = service.create("old").await;
    assert_eq!(new.count().await, 0);
    let expected = parse_record(&json!({"id": "x", "embedding": [1, 2]}));
    new.add(std::slice::from_ref(&expected)).await;
    assert_eq!(new.records().await, [expected]);
}
