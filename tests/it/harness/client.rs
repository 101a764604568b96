//! What a client does: requests, answers with their forms checked, collections by their ids.

use std::collections::BTreeSet;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use vectorkeep::model::record::Record;
use vectorkeep::tls::client_builder;

use super::{DEFAULT_NAMESPACE, columns, eventually, parse_record, strings, text};

/// What the service answered.
pub(crate) struct Answer {
    /// Method and path, for messages.
    pub(crate) request: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{}: no JSON ({error}): {}", self.request, self.text()))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let text = self.text();
        let shown: String = text.chars().take(2_000).collect();
        assert_eq!(self.status, status, "{}: {shown}", self.request);
        self
    }

    /// The body of an answer with this status.
    #[track_caller]
    pub(crate) fn ok(self, status: u16) -> Value {
        self.expect(status).json()
    }

    /// The body of an error of the operations family; its form is checked whole.
    #[track_caller]
    pub(crate) fn problem(self, status: u16) -> Value {
        let answer = self.expect(status);
        let context = format!("{}: {}", answer.request, answer.text());
        let media_type = answer.header("content-type");
        assert_eq!(media_type, Some("application/problem+json"), "{context}");
        let body = answer.json();
        for member in ["type", "title", "detail", "error", "message", "request_id"] {
            let text = body[member].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "no {member} in {context}");
        }
        assert_eq!(body["status"], status, "member `status` of {context}");
        assert_eq!(
            body["request_id"],
            *answer.header("x-request-id").unwrap(),
            "{context}"
        );
        let trace = answer.header("chroma-trace-id").unwrap_or_default();
        assert!(!trace.is_empty(), "no chroma-trace-id: {context}");
        body
    }
}

/// The client's side.
#[derive(Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    pub(crate) base: String,
}

impl Http {
    pub(crate) fn new(base: String) -> Self {
        let client = client_builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { client, base }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Sends; an error when the answer does not arrive whole.
    pub(crate) async fn try_send(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let (client, request) = request.build_split();
        let request = request?;
        let name = format!("{} {}", request.method(), request.url().path());
        let response = client.execute(request).await?;
        Ok(Answer {
            request: name,
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            bytes: response.bytes().await?,
        })
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        Self::try_send(request)
            .await
            .unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(&body)).await
    }

    /// Creates a collection; `body` as in Chroma's API.
    pub(crate) async fn create_in(&self, namespace: &str, body: Value) -> Collection {
        let created = self
            .post(&format!("{namespace}/collections"), body)
            .await
            .ok(200);
        Collection::of(self, &created)
    }

    pub(crate) async fn create(&self, name: &str) -> Collection {
        self.create_in(DEFAULT_NAMESPACE, json!({ "name": name }))
            .await
    }

    /// Finds a collection by its name.
    pub(crate) async fn open_in(&self, namespace: &str, name: &str) -> Collection {
        let found = self
            .get(&format!("{namespace}/collections/{name}"))
            .await
            .ok(200);
        Collection::of(self, &found)
    }

    pub(crate) async fn open(&self, name: &str) -> Collection {
        self.open_in(DEFAULT_NAMESPACE, name).await
    }

    /// Drops a collection of the default database.
    pub(crate) async fn drop_collection(&self, name: &str) {
        let path = format!("{DEFAULT_NAMESPACE}/collections/{name}");
        self.send("DELETE", &path, None).await.expect(200);
    }

    /// Names in the default database.
    pub(crate) async fn names(&self) -> BTreeSet<String> {
        let listed = self
            .get(&format!("{DEFAULT_NAMESPACE}/collections"))
            .await
            .ok(200);
        let listed = listed.as_array().unwrap();
        listed.iter().map(|found| text(&found["name"])).collect()
    }

    /// Backs up and returns the backup.
    pub(crate) async fn backup(&self, body: Value) -> Value {
        self.post("/backups?wait=true", body).await.ok(201)["result"].take()
    }

