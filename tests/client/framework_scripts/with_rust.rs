//! The official crate: add, query with and without a filter, get, delete.

use chroma::types::{Key, Metadata};
use serde_json::{from_value, json, Value};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given: Value = serde_json::from_str(&std::fs::read_to_string("articles.json")?)?;
    let id = |name: &str| Some(vec![given[name].as_str().unwrap_or_default().to_string()]);
    #[allow(unused_variables)]
    let key = std::env::var("KEY").unwrap_or_default();
    // >>> docs/frameworks.md
    let articles = client.get_or_create_collection("articles", None, None).await?;
    let ids: Vec<String> = from_value(given["IDS"].clone())?;
    let vectors: Vec<Vec<f32>> = from_value(given["VECTORS"].clone())?;
    let texts: Vec<Option<String>> = from_value(given["TEXTS"].clone())?;
    let metadatas: Vec<Option<Metadata>> = from_value(given["METADATAS"].clone())?;
    articles.add(ids, vectors, Some(texts), None, Some(metadatas)).await?;
    let question: Vec<Vec<f32>> = vec![from_value(given["EMBEDDINGS"][given["QUESTION"].as_str().unwrap_or_default()].clone())?];
    let found = articles.query(question.clone(), Some(3), None, None, None).await?;
    let topic = Key::field("topic").eq(given["TOPIC"].as_str().unwrap_or_default());
    let filtered = articles.query(question, Some(3), Some(topic), None, None).await?;
    let got = json!(articles.get(id("GOT"), None, None, None, None).await?);
    articles.delete(id("DELETED"), None, None).await?;
    let mut left = articles.get(None, None, None, None, None).await?.ids;
    left.sort();
    let (found, filtered) = (json!(found), json!(filtered));
    let report = json!({
        "found": found["ids"][0], "filtered": filtered["ids"][0], "text": got["documents"][0], "topic": got["metadatas"][0]["topic"],
        "left": left, "distances": found["distances"][0], "space": "l2",
    });
    println!("{report}");
    Ok(())
}
