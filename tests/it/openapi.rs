//! The description: fresh in git, complete, and true of the running service.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vectorkeep::api::spec_json;

use crate::harness::{Service, numbered};

/// Answered to everybody, whatever else happens.
const PROBES: [&str; 3] = ["/health", "/health/live", "/health/ready"];

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Verbs that operation ids may begin with.
const VERBS: [&str; 19] = [
    "add", "cancel", "check", "count", "create", "delete", "export", "fork", "get", "import",
    "list", "migrate", "prune", "query", "reset", "restore", "update", "upsert", "verify",
];

fn spec() -> Value {
    serde_json::from_str(&spec_json().unwrap()).unwrap()
}

/// Method, path and description of every operation.
fn operations(spec: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in spec["paths"].as_object().unwrap() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                found.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
    }
    assert!(
        found.len() > 30,
        "only {} operations are described",
        found.len()
    );
    found
}

#[test]
fn the_description_in_git_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        stored == spec_json().unwrap(),
        "{path} is missing or stale; regenerate it: cargo run -- openapi > openapi/openapi.json"
    );
}

#[test]
fn every_operation_is_described() {
    let spec = spec();
    let tags: BTreeSet<&str> = spec["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&spec) {
        let context = format!("{method} {path}");
        let id = operation["operationId"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            id.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && !id.is_empty(),
            "{context}: {id:?}"
        );
        assert!(ids.insert(id.clone()), "{id} twice");
        let tag = operation["tags"][0].as_str().unwrap_or_default();
        assert!(
            tags.contains(tag),
            "{context}: tag {tag:?} is not described"
        );
        let summary = operation["summary"].as_str().unwrap_or_default();
        assert!(
            !summary.is_empty() && !summary.ends_with('.'),
            "{context}: summary {summary:?}"
        );
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.keys().any(|status| status.starts_with('2')),
            "{context}: no success is described"
        );
        for (status, response) in responses {
            let response = resolved(&spec, response);
            let described = !response["description"]
                .as_str()
                .unwrap_or_default()
                .is_empty();
            assert!(
                described || response["content"].is_object(),
                "{context}: {status} says nothing"
            );
        }
        for parameter in path
            .split('{')
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap())
        {
            let parameters = operation["parameters"].as_array().unwrap();
            assert!(
                parameters
                    .iter()
                    .any(|p| p["name"] == parameter && p["in"] == "path"),
                "{context}: {parameter}"
            );
        }
    }
}

#[test]
fn operation_ids_are_verb_and_resource() {
    let wrong: Vec<String> = operations(&spec())
        .into_iter()
        .map(|(method, path, operation)| {
            (
                operation["operationId"].as_str().unwrap().to_owned(),
                method,
                path,
            )
        })
        .filter(|(id, ..)| {
            id.split_once('_')
                .is_none_or(|(verb, resource)| !VERBS.contains(&verb) || resource.is_empty())
        })
        .map(|(id, method, path)| format!("{id} ({method} {path})"))
        .collect();
    assert!(wrong.is_empty(), "not verb_resource: {wrong:#?}");
}

/// What a reference refers to; anything else itself.
fn resolved<'a>(spec: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => spec.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

fn has_parameter(operation: &Value, place: &str) -> bool {
    let parameters = operation["parameters"].as_array();
    parameters
        .into_iter()
        .flatten()
        .any(|parameter| parameter["in"] == place)
}

/// Media type and schema of errors: of the operations family, and below `/api`.
const PROBLEM: (&str, &str) = ("application/problem+json", "#/components/schemas/Problem");
const CHROMA_ERROR: (&str, &str) = ("application/json", "#/components/schemas/ChromaError");

