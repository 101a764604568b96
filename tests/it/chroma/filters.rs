//! Filters, held against a look at every record.

use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use crate::harness::{Service, distance, text, wordnet_50};

#[tokio::test(flavor = "multi_thread")]
async fn filters_agree_with_a_look_at_every_record() {
    let service = Service::start().await;
    let collection = service.create("filtered").await;
    let records = wordnet_50();
    collection.add(&records).await;
    let (metadata, query) = (
        |record: &Record| serde_json::to_value(&record.metadata).unwrap(),
        &records[11].embedding,
    );
    let length = |record: &Record| metadata(record)["length"].as_i64().unwrap();
    let pos = |record: &Record| text(&metadata(record)["pos"]);
    let has = |record: &Record, part: &str| record.document.as_ref().unwrap().contains(part);
    let noun = |record: &Record| pos(record) == "noun";
    type Holds<'a> = Box<dyn Fn(&Record) -> bool + 'a>;
    let cases: Vec<(Value, Holds<'_>)> = vec![
        (json!({"where": {"pos": "noun"}}), Box::new(noun)),
        (
            json!({"where": {"pos": {"$ne": "noun"}}}),
            Box::new(|r| !noun(r)),
        ),
        (
            json!({"where": {"pos": {"$in": ["verb", "adverb"]}}}),
            Box::new(|r| ["verb", "adverb"].contains(&&*pos(r))),
        ),
        (
            json!({"where": {"pos": {"$nin": ["verb", "adverb"]}}}),
            Box::new(|r| !["verb", "adverb"].contains(&&*pos(r))),
        ),
        (
            json!({"where": {"length": {"$gt": 60}}}),
            Box::new(|r| length(r) > 60),
        ),
        (
            json!({"where": {"length": {"$lte": 60.5}}}),
            Box::new(|r| length(r) <= 60),
        ),
        (
            json!({"where": {"length": length(&records[0]) as f64}}),
            Box::new(|r| length(r) == length(&records[0])),
        ),
        (json!({"where": {"absent": {"$ne": 1}}}), Box::new(|_| true)),
        (json!({"where": {"absent": 1}}), Box::new(|_| false)),
        (
            json!({"where": {"$and": [{"is_common": true}, {"length": {"$lt": 80}}]}}),
            Box::new(|r| metadata(r)["is_common"] == true && length(r) < 80),
        ),
        (
            json!({"where": {"$or": [{"pos": "adverb"}, {"$and": [{"pos": "noun"}, {"length": {"$gte": 100}}]}]}}),
            Box::new(|r| pos(r) == "adverb" || noun(r) && length(r) >= 100),
        ),
        (
            json!({"where_document": {"$contains": " of "}}),
            Box::new(|r| has(r, " of ")),
        ),
        (
            json!({"where_document": {"$not_contains": "the"}}),
            Box::new(|r| !has(r, "the")),
        ),
        (
            json!({"where_document": {"$regex": "^[aA]n? "}}),
            Box::new(|r| {
                ["a ", "A ", "an ", "An "]
                    .iter()
                    .any(|start| r.document.as_ref().unwrap().starts_with(start))
            }),
        ),
        (
            json!({"where": {"pos": "noun"}, "where_document": {"$contains": "a"}}),
            Box::new(|r| noun(r) && has(r, "a")),
        ),
    ];
    for (filter, holds) in cases {
        let expected: Vec<_> = records.iter().filter(|record| holds(record)).collect();
        let ids: Vec<_> = expected.iter().map(|record| record.id.clone()).collect();
        assert_eq!(collection.ids(filter.clone()).await, ids, "{filter}");
        // The search answers from the matching records only, all of them.
        let mut body = filter.clone();
        body["query_embeddings"] = json!([query]);
        body["n_results"] = json!(50);
        let found: Vec<String> = collection.nearest(body).await[0]
            .iter()
            .map(|(id, _)| id.clone())
            .collect();
        let mut nearest = expected.clone();
        nearest.sort_by(|a, b| {
            distance("l2", query, &a.embedding).total_cmp(&distance("l2", query, &b.embedding))
        });
        assert_eq!(
            found,
            nearest
                .iter()
                .map(|record| record.id.clone())
                .collect::<Vec<_>>(),
            "{filter}"
        );
    }
}
