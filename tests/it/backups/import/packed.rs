//! Documents that come packed: the same records, and no way around the bounds.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::*;

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

/// What HTTP calls `deflate`.
fn zlib(content: &[u8]) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_document_is_the_same_document() {
    let service = Service::start().await;
    let document = minimal(300);
    let (json, lines) = (document.to_string(), as_lines(&document));
    let plain = imported(&service, JSON, json.clone()).await;
    for (media_type, body) in [
        (JSON, gzip(json.as_bytes())),
        (JSON, zstd(json.as_bytes())),
        (JSON, zlib(json.as_bytes())),
        (JSON_LINES, zlib(lines.as_bytes())),
        // As some editors save it.
        (JSON, format!("\u{feff}{json}").into_bytes()),
        (JSON_LINES, format!("\u{feff}{lines}").into_bytes()),
        (JSON, gzip(format!("\u{feff}{json}").as_bytes())),
        (JSON_LINES, gzip(lines.as_bytes())),
        (JSON_LINES, zstd(lines.as_bytes())),
        ("application/gzip", gzip(lines.as_bytes())),
        ("application/zstd", zstd(json.as_bytes())),
        // Two members are one document (RFC 1952, section 2.2).
        (
            JSON,
            [gzip(&json.as_bytes()[..50]), gzip(&json.as_bytes()[50..])].concat(),
        ),
    ] {
        let backup = imported(&service, media_type, body).await;
        assert_eq!(backup["records"], 300);
        assert_eq!(
            backup["collections"][0]["digest"],
            plain["collections"][0]["digest"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gets_too_long_or_is_cut_off_is_refused() {
    let service = Service::with(|config| config.repository.max_import_bytes = 2_000_000).await;
    // Small as it comes, and far above the bound unpacked.
    let mut bomb = minimal(1).to_string().into_bytes();
    bomb.resize(50_000_000, b' ');
    for packed in [gzip(&bomb), zstd(&bomb), zlib(&bomb)] {
        assert!(packed.len() < 1_000_000, "{}", packed.len());
        let detail = refused(&service, JSON, packed).await;
        assert!(detail.contains("repository.max_import_bytes"), "{detail}");
    }
    let whole = minimal(500).to_string();
    let whole = whole.as_bytes();
    for packed in [gzip(whole), zstd(whole), zlib(whole)] {
        let cut = packed[..packed.len() / 2].to_vec();
        let detail = refused(&service, JSON, cut).await;
        assert!(detail.contains("cannot be unpacked"), "{detail}");
        let mut damaged = packed;
        let middle = damaged.len() / 2;
        damaged[middle..middle + 20].fill(0);
        refused(&service, JSON, damaged).await;
    }
}

/// The header says how it is packed on the way, and so does the beginning of the document.
#[tokio::test(flavor = "multi_thread")]
async fn an_encoding_that_is_unpacked_here_is_taken_and_another_is_named() {
    let service = Service::start().await;
    let json = minimal(20).to_string();
    let send = async |encoding: &str, body: Vec<u8>| {
        let request = service
            .request("POST", "/backups/import?wait=true")
            .header("content-type", JSON)
            .header("content-encoding", encoding)
            .body(body);
        Http::try_send(request).await.unwrap()
    };
    for (encoding, body) in [
        ("deflate", zlib(json.as_bytes())),
        ("gzip", gzip(json.as_bytes())),
        ("zstd", zstd(json.as_bytes())),
        ("identity", json.clone().into_bytes()),
    ] {
        send(encoding, body).await.expect(201);
    }
    let problem = send("br", json.into_bytes()).await.problem(415);
    let detail = text(&problem["detail"]);
    assert!(
        detail.contains("\"br\"") && detail.contains("deflate"),
        "{detail}"
    );
}
