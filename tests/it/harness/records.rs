//! The records that tests load, and the sums and distances they are compared by.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vectorkeep::model::metadata::{Metadata, MetadataValue};
use vectorkeep::model::record::Record;

use super::{Collection, text};

/// Records as Chroma's write routes take them.
pub(crate) fn columns(records: &[Record]) -> Value {
    let embeddings: Vec<_> = records.iter().map(|record| &record.embedding).collect();
    let metadatas: Vec<_> = records
        .iter()
        .map(|record| (!record.metadata.is_empty()).then_some(&record.metadata))
        .collect();
    json!({
        "ids": records.iter().map(|record| &record.id).collect::<Vec<_>>(),
        "embeddings": embeddings,
        "documents": records.iter().map(|record| &record.document).collect::<Vec<_>>(),
        "uris": records.iter().map(|record| &record.uri).collect::<Vec<_>>(),
        "metadatas": metadatas,
    })
}

/// A record from its JSON, absent members being none.
pub(crate) fn parse_record(json: &Value) -> Record {
    let component = |number: &Value| number.as_f64().unwrap() as f32;
    let metadata: Option<Metadata> = serde_json::from_value(json["metadata"].clone()).unwrap();
    Record {
        id: text(&json["id"]),
        embedding: json["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .map(component)
            .collect(),
        document: json["document"].as_str().map(str::to_owned),
        uri: json["uri"].as_str().map(str::to_owned),
        metadata: metadata.unwrap_or_default(),
    }
}

/// The 50 bundled records.
pub(crate) fn wordnet_50() -> Vec<Record> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/wordnet_50.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(parse_record)
        .collect()
}

/// `count` small records of 8 components, the same on every call.
pub(crate) fn numbered(prefix: &str, count: usize) -> Vec<Record> {
    let record = |number: usize| Record {
        id: format!("{prefix}-{number:05}"),
        embedding: (0..8)
            .map(|axis| ((number * 31 + axis * 17) % 101) as f32 / 8.0 - 6.0)
            .collect(),
        document: Some(format!("text {number} of {prefix}")),
        uri: (number.is_multiple_of(3)).then(|| format!("file:///{prefix}/{number}")),
        metadata: Metadata::from([("n".to_owned(), MetadataValue::Int(number as i64))]),
    };
    (0..count).map(record).collect()
}

/// A file of the shared test data, beside the checkout or where SHARED says. Tests that need it are ignored unless they
/// are asked for (`cargo test -- --ignored`, as `.ci/run` does); a missing file is then an error.
pub(crate) fn shared(file: &str) -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let root = std::env::var_os("SHARED").map_or_else(beside, PathBuf::from);
    let path = root.join(file);
    assert!(
        path.is_file(),
        "{} is missing: this test needs the shared material beside the checkout (or SHARED set to it)",
        path.display()
    );
    path
}

/// Loads the 20,000 real records, as a Chroma client would send them. Their ids, in order.
pub(crate) async fn load_20k(collection: &Collection) -> Vec<String> {
    let file = std::fs::File::open(shared("data/wordnet_20k.jsonl.zst")).unwrap();
    let lines = BufReader::new(zstd::Decoder::new(file).unwrap()).lines();
    let records: Vec<Value> = lines
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(records.len(), 20_000);
    let column = |batch: &[Value], name: &str| {
        batch
            .iter()
            .map(|record| record[name].clone())
            .collect::<Value>()
    };
    for batch in records.chunks(2_000) {
        let body = json!({"ids": column(batch, "id"), "embeddings": column(batch, "embedding_b64"),
            "documents": column(batch, "document"), "metadatas": column(batch, "metadata")});
        collection.post("add", body).await.expect(201);
    }
    assert_eq!(collection.count().await, 20_000);
    records.iter().map(|record| text(&record["id"])).collect()
}

/// The digest that records should have: their hashes as little-endian numbers, added modulo 2^256.
pub(crate) fn digest(records: &[Record]) -> String {
    let mut sum = [0_u8; 32];
    for record in records {
        let mut carry = 0_u16;
        for (byte, addend) in sum.iter_mut().zip(record.hash().0) {
            carry += u16::from(*byte) + u16::from(addend);
            *byte = carry as u8;
            carry >>= 8;
        }
    }
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Distance in f64: squared Euclidean, 1 - cosine (1 where a norm is 0), 1 - inner product.
pub(crate) fn distance(space: &str, a: &[f32], b: &[f32]) -> f64 {
    let sum = |term: fn(f64, f64) -> f64| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| term(f64::from(*x), f64::from(*y)))
            .sum()
    };
    match space {
        "l2" => sum(|x, y| (x - y).powi(2)),
        "ip" => 1.0 - sum(|x, y| x * y),
        "cosine" => {
            let norms = (sum(|x, _| x * x) * sum(|_, y| y * y)).sqrt();
            if norms == 0.0 {
                1.0
            } else {
                1.0 - sum(|x, y| x * y) / norms
            }
        }
        other => panic!("{other}"),
    }
}