    /// Waits for the end of a job.
    pub(crate) async fn finished(&self, id: &str) -> Value {
        eventually(&format!("end of job {id}"), async || {
            let job = self.get(&format!("/jobs/{id}")).await.ok(200);
            let state = text(&job["state"]);
            (state != "queued" && state != "running").then_some(job)
        })
        .await
    }
}

/// A collection, by its id.
#[derive(Clone)]
pub(crate) struct Collection {
    http: Http,
    pub(crate) id: String,
    pub(crate) name: String,
    namespace: String,
}

impl Collection {
    fn of(http: &Http, described: &Value) -> Self {
        let (tenant, database) = (text(&described["tenant"]), text(&described["database"]));
        Self {
            http: http.clone(),
            id: text(&described["id"]),
            name: text(&described["name"]),
            namespace: format!("/api/v2/tenants/{tenant}/databases/{database}"),
        }
    }

    /// The same collection of a service that was started again.
    pub(crate) fn at(&self, http: &Http) -> Self {
        Self {
            http: http.clone(),
            ..self.clone()
        }
    }

    /// One of its record routes.
    pub(crate) async fn post(&self, verb: &str, body: Value) -> Answer {
        self.http.post(&self.path(verb), body).await
    }

    pub(crate) fn path(&self, verb: &str) -> String {
        format!("{}/collections/{}/{verb}", self.namespace, self.id)
    }

    pub(crate) async fn add(&self, records: &[Record]) {
        self.post("add", columns(records)).await.expect(201);
    }

    pub(crate) async fn upsert(&self, records: &[Record]) {
        self.post("upsert", columns(records)).await.expect(200);
    }

    /// Deletes; the number that is answered.
    pub(crate) async fn delete(&self, body: Value) -> u64 {
        self.post("delete", body).await.ok(200)["deleted"]
            .as_u64()
            .unwrap()
    }

    pub(crate) async fn count(&self) -> u64 {
        self.http
            .get(&self.path("count"))
            .await
            .ok(200)
            .as_u64()
            .unwrap()
    }

    pub(crate) async fn ids(&self, mut body: Value) -> Vec<String> {
        body["include"] = json!([]);
        strings(&self.post("get", body).await.ok(200)["ids"])
    }

    /// Everything, as it comes over the wire.
    pub(crate) async fn dump(&self) -> Bytes {
        let include = ["embeddings", "documents", "metadatas", "uris"];
        self.post("get", json!({ "include": include }))
            .await
            .expect(200)
            .bytes
    }

    /// Everything, in order.
    pub(crate) async fn records(&self) -> Vec<Record> {
        let dump: Value = serde_json::from_slice(&self.dump().await).unwrap();
        let row = |column: &str, at: usize| dump[column][at].clone();
        (0..dump["ids"].as_array().unwrap().len())
            .map(|at| {
                parse_record(&json!({
                    "id": row("ids", at), "embedding": row("embeddings", at), "document": row("documents", at),
                    "uri": row("uris", at), "metadata": row("metadatas", at),
                }))
            })
            .collect()
    }

    /// What it is, apart from its records and its id.
    pub(crate) async fn definition(&self) -> Value {
        let path = format!("{}/collections/{}", self.namespace, self.name);
        let mut found = self.http.get(&path).await.ok(200);
        found.as_object_mut().unwrap().remove("id");
        found
    }

    /// Ids and distances of the nearest, per query.
    pub(crate) async fn nearest(&self, body: Value) -> Vec<Vec<(String, f64)>> {
        let mut body = body;
        body["include"] = json!(["distances"]);
        let found = self.post("query", body).await.ok(200);
        let rows = found["ids"]
            .as_array()
            .unwrap()
            .iter()
            .zip(found["distances"].as_array().unwrap());
        rows.map(|(ids, distances)| {
            let distances = distances
                .as_array()
                .unwrap()
                .iter()
                .map(|d| d.as_f64().unwrap());
            strings(ids).into_iter().zip(distances).collect()
        })
        .collect()
    }
}
