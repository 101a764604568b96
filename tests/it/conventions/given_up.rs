//! Requests that take too long, and clients that leave: the work stops, and who is still there learns whether something
//! may come of it.

use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use vectorkeep::engine::{Engine, damage};
use vectorkeep::error::Result;

use crate::harness::{Collection, Service, eventually};

/// What holds a call of the store up, until it is dropped.
struct Hanging {
    end: Sender<()>,
    ended: JoinHandle<Result<()>>,
}

impl Hanging {
    async fn begin(
        service: &Service,
        call: &'static str,
        how: fn(&Engine, &Receiver<()>) -> Result<()>,
    ) -> Self {
        let (end, receiver) = channel::<()>();
        let app = service.app().clone();
        let hang = async move { app.on_thread(move |app| how(app.engine(), &receiver)).await };
        let ended = tokio::spawn(hang);
        let calls = service.app().engine().calls();
        eventually("a call hangs", async || {
            calls.under_way().contains(&call).then_some(())
        })
        .await;
        Self { end, ended }
    }

    async fn end(self) {
        drop(self.end);
        self.ended.await.unwrap().unwrap();
    }
}

async fn service(request_timeout_ms: u64) -> (Service, Collection) {
    let service = Service::with(|config| config.server.request_timeout_ms = request_timeout_ms);
    let service = service.await;
    let words = service.create("words").await;
    let one = json!({"ids": ["a"], "embeddings": [[1.0, 2.0]], "documents": ["before"]});
    words.post("add", one).await.expect(201);
    (service, words)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_did_not_begin_in_time_changes_nothing_and_says_so() {
    let (service, words) = service(300).await;
    let hanging = Hanging::begin(&service, "commit", damage::hang_in_commit).await;
    let writes = [
        ("add", json!({"ids": ["b"], "embeddings": [[1.0, 2.0]]})),
        ("upsert", json!({"ids": ["a"], "embeddings": [[3.0, 2.0]]})),
        ("update", json!({"ids": ["a"], "documents": ["after"]})),
        ("delete", json!({"ids": ["a"]})),
    ];
    for (verb, body) in writes {
        let answer = words.post(verb, body).await.expect(504);
        assert_eq!(
            answer.json()["message"],
            "the request took longer than 300 ms; it was stopped, and changed nothing",
            "{verb}"
        );
    }
    hanging.end().await;
    // The write lock is theirs when this one has it: none of them wrote.
    let last = json!({"ids": ["c"], "embeddings": [[5.0, 5.0]]});
    words.post("add", last).await.expect(201);
    assert_eq!(words.ids(json!({})).await, ["a", "c"]);
    let there = words.post("get", json!({"ids": ["a"]})).await.ok(200);
    assert_eq!(there["documents"], json!(["before"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_being_synced_may_still_take_effect_and_says_so() {
    let (service, words) = service(300).await;
    let hanging = Hanging::begin(&service, "sync", damage::hang_in_sync).await;
    let write = json!({"ids": ["b"], "embeddings": [[1.0, 2.0]]});
    let answer = words.post("add", write).await.expect(504);
    assert_eq!(
        answer.json()["message"],
        "the request took longer than 300 ms; what it asked for may still take effect"
    );
    hanging.end().await;
    assert_eq!(words.ids(json!({})).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_client_left_before_it_began_changes_nothing() {
    let (service, words) = service(60_000).await;
    let hanging = Hanging::begin(&service, "commit", damage::hang_in_commit).await;
    let body = json!({"ids": ["b"], "embeddings": [[1.0, 2.0]]}).to_string();
    let address = service.base.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        words.path("add"),
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(body.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    // The service gives the request up, and closes its side.
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "");
    hanging.end().await;
    let last = json!({"ids": ["c"], "embeddings": [[5.0, 5.0]]});
    words.post("add", last).await.expect(201);
    assert_eq!(words.ids(json!({})).await, ["a", "c"]);
}
