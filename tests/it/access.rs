//! Keys: who may do what, on every route that there is.

mod connections;
mod limits;
mod origins;
mod readers;
mod scopes;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use vectorkeep::access::{NewKey, Role, new_key};
use vectorkeep::api::spec_json;

use crate::harness::{Answer, Http, Service, eventually, numbered, text};

/// A service that wants keys, and one key of each role.
struct Guarded {
    service: Service,
    secrets: BTreeMap<&'static str, String>,
}

const ROLES: [(&str, Role); 4] = [
    ("reader", Role::Reader),
    ("writer", Role::Writer),
    ("operator", Role::Operator),
    ("admin", Role::Admin),
];

fn made(name: &str, role: Role, tenant: Option<&str>, databases: Option<&[&str]>) -> NewKey {
    let databases = databases.map(|names| names.iter().map(ToString::to_string).collect());
    new_key(name, role, tenant.map(str::to_owned), databases).unwrap()
}

impl Guarded {
    /// With the usual keys and others; each of these is a name and the key.
    async fn with(others: Vec<(&'static str, NewKey)>) -> Self {
        let usual = ROLES.map(|(name, role)| (name, made(name, role, None, None)));
        let all: Vec<_> = usual.into_iter().chain(others).collect();
        let file: String = all.iter().map(|(_, key)| key.entry.clone()).collect();
        let service = Service::with(|config| {
            let path = config.storage.data_dir.with_file_name("keys.toml");
            fs::write(&path, file).unwrap();
            config.access.keys_file = Some(path);
            config.access.reload_interval_ms = 20;
        })
        .await;
        let secrets = all
            .into_iter()
            .map(|(name, key)| (name, key.secret))
            .collect();
        Self { service, secrets }
    }

    async fn start() -> Self {
        Self::with(Vec::new()).await
    }

    /// A request with the key of this name, or with none.
    async fn send(
        &self,
        key: Option<&str>,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let mut request = self.service.request(method, path);
        if let Some(key) = key {
            request = request.bearer_auth(&self.secrets[key]);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        Http::try_send(request)
            .await
            .unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }

    async fn get(&self, key: &str, path: &str) -> Answer {
        self.send(Some(key), "GET", path, None).await
    }

    async fn post(&self, key: &str, path: &str, body: Value) -> Answer {
        self.send(Some(key), "POST", path, Some(&body)).await
    }
}

/// An operation of the description, with a path that can be sent.
struct Operation {
    id: String,
    method: String,
    path: String,
    takes_json: bool,
}

fn operations() -> Vec<Operation> {
    let spec: Value = serde_json::from_str(&spec_json().unwrap()).unwrap();
    let mut found = Vec::new();
    for (path, item) in spec["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(id) = operation["operationId"].as_str() else {
                continue;
            };
            let path = path
                .replace("{tenant}", "default_tenant")
                .replace("{database}", "default_database")
                .replace("{collection_id}", "0198c1f0-0000-7000-8000-000000000000")
                .replace("{crn}", "default_tenant:default_database:words")
                .replace("{id}", "nothing")
                .replace("{name}", "nothing");
            assert!(!path.contains('{'), "{path}");
            found.push(Operation {
                id: id.to_owned(),
                method: method.to_uppercase(),
                path,
                takes_json: operation["requestBody"]["content"]["application/json"].is_object(),
            });
        }
    }
    assert!(found.len() > 50, "{} operations", found.len());
    found
}

/// Open by the contract. This list may only shrink.
const OPEN: [&str; 3] = ["get_health", "get_liveness", "get_readiness"];

