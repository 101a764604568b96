//! Documents that are not taken: named by the position of what is wrong, and nothing is left of them.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{
    JSON, JSON_LINES, as_lines, export, imported, minimal, nothing_left, refused, send, uploads,
};
use crate::harness::{Service, eventually, numbered, text, wordnet_50};

fn record(document: &mut Value, at: usize) -> &mut Value {
    &mut document["collections"][0]["records"][at]
}

type Change = fn(&mut Value);

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_wrong_is_named_by_its_position() {
    let service = Service::start().await;
    let changes: [Change; 13] = [
        |document| record(document, 7)["embedding"] = json!([1, 2]),
        |document| record(document, 7)["embedding"] = json!([1, 2, 3, 4]),
        |document| record(document, 7)["embedding"] = json!([]),
        |document| record(document, 7)["embedding"] = json!([1, 2, 1e39]),
        |document| record(document, 7)["embedding"] = json!([1, 2, -3.5e38]),
        |document| record(document, 7)["embedding"] = json!([1, 2, null]),
        |document| record(document, 7)["id"] = json!(""),
        |document| record(document, 7)["id"] = json!(7),
        |document| record(document, 7)["id"] = json!("r-00006"),
        |document| record(document, 7)["documents"] = json!("a text"),
        |document| record(document, 7)["metadata"] = json!({"fine": 1, "#not": 1}),
        |document| record(document, 7)["metadata"] = json!({"deep": {"er": 1}}),
        |document| record(document, 7)["metadata"] = json!({"mixed": [1, "a"]}),
    ];
    for change in changes {
        let mut document = minimal(20);
        change(&mut document);
        let shown = record(&mut document, 7).to_string();
        for (media_type, body) in [
            (JSON, document.to_string()),
            (JSON_LINES, as_lines(&document)),
        ] {
            let detail = refused(&service, media_type, body).await;
            let position = "collections[0].records[7]";
            assert!(detail.contains(position), "{shown}: {detail}");
        }
    }
    let unknown = minimal(1).to_string().replace("\"id\"", "\"idd\"");
    let detail = refused(&service, JSON, unknown).await;
    assert!(detail.contains("idd"), "{detail}");

    // More than any float holds: no JSON library writes it.
    let document = minimal(20).to_string();
    let infinite = document.replacen("[7,0.5,-1]", "[7,1e999,-1]", 1);
    assert_ne!(infinite, document);
    let detail = refused(&service, JSON, infinite).await;
    assert!(detail.contains("collections[0].records[7]"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_stands_twice_is_found_however_far_apart() {
    let service = Service::with(|config| config.repository.pack_bytes = 65_536).await;
    let mut document = minimal(6_000);
    let [first, second] = [3, 5_990];
    let twice = record(&mut document, first)["id"].clone();
    record(&mut document, second)["id"] = twice;
    for (media_type, body) in [
        (JSON, document.to_string()),
        (JSON_LINES, as_lines(&document)),
    ] {
        let detail = refused(&service, media_type, body).await;
        let position = format!("collections[0].records[{second}]");
        assert!(detail.contains(&position), "{detail}");
        assert!(detail.contains(&format!("records[{first}]")), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_wrong_as_a_whole_makes_no_backup() {
    let service = Service::start().await;
    let changes: [(&str, Change); 15] = [
        ("format", |document| document["format"] = json!("other")),
        ("format", |document| {
            document.as_object_mut().unwrap().remove("format");
        }),
        ("version", |document| document["version"] = json!(2)),
        ("version", |document| document["version"] = json!("1")),
        ("extra", |document| document["extra"] = json!(1)),
        ("collections", |document| {
            document["collections"] = json!({})
        }),
        ("collections", |document| {
            document.as_object_mut().unwrap().remove("collections");
        }),
        ("name", |document| {
            let collection = document["collections"][0].as_object_mut();
            collection.unwrap().remove("name");
        }),
        ("words", |document| {
            let collections = document["collections"].as_array_mut().unwrap();
            collections.push(collections[0].clone());
        }),
        ("extra", |document| {
            document["collections"][0]["extra"] = json!(1);
        }),
        ("dimension", |document| {
            document["collections"][0]["dimension"] = json!(4);
        }),
        ("#x", |document| {
            document["collections"][0]["metadata"] = json!({"#x": 1});
        }),
        ("", |document| {
            document["collections"][0]["name"] = json!("no name");
        }),
        ("", |document| {
            let configuration = json!({"hnsw": {"space": "l3"}});
            document["collections"][0]["configuration"] = configuration;
        }),
        ("digest", |document| {
            document["collections"][0]["digest"] = json!("0".repeat(64));
        }),
    ];
    for (named, change) in changes {
        let mut document = minimal(3);
        change(&mut document);
        let detail = refused(&service, JSON, document.to_string()).await;
        assert!(detail.contains(named), "{document}: {detail}");
    }
    for body in ["[]", "null", "3"] {
        refused(&service, JSON, body).await;
    }
    let path = "?wait=true&format=xml";
    let answer = send(&service, path, JSON, minimal(3).to_string()).await;
    answer.problem(422);
    nothing_left(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_changed_does_not_have_its_digest_any_more() {
    let service = Service::start().await;
    service.create("words").await.add(&wordnet_50()).await;
    let backup = service.backup(json!({})).await;
    let whole: Value = serde_json::from_slice(&export(&service, &backup, "json").await).unwrap();
    imported(&service, JSON, whole.to_string()).await;
    let changes: [Change; 3] = [
        |document| record(document, 20)["document"] = json!("another text"),
        |document| record(document, 20)["metadata"]["length"] = json!(23.0),
        |document| {
            let records = document["collections"][0]["records"].as_array_mut();
            records.unwrap().remove(20);
        },
    ];
    for change in changes {
        let mut document = whole.clone();
        change(&mut document);
        let detail = refused(&service, JSON, document.to_string()).await;
        assert!(detail.contains("digest"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_cut_off_makes_no_backup() {
    let service = Service::start().await;
    let document = minimal(20).to_string();
    let length = document.len();
    for cut in [
        1,
        30,
        length / 4,
        length / 2,
        length * 3 / 4,
        length - 3,
        length - 2,
        length - 1,
    ] {
        refused(&service, JSON, document[..cut].to_owned()).await;
    }
    for more in ["x", "}", &document] {
        refused(&service, JSON, format!("{document}{more}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_need_every_line() {
    let service = Service::start().await;
    service.create("left").await.add(&numbered("l", 4)).await;
    service.create("right").await.add(&numbered("r", 3)).await;
    let backup = service.backup(json!({})).await;
    let whole = export(&service, &backup, "jsonl").await;
    let whole = String::from_utf8(whole.to_vec()).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 1 + (1 + 4 + 1) + (1 + 3 + 1) + 1);
    for at in 0..lines.len() {
        let without = [&lines[..at], &lines[at + 1..]].concat().concat();
        refused(&service, JSON_LINES, without).await;
        if at > 0 {
            let cut = lines[..at].concat();
            refused(&service, JSON_LINES, cut.clone()).await;
            let within = &lines[at][..lines[at].len() / 2];
            refused(&service, JSON_LINES, cut + within).await;
        }
    }
    refused(&service, JSON_LINES, format!("{whole}{}", lines[1])).await;
    imported(&service, JSON_LINES, whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_media_types_are_refused() {
    let service = Service::start().await;
    for media_type in ["text/plain", "application/octet-stream"] {
        let body = minimal(3).to_string();
        let answer = send(&service, "?wait=true", media_type, body).await;
        answer.problem(415);
    }
    assert_eq!(service.get("/jobs").await.ok(200)["jobs"], json!([]));
    nothing_left(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_have_a_bound_of_their_own() {
    let service = Service::with(|config| {
        config.repository.max_import_bytes = 2_000;
        config.server.max_body_bytes = 500;
    })
    .await;
    let (fits, over) = (minimal(30).to_string(), minimal(60).to_string());
    assert!((501..=2_000).contains(&fits.len()) && over.len() > 2_000);
    let labels = json!({"labels": {"long": "x".repeat(600)}});
    service.post("/backups", labels).await.problem(413);

    let answer = send(&service, "?wait=true", JSON, over.clone()).await;
    let problem = answer.problem(413);
    assert!(text(&problem["type"]).ends_with("/too-large"), "{problem}");
    // In chunks, with no length announced.
    let address = service.base.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    let head = "POST /backups/import?wait=true HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let mut request = head.to_owned();
    for chunk in [&over[..1_000], &over[1_000..]] {
        request += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
    }
    request += "0\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let listed = service.get("/backups").await.ok(200);
    assert_eq!(listed["backups"], json!([]));
    nothing_left(&service).await;
    assert_eq!(imported(&service, JSON, fits).await["records"], 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_a_bound_that_is_named() {
    let service = Service::with(|config| config.repository.max_import_record_bytes = 1_000).await;
    let mut document = minimal(30);
    record(&mut document, 7)["document"] = json!("x".repeat(800));
    assert!(document.to_string().len() > 2_000);
    for over in [false, true] {
        if over {
            record(&mut document, 7)["document"] = json!("x".repeat(1_200));
        }
        for (media_type, body) in [
            (JSON, document.to_string()),
            (JSON_LINES, as_lines(&document)),
        ] {
            if over {
                let detail = refused(&service, media_type, body).await;
                assert!(detail.contains("max_import_record_bytes"), "{detail}");
            } else {
                imported(&service, media_type, body).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let service = Service::start().await;
    let address = service.base.strip_prefix("http://").unwrap();
    let document = minimal(30_000).to_string();
    let head = format!(
        "POST /backups/import HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        document.len()
    );
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let most = &document.as_bytes()[..document.len() - 100];
    connection.write_all(most).await.unwrap();
    eventually("the upload to be kept", async || {
        (!uploads(&service).is_empty()).then_some(())
    })
    .await;
    drop(connection);
    nothing_left(&service).await;
    let listed = service.get("/backups").await.ok(200);
    assert_eq!(listed["backups"], json!([]));
}
