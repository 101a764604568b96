//! TLS: a real handshake, and a certificate that is changed while the service runs.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Certificate;
use vectorkeep::tls::client_builder;

use crate::harness::{Service, eventually};

/// Two certificates for 127.0.0.1, made for these tests and used nowhere else.
const ONE: [&str; 2] = [include_str!("one.cert.pem"), include_str!("one.key.pem")];
const TWO: [&str; 2] = [include_str!("two.cert.pem"), include_str!("two.key.pem")];

fn files(beside: &Path) -> [PathBuf; 2] {
    ["tls.crt", "tls.key"].map(|name| beside.with_file_name(name))
}

fn write(files: &[PathBuf; 2], pair: &[&str; 2]) {
    for (file, content) in files.iter().zip(pair) {
        fs::write(file, content).unwrap();
    }
}

/// The status of an answer to a client that trusts this certificate alone.
async fn asked(service: &Service, trusted: &str, path: &str) -> Result<u16, String> {
    let certificate = Certificate::from_pem(trusted.as_bytes()).unwrap();
    let client = client_builder()
        .no_proxy()
        .tls_certs_only([certificate])
        .build()
        .unwrap();
    let url = format!("{}{path}", service.base.replace("http://", "https://"));
    match client.get(url).send().await {
        Ok(answer) => Ok(answer.status().as_u16()),
        Err(error) => Err(format!("{error:?}")),
    }
}

async fn start() -> (Service, [PathBuf; 2]) {
    // Readiness is looked at by the test itself: the harness speaks HTTP.
    let mut places = None;
    let service = Service::with(|config| {
        let files = files(&config.storage.data_dir);
        write(&files, &ONE);
        config.tls.cert_file = Some(files[0].clone());
        config.tls.key_file = Some(files[1].clone());
        config.tls.reload_interval_ms = 20;
        places = Some(files);
    })
    .await;
    (service, places.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_certificate_is_taken_up_without_a_restart() {
    let (service, files) = start().await;
    assert_eq!(asked(&service, ONE[0], "/health").await, Ok(200));
    assert!(asked(&service, TWO[0], "/health").await.is_err());
    let plain = service.request("GET", "/health").send().await;
    assert!(plain.is_err(), "plain HTTP was answered");

    // Half a change and rubbish leave the one of before in force.
    fs::write(&files[0], TWO[0]).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(asked(&service, ONE[0], "/health").await, Ok(200));
    fs::write(&files[1], TWO[1]).unwrap();
    eventually("the second certificate", async || {
        (asked(&service, TWO[0], "/health").await == Ok(200)).then_some(())
    })
    .await;
    assert!(asked(&service, ONE[0], "/health").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_wrong_handshakes_do_not_keep_others_out() {
    let (service, _) = start().await;
    let address = service.base.strip_prefix("http://").unwrap().to_owned();
    let mut silent = Vec::new();
    for _ in 0..50 {
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.try_write(b"not a handshake at all").unwrap();
        silent.push(stream);
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    assert_eq!(asked(&service, ONE[0], "/health/ready").await, Ok(200));
}