/// What each operation needs, from the words of the contract; whatever is not here is an operator's.
const READERS: [&str; 25] = [
    "check_collection",
    "check_collections",
    "check_embeddings",
    "check_storage",
    "count_collections",
    "count_forks",
    "count_records",
    "get_collection",
    "get_collection_by_crn",
    "get_collection_by_id",
    "get_database",
    "get_healthcheck",
    "get_heartbeat",
    "get_identity",
    "get_indexing_status",
    "get_metrics",
    "get_pre_flight_checks",
    "get_records",
    "get_tenant",
    "get_version",
    "list_all_collections",
    "list_collections",
    "list_databases",
    "query_records",
    "search_records",
];
const WRITERS: [&str; 11] = [
    "add_records",
    "create_collection",
    "create_database",
    "create_tenant",
    "delete_collection",
    "delete_database",
    "delete_records",
    "fork_collection",
    "update_collection",
    "update_records",
    "upsert_records",
];
const ADMINS: [&str; 2] = ["list_keys", "reset_server"];

fn needed(id: &str) -> Role {
    if READERS.contains(&id) {
        Role::Reader
    } else if WRITERS.contains(&id) {
        Role::Writer
    } else if ADMINS.contains(&id) {
        Role::Admin
    } else {
        Role::Operator
    }
}

fn message(answer: &Answer) -> String {
    text(&answer.json()["message"])
}

/// Every operation: 401 without a key, 403 with a role that is too small, and with the right one no 401, 403
/// or 5xx.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_wants_a_key_of_its_role() {
    let guarded = Guarded::start().await;
    let wrong = guarded.service.scratch("nothing").display().to_string();
    for Operation {
        id, method, path, ..
    } in operations()
    {
        let none = guarded.send(None, &method, &path, None).await;
        if OPEN.contains(&id.as_str()) {
            none.expect(200);
            continue;
        }
        assert_eq!(none.status, 401, "{id} without a key: {}", none.text());
        assert_eq!(none.json()["error"], "AuthError", "{id}");
        let challenge = none.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Bearer "), "{id}: {challenge}");
        let request = guarded.service.request(&method, &path).bearer_auth(&wrong);
        let refused = Http::try_send(request).await.unwrap();
        assert_eq!(refused.status, 401, "{id} with a wrong key");

        for (name, role) in ROLES {
            let answer = guarded.send(Some(name), &method, &path, None).await;
            if role < needed(&id) {
                assert_eq!(answer.status, 403, "{id} as {name}: {}", answer.text());
                assert_eq!(answer.json()["error"], "AuthorizationError", "{id}");
                assert!(message(&answer).contains("role"), "{id}: {}", answer.text());
            } else {
                let refused = [401, 403].contains(&answer.status) || answer.status >= 500;
                assert!(
                    !refused,
                    "{id} as {name}: {} {}",
                    answer.status,
                    answer.text()
                );
            }
        }
    }
}

