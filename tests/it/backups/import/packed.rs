//! Documents that come packed: the same records, and no way around the bounds.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
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
    for packed in [gzip(&bomb), zstd(&bomb)] {
        assert!(packed.len() < 1_000_000, "{}", packed.len());
        let detail = refused(&service, JSON, packed).await;
        assert!(detail.contains("repository.max_import_bytes"), "{detail}");
    }
    let whole = minimal(500).to_string();
    for packed in [gzip(whole.as_bytes()), zstd(whole.as_bytes())] {
        let cut = packed[..packed.len() / 2].to_vec();
        let detail = refused(&service, JSON, cut).await;
        assert!(detail.contains("cannot be unpacked"), "{detail}");
        let mut damaged = packed;
        let middle = damaged.len() / 2;
        damaged[middle..middle + 20].fill(0);
        refused(&service, JSON, damaged).await;
    }
}