#[test]
fn every_error_is_described_with_its_familys_body_and_headers() {
    let spec = spec();
    let mut seen = 0;
    for (method, path, operation) in operations(&spec) {
        let (media_type, schema) = if path.starts_with("/api/") {
            CHROMA_ERROR
        } else {
            PROBLEM
        };
        for (status, response) in operation["responses"].as_object().unwrap() {
            let context = format!("{method} {path}: {status}");
            let response = resolved(&spec, response);
            let header = |name: &str| {
                let header = resolved(&spec, &response["headers"][name]);
                header["schema"].is_object()
            };
            assert!(header("x-request-id"), "{context}");
            let is_error = status.starts_with(['4', '5']);
            assert_eq!(header("chroma-trace-id"), is_error, "{context}");
            // Probes say how it is, and nothing else; Chroma's healthcheck may be refused as well, in the same media type.
            let is_own = PROBES.contains(&path.as_str())
                || (path == "/api/v2/healthcheck" && status == "503");
            if is_error && !is_own {
                let content = &response["content"][media_type];
                assert_eq!(content["schema"]["$ref"], schema, "{context}");
                seen += 1;
            }
            if ["429", "503"].contains(&status.as_str()) {
                assert!(header("retry-after"), "{context}");
            }
        }
    }
    assert!(seen > 300, "only {seen} errors are described");
}