/// Every operation that takes JSON, of the operations family, refuses a member that it does not know; and
/// whatever is sent anywhere, the service does not fail.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_members_are_refused_and_nothing_is_a_failure_of_the_service() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 3)).await;
    let mut strict = BTreeSet::new();
    for Operation {
        id,
        method,
        path,
        takes_json,
    } in operations()
    {
        let bodies = [
            json!({"utterly_unknown": 1}),
            json!([]),
            json!(null),
            json!({"ids": 3, "collections": "x", "name": {}}),
        ];
        for (at, body) in bodies.iter().enumerate() {
            let answer = service.send(&method, &path, Some(body)).await;
            assert!(
                answer.status < 500,
                "{id}: {} {}",
                answer.status,
                answer.text()
            );
            if at == 0 && takes_json && !path.starts_with("/api/") && id != "import_backup" {
                let problem = answer.problem(422);
                assert!(
                    text(&problem["detail"]).contains("utterly_unknown"),
                    "{id}: {problem}"
                );
                strict.insert(id.clone());
            }
        }
    }
    assert!(strict.len() >= 8, "{strict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_be_presented_in_each_way_that_clients_know() {
    let guarded = Guarded::start().await;
    let secret = &guarded.secrets["reader"];
    let request = || guarded.service.request("GET", "/api/v2/heartbeat");
    for request in [
        request().bearer_auth(secret),
        request().header("x-chroma-token", secret),
        request().basic_auth("anyone", Some(secret)),
    ] {
        Http::try_send(request).await.unwrap().expect(200);
    }
    // A browser is asked to prompt, a program is not.
    let browser = request().header("accept", "text/html,*/*");
    let asked = Http::try_send(browser).await.unwrap().expect(401);
    let challenges: Vec<_> = asked.headers.get_all("www-authenticate").iter().collect();
    assert!(
        challenges
            .iter()
            .any(|c| c.to_str().unwrap().starts_with("Basic "))
    );
    // What is not there is not shown to those without a key.
    guarded
        .send(None, "GET", "/nothing", None)
        .await
        .problem(401);
    guarded.get("reader", "/nothing").await.problem(404);
    for path in ["/docs/", "/openapi.json", "/"] {
        guarded.send(None, "GET", path, None).await.expect(401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_open_and_tell_strangers_nothing() {
    let guarded = Guarded::start().await;
    for path in ["/health", "/health/live", "/health/ready"] {
        for key in [None, Some("vk_wrong")] {
            let mut request = guarded.service.request("GET", path);
            if let Some(key) = key {
                request = request.bearer_auth(key);
            }
            let answer = Http::try_send(request).await.unwrap().ok(200);
            assert_eq!(answer, json!({"status": "pass"}), "{path}");
        }
    }
    let full = guarded.get("reader", "/health").await.ok(200);
    assert!(full["checks"].as_object().unwrap().len() > 3, "{full}");
}

/// The key is looked at before the body: a stranger cannot make the service read one.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_key_is_not_read() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let guarded = Guarded::start().await;
    let address = guarded.service.base.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "POST /backups HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_of_keys_is_taken_up_and_a_broken_one_is_not() {
    let guarded = Guarded::start().await;
    let file = guarded.service.config.access.keys_file.clone().unwrap();
    let before = fs::read_to_string(&file).unwrap();
    let listed = guarded.get("admin", "/keys").await.ok(200);
    assert_eq!(
        (&listed["required"], &listed["stale"]),
        (&json!(true), &json!(null))
    );
    assert_eq!(listed["keys"].as_array().unwrap().len(), 4);
    assert!(!listed.to_string().contains("blake3"), "{listed}");

    let new = made("new", Role::Reader, None, None);
    let heartbeat = async |secret: &str| {
        let request = guarded.service.request("GET", "/api/v2/heartbeat");
        Http::try_send(request.bearer_auth(secret))
            .await
            .unwrap()
            .status
    };
    assert_eq!(heartbeat(&new.secret).await, 401);
    let admin = before
        .split("[[keys]]")
        .find(|part| part.contains("\"admin\""))
        .unwrap();
    // In one step: between two a file is empty, and lets nobody in.
    let replace = |content: String| {
        let beside = file.with_extension("new");
        fs::write(&beside, content).unwrap();
        fs::rename(&beside, &file).unwrap();
    };
    replace(format!("[[keys]]{admin}{}", new.entry));
    eventually("the new key", async || {
        (heartbeat(&new.secret).await == 200).then_some(())
    })
    .await;
    assert_eq!(
        heartbeat(&guarded.secrets["reader"]).await,
        401,
        "it was withdrawn"
    );

    replace(format!("{before}\n[[keys]]\nname = 3"));
    let stale = eventually("the broken file is noticed", async || {
        let listed = guarded.get("admin", "/keys").await.ok(200);
        listed["stale"].as_str().map(str::to_owned)
    })
    .await;
    assert!(
        stale.contains("keys.toml") && !stale.contains("blake3"),
        "{stale}"
    );
    assert_eq!(heartbeat(&new.secret).await, 200);
    // Nobody is let in by a file that is empty.
    fs::write(&file, "").unwrap();
    eventually("no key left", async || {
        (heartbeat(&new.secret).await == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_names_the_key_that_asked_for_it() {
    let guarded = Guarded::start().await;
    let job = guarded
        .post("operator", "/backups?wait=true", json!({}))
        .await
        .ok(201);
    assert_eq!(job["requested_by"], "operator");
    let same = guarded
        .get("admin", &format!("/jobs/{}", text(&job["id"])))
        .await
        .ok(200);
    assert_eq!(same["requested_by"], "operator");
}
