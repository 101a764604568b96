//! What holds for every route: one error body, ids on every answer, strict requests, and a clear refusal
//! of what is not there yet.

mod answers;
#[cfg(debug_assertions)]
mod given_up;
mod refusals;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use crate::harness::{Answer, DEFAULT_NAMESPACE, Http, Service, numbered, text};

async fn send_raw(http: &Http, method: &str, path: &str, media_type: &str, body: &str) -> Answer {
    let request = http
        .request(method, path)
        .header("content-type", media_type)
        .body(body.to_owned());
    Http::try_send(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_a_problem() {
    let service = Service::start().await;
    for path in ["/backups/", "/docs/nothing"] {
        service.get(path).await.problem(404);
    }
    for path in [
        "/nothing",
        "/backup",
        "/backups/x/y",
        "/restore/x",
        "/health/x/y/z",
        "/jobs/x/cancel/y",
        "/v2/heartbeat",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let problem = service.send(method, path, None).await.problem(404);
            assert!(
                text(&problem["type"]).ends_with("/not-found"),
                "{method} {path}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_a_problem_that_says_so() {
    let service = Service::start().await;
    for (method, path, allowed) in [
        ("DELETE", "/backups", "POST"),
        ("PUT", "/backups/backup_2026-11-23_10-30-00", "GET"),
        ("GET", "/restore", "POST"),
        ("GET", "/migrate", "POST"),
        ("POST", "/environments", "GET"),
        ("DELETE", "/jobs", "GET"),
        ("GET", "/jobs/x/cancel", "POST"),
        ("POST", "/health", "GET"),
        ("POST", "/health/collections/x", "GET"),
        ("PURGE", "/backups", "GET"),
    ] {
        let answer = service.send(method, path, None).await;
        let allow = answer.header("allow").unwrap_or_default().to_owned();
        assert!(allow.contains(allowed), "{method} {path}: allow {allow:?}");
        let problem = answer.problem(405);
        assert!(
            !text(&problem["type"]).ends_with("/not-found"),
            "{method} {path}: {problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_no_text_is_a_problem_too() {
    let service = Service::start().await;
    for path in [
        "/backups/%FF",
        "/backups/%FF/export",
        "/jobs/%FF",
        "/health/collections/%FF",
    ] {
        let answer = service.get(path).await;
        assert!(
            [400, 404, 422].contains(&answer.status),
            "{path}: {}",
            answer.status
        );
        let status = answer.status;
        answer.problem(status);
    }
    let answer = service.get("/api/v2/tenants/%FF").await;
    assert!([400, 404, 422].contains(&answer.status));
    assert!(answer.json()["message"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_json_or_of_the_wrong_shape_are_told_apart() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    service.backup(json!({})).await;
    let backups = service.get("/backups").await.ok(200);
    for path in ["/backups", "/restore", "/migrate"] {
        for body in ["{", "nothing", "{\"", "{'a': 1}", "\u{0}"] {
            send_raw(&service, "POST", path, "application/json", body)
                .await
                .problem(400);
        }
        for body in ["null", "3", "\"latest\"", "true"] {
            send_raw(&service, "POST", path, "application/json", body)
                .await
                .problem(422);
        }
        send_raw(&service, "POST", path, "text/plain", "{}")
            .await
            .problem(415);
    }
    for path in ["/restore", "/migrate"] {
        service.send("POST", path, None).await.problem(422);
    }
    assert_eq!(service.get("/backups").await.ok(200), backups);
    assert_eq!(
        service.get("/jobs?kind=restore").await.ok(200)["jobs"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_over_the_limit_are_refused_whole() {
    let service = Service::with(|config| config.server.max_body_bytes = 2_000).await;
    let words = service.create("words").await;
    let long = "x".repeat(2_500);
    for path in ["/backups", "/restore", "/migrate"] {
        let problem = service
            .post(path, json!({"labels": {"long": long}}))
            .await
            .problem(413);
        assert!(text(&problem["type"]).ends_with("/too-large"));
    }
    let body = json!({"ids": ["a"], "embeddings": [[1]], "documents": [long]});
    for verb in ["add", "upsert", "update", "get", "delete"] {
        let answer = words.post(verb, body.clone()).await.expect(413);
        assert!(!answer.header("chroma-trace-id").unwrap().is_empty());
    }
    assert_eq!(words.count().await, 0);
    // Just below is fine.
    let fits = json!({"ids": ["a"], "embeddings": [[1]], "documents": ["x".repeat(1_900)]});
    words.post("add", fits).await.expect(201);

    // In chunks, with no length announced.
    let address = service.base.strip_prefix("http://").unwrap().to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = "POST /backups HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        let body = format!("{{\"labels\":{{\"long\":\"{long}\"}}}}");
        let mut message = head.as_bytes().to_vec();
        for chunk in body.as_bytes().chunks(1_000) {
            message.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
            message.extend(chunk);
            message.extend(b"\r\n");
        }
        message.extend(b"0\r\n\r\n");
        // In one piece: the answer comes before the last of it is read.
        stream.write_all(&message).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert_eq!(service.get("/jobs").await.ok(200)["jobs"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_request_id_and_every_error_a_trace_id() {
    let service = Service::start().await;
    let words = service.create("words").await;
    let own = "0123456789".repeat(12);
    let mut generated = std::collections::BTreeSet::new();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/health"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
        ("GET", "/backups"),
        ("POST", "/backups"),
        ("HEAD", "/backups"),
        ("GET", "/backups/nobody"),
        ("GET", "/nothing"),
        ("DELETE", "/backups"),
        ("POST", "/drills"),
        ("POST", "/restore"),
        ("GET", "/api/v2/heartbeat"),
        ("GET", "/api/v2/nothing"),
        ("POST", "/api/v2/heartbeat"),
        ("GET", "/api/v2/tenants/nobody"),
        ("GET", "/api/v1/collections"),
        ("GET", &words.path("count")),
        ("POST", &words.path("get")),
        ("OPTIONS", "/backups"),
    ] {
        let answer = service.send(method, path, None).await;
        let id = answer.header("x-request-id").unwrap_or_default().to_owned();
        assert!(id.len() >= 16, "{method} {path}: {id:?}");
        assert!(generated.insert(id), "an id twice");
        let trace = answer.header("chroma-trace-id");
        assert_eq!(
            trace.is_some_and(|trace| !trace.is_empty()),
            answer.status >= 400,
            "{method} {path}: {}",
            answer.status
        );
        let request = service.request(method, path).header("x-request-id", &own);
        let answer = Http::try_send(request).await.unwrap();
        assert_eq!(
            answer.header("x-request-id"),
            Some(&*own),
            "{method} {path}"
        );
    }
    // One that could not be logged safely is replaced.
    let request = service
        .request("GET", "/backups")
        .header("x-request-id", "x".repeat(5_000));
    let answer = Http::try_send(request).await.unwrap().expect(200);
    assert!(answer.header("x-request-id").unwrap().len() < 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn chromas_side_keeps_chromas_errors() {
    let service = Service::start().await;
    let words = service.create("words").await;
    for path in [
        "/api/v2/nothing",
        "/api/v2/heartbeat/",
        "/api/v2/tenants/a/b/c",
        "/api/nothing",
    ] {
        let answer = service.get(path).await.expect(404);
        assert!(answer.bytes.is_empty(), "{path}: {}", answer.text());
    }
    for (method, path, allowed) in [
        ("POST", "/api/v2/heartbeat".to_owned(), "GET"),
        ("DELETE", words.path("get"), "POST"),
        ("PUT", format!("{DEFAULT_NAMESPACE}/collections"), "POST"),
    ] {
        let answer = service.send(method, &path, None).await.expect(405);
        assert!(answer.bytes.is_empty(), "{path}: {}", answer.text());
        assert!(answer.header("allow").unwrap().contains(allowed), "{path}");
    }
    for (answer, status, name) in [
        (
            service.get("/api/v2/tenants/nobody").await,
            404,
            "NotFoundError",
        ),
        (
            service
                .post(
                    &format!("{DEFAULT_NAMESPACE}/collections"),
                    json!({"name": "words"}),
                )
                .await,
            409,
            "ChromaError",
        ),
        (
            service
                .post(
                    &format!("{DEFAULT_NAMESPACE}/collections"),
                    json!({"name": "a"}),
                )
                .await,
            400,
            "InvalidArgumentError",
        ),
        (
            service
                .post(&format!("{DEFAULT_NAMESPACE}/collections"), json!({}))
                .await,
            422,
            "ChromaError",
        ),
        (
            send_raw(
                &service,
                "POST",
                &words.path("get"),
                "application/json",
                "{",
            )
            .await,
            400,
            "InvalidArgumentError",
        ),
    ] {
        let answer = answer.expect(status);
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{}",
            answer.request
        );
        let body = answer.json();
        assert_eq!(body["error"], name, "{}", answer.request);
        assert!(!text(&body["message"]).is_empty());
    }
    // Unknown members are ignored here.
    let body = json!({"name": "lenient", "unknown": 1, "get_or_create": true});
    service
        .post(&format!("{DEFAULT_NAMESPACE}/collections"), body)
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_is_refused_unless_it_is_allowed() {
    let service = Service::with(|config| config.server.allow_reset = false).await;
    let words = service.create("words").await;
    words.add(&numbered("w", 3)).await;
    let refused = service.post("/api/v2/reset", json!(null)).await.ok(403);
    assert_eq!(refused["error"], "ChromaError");
    assert_eq!(words.records().await, numbered("w", 3));
}
