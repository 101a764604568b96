//! Keys as an operator meets them: made on the command line, needed beyond loopback, named in the log.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Process, assert_one_line, program, refusal, the_binary};
use crate::harness::Http;

/// Runs `vectorkeep key`: the secret, and the printed table.
fn make_key(arguments: &[&str]) -> (String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = program(&the_binary(), home.path());
    let output = command
        .arg("key")
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let secret = text(output.stderr).trim().to_owned();
    (secret, text(output.stdout))
}

/// A table as it is written in an environment variable.
fn inline(table: &str) -> String {
    let pairs: Vec<&str> = table.lines().filter(|line| line.contains(" = ")).collect();
    format!("[{{{}}}]", pairs.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_it_starts_with_keys_or_when_told_to() {
    let home = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:0", "[::]:0"] {
        let mut command = program(&the_binary(), home.path());
        command.env("VECTORKEEP__SERVER__LISTEN", address);
        let (code, message) = refusal(command, home.path()).await;
        assert_eq!(code, Some(2), "{message}");
        assert_one_line(&message, "access.keys_file");
        assert!(message.contains("access.allow_open"), "{message}");
        assert!(!home.path().join("data").exists());
    }
    let line = the_binary();
    let (secret, table) = make_key(&["app", "--role", "writer"]);
    let keys = inline(&table);
    let file = home.path().join("keys.toml");
    fs::write(&file, &table).unwrap();
    for (name, value, open) in [
        ("VECTORKEEP__ACCESS__ALLOW_OPEN", "true", true),
        ("VECTORKEEP__ACCESS__KEYS", keys.as_str(), false),
        (
            "VECTORKEEP__ACCESS__KEYS_FILE",
            file.to_str().unwrap(),
            false,
        ),
    ] {
        let launched = Process::launch(home.path(), &line, |command| {
            let loopback = command
                .get_envs()
                .find(|(name, _)| *name == "VECTORKEEP__SERVER__LISTEN");
            let loopback = loopback.unwrap().1.unwrap().to_str().unwrap().to_owned();
            command.env(
                "VECTORKEEP__SERVER__LISTEN",
                loopback.replace("127.0.0.1", "0.0.0.0"),
            );
            command.env(name, value);
        });
        let process = launched
            .await
            .unwrap_or_else(|(_, message)| panic!("{name}: {message}"));
        let asked = process.http.get("/api/v2/heartbeat").await;
        assert_eq!(asked.status, if open { 200 } else { 401 }, "{name}");
        let request = process
            .http
            .request("GET", "/api/v2/heartbeat")
            .bearer_auth(&secret);
        Http::try_send(request).await.unwrap().expect(200);
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_stop_the_start_and_stay_secret() {
    let home = tempfile::tempdir().unwrap();
    let (secret, table) = make_key(&[
        "app",
        "--role",
        "reader",
        "--tenant",
        "acme",
        "--database",
        "prod",
    ]);
    assert!(table.contains("tenant = \"acme\"") && table.contains("databases = [\"prod\"]"));
    let hash = table
        .lines()
        .find_map(|line| line.strip_prefix("hash = "))
        .unwrap();
    for (content, named) in [
        (Some(format!("{table}{table}")), "two keys of this name"),
        (
            Some(table.replace("reader", "operator")),
            "only reader and writer",
        ),
        (Some(table.replace("role", "rolle")), "rolle"),
        (Some(table.replace("reader", "king")), "role"),
        (Some(format!("{table}hash = {hash}")), "keys.toml"),
        (None, "keys.toml"),
    ] {
        let file = home.path().join("keys.toml");
        let _ = fs::remove_file(&file);
        if let Some(content) = &content {
            fs::write(&file, content).unwrap();
        }
        let mut command = program(&the_binary(), home.path());
        command.env("VECTORKEEP__ACCESS__KEYS_FILE", &file);
        let (code, message) = refusal(command, home.path()).await;
        assert_eq!(code, Some(2), "{content:?}: {message}");
        assert_one_line(&message, named);
        assert!(
            !message.contains(hash.trim_matches('"')) && !message.contains(&secret),
            "{message}"
        );
    }
    let hash = hash.trim_matches('"');
    let file = home.path().join("keys.toml");
    for (name, content) in [
        (
            "VECTORKEEP__ACCESS__KEYS",
            format!("[{{name=\"a\", hash=\"{hash}\""),
        ),
        ("VECTORKEEP__ACCESS__KEYS", format!("[\"{hash}\"]")),
        (
            "VECTORKEEP__ACCESS__KEYS_FILE",
            format!("keys = \"{hash}\""),
        ),
        (
            "VECTORKEEP__ACCESS__KEYS_FILE",
            format!("[[keys]]\nhash = \"{hash}\" x"),
        ),
    ] {
        let mut command = program(&the_binary(), home.path());
        if name.ends_with("FILE") {
            fs::write(&file, &content).unwrap();
            command.env(name, &file);
        } else {
            command.env(name, &content);
        }
        let (code, message) = refusal(command, home.path()).await;
        assert_eq!(code, Some(2), "{content}: {message}");
        assert_one_line(&message, "");
        assert!(!message.contains(hash), "{message}");
    }
}

/// Who changed what stands in the log, whatever its level; what clients write does not.
#[tokio::test(flavor = "multi_thread")]
async fn changes_by_operators_are_logged_with_the_keys_name() {
    let home = tempfile::tempdir().unwrap();
    let keys = ["writer", "operator", "admin"]
        .map(|role| make_key(&[&format!("the-{role}"), "--role", role]));
    let file = home.path().join("keys.toml");
    fs::write(
        &file,
        keys.iter()
            .map(|(_, table)| table.as_str())
            .collect::<String>(),
    )
    .unwrap();
    let settings = [
        ("VECTORKEEP__ACCESS__KEYS_FILE", file.to_str().unwrap()),
        ("VECTORKEEP__LOG__LEVEL", "error"),
        ("VECTORKEEP__LOG__FORMAT", "json"),
    ];
    let process = Process::start(home.path(), &settings).await;
    let [writer, operator, admin] = keys.map(|(secret, _)| secret);
    let send = async |secret: &str, method: &str, path: &str, body: Value, status: u16| {
        let request = process
            .http
            .request(method, path)
            .bearer_auth(secret)
            .json(&body);
        Http::try_send(request).await.unwrap().expect(status)
    };
    let namespace = "/api/v2/tenants/default_tenant/databases/default_database/collections";
    send(&writer, "POST", namespace, json!({"name": "words"}), 200).await;
    send(&operator, "POST", "/backups?wait=true", json!({}), 201).await;
    send(&operator, "GET", "/backups", json!({}), 200).await;
    send(
        &operator,
        "POST",
        "/restore",
        json!({"backup": "none"}),
        404,
    )
    .await;
    send(
        &admin,
        "DELETE",
        &format!("{namespace}/words"),
        json!({}),
        200,
    )
    .await;
    send(&writer, "POST", "/api/v2/reset", json!({}), 403).await;
    process.terminate();
    let log = process.stderr();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let audit: Vec<[String; 3]> = lines
        .iter()
        .filter(|line| line["message"] == "audit")
        .map(|line| {
            ["key", "action", "outcome"].map(|name| {
                line[name]
                    .as_str()
                    .map_or_else(|| line[name].to_string(), str::to_owned)
            })
        })
        .collect();
    for expected in [
        ["the-operator", "backup", "Succeeded"],
        ["the-operator", "POST /backups", "201"],
        ["the-operator", "POST /restore", "404"],
        [
            "the-admin",
            "DELETE /api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}",
            "200",
        ],
    ] {
        assert!(
            audit.iter().any(|line| *line == expected),
            "{expected:?} is not in {audit:?}"
        );
    }
    assert_eq!(audit.len(), 4, "{audit:?}");
    for secret in [writer, operator, admin] {
        assert!(!log.contains(&secret), "a key stands in the log");
    }
}