/// What surrounds the handlers can answer for each of them.
#[test]
fn every_operation_describes_what_it_can_be_refused_with() {
    let spec = spec();
    let mut wrong = Vec::new();
    for (method, path, operation) in operations(&spec) {
        let is_probe = PROBES.contains(&path.as_str());
        let has_body = operation["requestBody"].is_object();
        let has_query = has_parameter(&operation, "query");
        let expected = [
            ("400", has_body || has_parameter(&operation, "path")),
            ("401", !is_probe),
            ("403", !is_probe),
            ("408", has_body),
            ("413", has_body),
            ("415", has_body),
            ("422", has_body || has_query),
            ("500", !is_probe),
            ("503", path != "/health/live"),
            ("504", !is_probe),
        ];
        for (status, wanted) in expected {
            let described = operation["responses"][status].is_object();
            // A query that cannot be read is 400 on one side and 422 on the other; a damaged manifest is 422.
            let either =
                matches!(status, "400" | "422") && (has_query || has_parameter(&operation, "path"));
            if described != wanted && !either {
                wrong.push(format!("{method} {path}: {status} {described}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A reference leads somewhere, and what is described is used.
#[test]
fn references_lead_somewhere_and_parts_are_used() {
    let spec = spec();
    let text = spec.to_string();
    let references: BTreeSet<&str> = text
        .split("\"$ref\":\"#")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    for reference in &references {
        assert!(spec.pointer(reference).is_some(), "{reference}");
    }
    for kind in ["schemas", "responses", "headers"] {
        for name in spec["components"][kind].as_object().unwrap().keys() {
            let reference = format!("/components/{kind}/{name}");
            assert!(
                references.contains(reference.as_str()),
                "{reference} is not used"
            );
        }
    }
}

/// Long verbs are described with what they answer when they are not waited for, or not taken.
#[test]
fn long_verbs_describe_202_422_and_429() {
    let spec = spec();
    let mut missing = Vec::new();
    for path in ["/backups", "/restore", "/migrate"] {
        let operation = &spec["paths"][path]["post"];
        let statuses = ["202", "422", "429"]
            .into_iter()
            .filter(|status| !operation["responses"][status].is_object());
        missing.extend(statuses.map(|status| format!("POST {path}: {status}")));
        let parameters = operation["parameters"].as_array().unwrap();
        assert!(
            parameters
                .iter()
                .any(|parameter| parameter["name"] == "wait"),
            "POST {path}"
        );
    }
    assert!(missing.is_empty(), "not described: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_described_operation_exists() {
    let service = Service::start().await;
    let served = service.get("/openapi.json").await.ok(200);
    assert_eq!(served, spec(), "what is served is what is in git");
    for (method, path, _) in operations(&served) {
        let concrete: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "x" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        // No route takes this method: where there is a path, the answer says what it takes.
        let answer = service.send("PURGE", &concrete, None).await;
        assert_eq!(answer.status, 405, "{path} does not exist");
        let allow = answer.header("allow").unwrap();
        assert!(
            allow.split(',').any(|allowed| allowed.trim() == method),
            "{method} {path}: allow {allow}"
        );
    }
    let page = service.get("/docs/").await.expect(200).text();
    assert!(page.contains("swagger"), "{page}");
    assert!(
        !page.contains("src=\"http") && !page.contains("href=\"http"),
        "the page loads from elsewhere: {page}"
    );
}

/// What a browser loads at `/`: from here only, and nothing that runs is in the text itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_operations_page_loads_from_here_only() {
    let service = Service::start().await;
    let page = service.get("/").await.expect(200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let html = page.text();
    let loaded: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| html.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .filter(|target| !target.starts_with('#') && !target.starts_with("data:"))
        .collect();
    assert!(
        loaded.iter().any(|file| file.ends_with(".js")),
        "{loaded:?}"
    );
    for file in loaded {
        // Relative: it is right behind any prefix.
        assert!(
            !file.contains("//") && !file.starts_with('/'),
            "{file} is elsewhere"
        );
        let answer = service.get(&format!("/{file}")).await;
        assert!(
            (200..400).contains(&answer.status),
            "{file}: {}",
            answer.status
        );
    }
    assert!(
        !html.contains("<script>") && !html.contains(" style=\""),
        "{html}"
    );
}

/// What Swagger UI fills in: the examples of the body, or one made of its members' examples.
fn examples_of(spec: &Value, content: &Value) -> Vec<Value> {
    if let Some(example) = content.get("example") {
        return vec![example.clone()];
    }
    if let Some(examples) = content.get("examples").and_then(Value::as_object) {
        let examples = examples.values();
        return examples.map(|example| example["value"].clone()).collect();
    }
    let name = content["schema"]["$ref"]
        .as_str()
        .unwrap()
        .trim_start_matches("#/components/schemas/");
    let schema = &spec["components"]["schemas"][name];
    let members = schema["properties"].as_object().unwrap();
    let examples = members
        .iter()
        .filter_map(|(name, member)| Some((name.clone(), member.get("example")?.clone())));
    let example: serde_json::Map<_, _> = examples.collect();
    let required = schema["required"].as_array();
    let complete = required
        .into_iter()
        .flatten()
        .all(|name| example.contains_key(name.as_str().unwrap()));
    if complete {
        vec![Value::Object(example)]
    } else {
        Vec::new()
    }
}

/// The examples of request bodies, as Swagger UI sends them, on a service that has what they name.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_work() {
    let service = Service::start().await;
    let spec = spec();
    let mut tried = 0;
    for (method, path, operation) in operations(&spec) {
        let content = &operation["requestBody"]["content"]["application/json"];
        if !content.is_object() {
            continue;
        }
        let examples = examples_of(&spec, content);
        assert!(
            !examples.is_empty(),
            "{method} {path}: a body without an example"
        );
        for example in examples {
            try_example(&service, (&method, &path), &example).await;
            tried += 1;
        }
    }
    assert!(tried >= 8, "only {tried} examples were tried");
}

/// Each on the same ground: a collection of three dimensions, and a backup of it.
async fn try_example(service: &Service, (method, path): (&str, &str), example: &Value) {
    service.post("/api/v2/reset", json!(null)).await.expect(200);
    let articles = service.create("articles").await;
    let mut records = numbered("r", 4);
    records
        .iter_mut()
        .for_each(|record| record.embedding.truncate(3));
    records[0].id = "a".to_owned();
    if !path.ends_with("/add") {
        articles.add(&records).await;
    }
    let backup = service.backup(json!({})).await;
    let concrete = path
        .replace("{id}", backup["id"].as_str().unwrap())
        .replace("{tenant}", "default_tenant")
        .replace("{database}", "default_database")
        .replace("{collection_id}", &articles.id);
    let wait = if path.starts_with("/api/") {
        ""
    } else {
        "?wait=true"
    };
    let answer = service
        .send(method, &format!("{concrete}{wait}"), Some(example))
        .await;
    // What it names is not configured here.
    if example["source"]["environment"] == "staging" {
        answer.problem(404);
        return;
    }
    assert!(
        (200..300).contains(&answer.status),
        "{method} {path} {example}: {} {}",
        answer.status,
        answer.text()
    );
}
