//! Clients that are slow, silent or too many do not keep others from being served.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{BOUND, DEFAULT_NAMESPACE, Http, Service, eventually, numbered, text};

async fn connect(service: &Service) -> TcpStream {
    let address = service.base.strip_prefix("http://").unwrap();
    TcpStream::connect(address).await.unwrap()
}

/// What the service sends until it closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(BOUND, stream.read_to_end(&mut bytes)).await;
    // A reset is an end as well.
    let _ = read.expect("the service does not close the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads the head of an answer; the connection stays.
async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_and_an_idle_connection_are_closed() {
    let service = Service::with(|config| config.server.header_timeout_ms = 200).await;
    let mut silent = connect(&service).await;
    let mut slow = connect(&service).await;
    slow.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ")
        .await
        .unwrap();
    let mut idle = connect(&service).await;
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut idle).await.starts_with("HTTP/1.1 200"));
    for stream in [&mut silent, &mut slow] {
        let answer = rest(stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }
    assert!(
        rest(&mut idle).await.ends_with("}\n"),
        "only the body of the one answer"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_silent_connection_makes_room_for_a_new_one() {
    let service = Service::with(|config| config.server.max_connections = 8).await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(connect(&service).await);
    }
    // Whoever comes now is served, though none of the others went.
    for _ in 0..3 {
        let fresh = Http::new(service.base.clone());
        fresh.get("/health/ready").await.expect(200);
    }
    let mut first = silent.remove(0);
    assert_eq!(rest(&mut first).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_cut_and_takes_no_place() {
    let service = Service::with(|config| {
        config.server.max_concurrent_requests = 1;
        config.server.body_timeout_ms = 300;
    })
    .await;
    let words = service.create("words").await;
    let mut dripping = Vec::new();
    for path in [words.path("add"), "/backups".to_owned()] {
        let mut stream = connect(&service).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        dripping.push(stream);
    }
    // Both are being received, and the one place is free.
    words.add(&numbered("w", 3)).await;
    for stream in &mut dripping {
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("server.body_timeout_ms"), "{answer}");
    }
    assert_eq!(words.count().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_received_share_a_bound_of_memory() {
    let service = Service::with(|config| {
        config.server.max_body_bytes = 60_000;
        config.server.max_receiving_bytes = 100_000;
    })
    .await;
    let words = service.create("words").await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n",
        words.path("add")
    );
    let body = json!({"ids": ["a"], "embeddings": [[1]], "documents": ["x".repeat(50_000)]});
    // Whichever of the two comes first has the memory: again until it is the one that never ends.
    let (stream, refused) = eventually("the memory is taken", async || {
        let mut stream = connect(&service).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b' '; 59_000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let answer = words.post("upsert", body.clone()).await;
        (answer.status != 200).then_some((stream, answer))
    })
    .await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    let problem = refused.ok(503);
    assert!(text(&problem["message"]).contains("server.max_receiving_bytes"));
    for path in ["/health", "/health/live", "/health/ready"] {
        service.get(path).await.expect(200);
    }
    drop(stream);
    eventually("it is free again", async || {
        (words.post("upsert", body.clone()).await.status == 200).then_some(())
    })
    .await;
}

/// Where all places are taken, further requests are told to come again, and probes are answered.
#[tokio::test(flavor = "multi_thread")]
async fn overload_is_shed_and_probes_stay_green() {
    let service = Service::with(|config| config.server.max_concurrent_requests = 2).await;
    let words = service.create("words").await;
    words.add(&numbered("w", 400)).await;
    let vectors: Vec<Vec<f32>> = (0..200).map(|at| vec![at as f32; 8]).collect();
    let query = json!({"query_embeddings": vectors, "n_results": 100});
    let mut shed = 0;
    let asked: Vec<_> = (0..24)
        .map(|_| {
            let (words, query) = (words.clone(), query.clone());
            tokio::spawn(async move { words.post("query", query).await })
        })
        .collect();
    for _ in 0..20 {
        for path in ["/health", "/health/live", "/health/ready"] {
            service.get(path).await.expect(200);
        }
    }
    for answer in asked {
        let answer = answer.await.unwrap();
        if answer.status == 503 {
            shed += 1;
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert!(answer.text().contains("server.max_concurrent_requests"));
        } else {
            answer.expect(200);
        }
    }
    assert!(shed > 0, "24 at once, 2 places, and none was refused");
    words.post("query", query).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_it_is_not_ready_and_still_serves() {
    let mut service = Service::with(|config| {
        config.server.drain_delay_ms = 2_000;
        config.server.shutdown_grace_ms = 10_000;
    })
    .await;
    service.create("words").await;
    let http = Http::new(service.base.clone());
    let watch = async {
        eventually("not ready", async || {
            (http.get("/health/ready").await.status == 503).then_some(())
        })
        .await;
        // A new connection, after the signal.
        let late = Http::new(http.base.clone());
        late.get("/health/live").await.expect(200);
        late.get(&format!("{DEFAULT_NAMESPACE}/collections/words"))
            .await
            .expect(200);
    };
    tokio::join!(service.stop(), watch);
}

/// A request that is being answered when the service stops is finished.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_does_not_delay_the_stop() {
    let mut service = Service::with(|config| config.server.shutdown_grace_ms = 3_600_000).await;
    let mut silent = connect(&service).await;
    let mut half = connect(&service).await;
    half.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    service.stop().await;
    assert_eq!(rest(&mut silent).await, "");
    assert_eq!(rest(&mut half).await, "");
}

/// What is open to everybody reads nobody's body.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_with_a_body_is_answered_without_it() {
    let service = Service::start().await;
    for path in ["/health", "/health/live", "/health/ready"] {
        let mut stream = connect(&service).await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = tokio::time::timeout(BOUND, self::head(&mut stream))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }
}

/// An answer that nobody takes is given up; one that is taken slowly arrives whole.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_taken_is_given_up() {
    let service = Service::with(|config| config.server.write_timeout_ms = 500).await;
    let words = service.create("words").await;
    let document = "x".repeat(1_000_000);
    for number in 0..40 {
        let body =
            json!({"ids": [format!("r{number}")], "embeddings": [[1]], "documents": [document]});
        words.post("add", body).await.expect(201);
    }
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}",
        words.path("get")
    );
    let mut unread = connect(&service).await;
    unread.write_all(request.as_bytes()).await.unwrap();
    // It has begun; then nothing more is taken for many times as long as the service waits.
    assert!(self::head(&mut unread).await.starts_with("HTTP/1.1 200"));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let taken = rest(&mut unread).await;
    assert!(
        taken.len() < 40_000_000,
        "all of it waited for its client: {}",
        taken.len()
    );

    let mut slow = connect(&service).await;
    slow.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut slow).await;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.unwrap().trim().parse().unwrap();
    let (mut taken, mut part) = (0, vec![0; 2_000_000]);
    while taken < length {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let count = slow.read(&mut part).await.unwrap();
        assert!(count > 0, "{taken} of {length}");
        taken += count;
    }
}
