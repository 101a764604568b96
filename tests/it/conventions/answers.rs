//! What answers and refusals look like: plain words, named settings, a newline at the end, and links that lead back
//! behind a path prefix.

use serde_json::json;

use super::send_raw;
use crate::harness::{Service, numbered, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_shape_is_told_in_plain_words_with_the_place() {
    let service = Service::start().await;
    for (path, body, expected) in [
        (
            "/backups",
            json!({"labels": {"a": 5}}),
            "labels.a: it must be a string, not 5",
        ),
        ("/restore", json!({}), "backup is missing"),
        (
            "/restore",
            json!({"backup": "latest", "on_conflit": "skip"}),
            "there is no member \"on_conflit\"",
        ),
        (
            "/restore",
            json!({"backup": "latest", "collections": [{"name": "a", "to": []}]}),
            "collections[0].to: it must be an object, not a list",
        ),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "drop"}),
            "on_conflict: \"drop\" is not known; it may be fail, skip",
        ),
        (
            "/backups/prune",
            json!({"keep_last": -1}),
            "keep_last: it must be a whole number, 0 or more, not -1",
        ),
        ("/backups", json!(null), "it must be an object, not null"),
    ] {
        let problem = service.post(path, body.clone()).await.problem(422);
        let detail = text(&problem["detail"]);
        assert!(detail.starts_with(expected), "{path} {body}: {detail}");
        assert!(
            !detail.contains("line 1") && !detail.contains('`'),
            "{detail}"
        );
    }
    let problem = send_raw(
        &service,
        "POST",
        "/backups",
        "application/json",
        "{\n  nothing",
    )
    .await
    .problem(400);
    let detail = text(&problem["detail"]);
    assert!(
        detail.starts_with("the body is not JSON") && detail.contains("line 2"),
        "{detail}"
    );
    let problem = service.get("/backups?limit=many").await.problem(422);
    assert!(text(&problem["detail"]).starts_with("limit: "), "{problem}");
    // Chroma's side keeps its words.
    let words = service.create("words").await;
    let refused = words.post("get", json!({"ids": 5})).await.ok(422);
    let message = text(&refused["message"]);
    assert!(
        message.starts_with("Failed to deserialize the JSON body into the target type: ids: "),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_told_which_setting_says_so() {
    let service = Service::with(|config| config.server.max_body_bytes = 2_000).await;
    let long = "x".repeat(2_500);
    let problem = service
        .post("/backups", json!({"labels": {"a": long}}))
        .await
        .problem(413);
    let detail = text(&problem["detail"]);
    assert!(
        detail.contains("2000 bytes (server.max_body_bytes)"),
        "{detail}"
    );
    let words = service.create("words").await;
    let refused = words.post("get", json!({"ids": [long]})).await.ok(413);
    assert!(
        text(&refused["message"]).contains("server.max_body_bytes"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_answers_end_with_a_newline_and_chromas_do_not() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 3)).await;
    for (method, path) in [
        ("GET", "/backups"),
        ("GET", "/health"),
        ("GET", "/jobs"),
        ("GET", "/nothing"),
        ("GET", "/openapi.json"),
        ("POST", "/backups?wait=true"),
        ("POST", "/restore"),
        ("DELETE", "/backups"),
    ] {
        let answer = service.send(method, path, None).await;
        assert!(
            answer.text().ends_with("}\n"),
            "{method} {path}: {:?}",
            answer.text()
        );
        answer.json();
        let length = answer
            .header("content-length")
            .map(|length| length.parse::<usize>().unwrap());
        assert_eq!(length, Some(answer.bytes.len()), "{method} {path}");
        if method == "GET" {
            let head = service.send("HEAD", path, None).await;
            let told = head
                .header("content-length")
                .map(|length| length.parse::<usize>().unwrap());
            // What changes with time may have another length.
            if path != "/health" {
                assert_eq!(told, Some(answer.bytes.len()), "HEAD {path}");
            }
            assert!(head.bytes.is_empty(), "HEAD {path}");
        }
    }
    for path in [
        "/api/v2/version",
        "/api/v2/tenants/nobody",
        &words.path("count"),
    ] {
        let answer = service.get(path).await;
        assert!(!answer.text().ends_with('\n'), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_is_asked_for_in_every_usual_way_and_an_empty_body_is_taken_as_it_is() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    for query in [
        "?wait",
        "?wait=",
        "?wait=1",
        "?wait=true",
        "?wait=True",
        "?wait=TRUE",
    ] {
        service
            .send("POST", &format!("/backups{query}"), None)
            .await
            .expect(201);
    }
    for query in ["", "?wait=false", "?wait=0", "?wait=False"] {
        service
            .send("POST", &format!("/backups{query}"), None)
            .await
            .expect(202);
    }
    let problem = service
        .send("POST", "/backups?wait=soon", None)
        .await
        .problem(422);
    assert!(text(&problem["detail"]).contains("wait"), "{problem}");
    for media_type in ["text/plain", "application/x-www-form-urlencoded", ""] {
        send_raw(&service, "POST", "/backups", media_type, "")
            .await
            .expect(202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_path_prefix_every_link_leads_back() {
    let service = Service::with(|config| config.server.base_path = "/vectors".to_owned()).await;
    let words = service.create("words").await;
    words.add(&numbered("w", 3)).await;
    // With the prefix, and as a proxy sends it that takes the prefix away.
    for before in ["/vectors", ""] {
        let made = service
            .post(&format!("{before}/backups"), json!({}))
            .await
            .expect(202);
        let location = made.header("location").unwrap().to_owned();
        assert!(location.starts_with("/vectors/jobs/"), "{location}");
        service.get(&location).await.expect(200);
        service
            .get(&format!("{before}/health/live"))
            .await
            .expect(200);
        let count = format!("{before}{}", words.path("count"));
        assert_eq!(service.get(&count).await.ok(200), 3);
        let page = service
            .get(&format!("{before}/docs/"))
            .await
            .expect(200)
            .text();
        assert!(page.contains("swagger"), "{page}");
        let script = service
            .get(&format!("{before}/docs/swagger-initializer.js"))
            .await
            .expect(200);
        assert!(
            script.text().contains("\"../openapi.json\""),
            "{}",
            script.text()
        );
        let spec = service.get(&format!("{before}/openapi.json")).await.ok(200);
        assert_eq!(spec["servers"], json!([{"url": "/vectors"}]));
    }
    // Relative links of the page need the slash.
    let bare = service.get("/vectors").await.expect(308);
    assert_eq!(bare.header("location"), Some("/vectors/"));
    assert!(!bare.header("x-request-id").unwrap().is_empty());
    service.get("/vectors-2/backups").await.problem(404);
    let unknown = service.get("/vectors/nothing").await.problem(404);
    assert!(text(&unknown["detail"]).contains("/nothing"), "{unknown}");
}

/// Links of the page and of the documentation are relative: right behind any prefix, told or not.
#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_is_found_beside_the_page_wherever_that_is() {
    let service = Service::start().await;
    let answer = service.get("/docs").await.expect(303);
    assert_eq!(answer.header("location"), Some("docs/"));
    let spec = service.get("/openapi.json").await.ok(200);
    assert!(spec.get("servers").is_none(), "{}", spec["servers"]);
}
