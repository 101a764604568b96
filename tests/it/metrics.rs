//! Metrics: text that Prometheus can read, numbers that are exactly what was done, and never a label that a
//! client made up. Services here are processes of their own: metrics belong to the process.

mod alerts;
mod exposition;

use std::collections::BTreeSet;
use std::fs;
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use vectorkeep::jobs::JobKind;
use vectorkeep::progress::Progress;

use crate::harness::{
    DEFAULT_NAMESPACE, Http, Service, eventually, files_below, numbered, submission, text,
};
use crate::start::Process;
use exposition::Scrape;

const RECORD_ROUTE: &str =
    "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}";
const AGE: &str = "vectorkeep_newest_verified_backup_age_seconds";
const QUICKLY: (&str, &str) = ("VECTORKEEP__METRICS__REFRESH_INTERVAL_MS", "20");

async fn scrape(http: &Http) -> Scrape {
    let answer = http.get("/metrics").await.expect(200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    Scrape::parse(&answer.text())
}

/// By how much something rose.
fn rise(before: &Scrape, after: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
    after.sum(name, labels) - before.sum(name, labels)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_nothing_in_it_tells_what_it_is() {
    let home = tempfile::tempdir().unwrap();
    let process = Process::start(home.path(), &[QUICKLY]).await;
    let first = scrape(&process.http).await;
    for name in [
        "vectorkeep_collections",
        "vectorkeep_records",
        "vectorkeep_store_poisoned",
        "vectorkeep_draining",
        "vectorkeep_jobs_queued",
        "vectorkeep_jobs_running",
        "vectorkeep_searches_running",
        "vectorkeep_http_requests_refused_total",
        "vectorkeep_search_vectors_compared_total",
        "vectorkeep_search_duration_seconds_count",
        "vectorkeep_compactions_total",
    ] {
        assert_eq!(first.value(name), 0.0, "{name}");
    }
    assert_eq!(first.sum("vectorkeep_jobs_total", &[]), 0.0);
    let outcomes = [("kind", "restore"), ("outcome", "failed")];
    let zero = first.of("vectorkeep_jobs_total");
    let has = |labels: &exposition::Labels| {
        let mut wanted = outcomes.iter();
        wanted.all(|(name, value)| labels.get(*name).is_some_and(|found| found == value))
    };
    assert!(
        zero.map(|sample| &sample.labels).any(has),
        "a failure would appear with 1"
    );
    // The scrape itself is being answered.
    assert_eq!(first.value("vectorkeep_http_requests_in_flight"), 1.0);
    assert_eq!(first.of(AGE).count(), 0);
    let health = process.http.get("/health").await.ok(200);
    let version = text(&health["version"]);
    assert_eq!(
        first.sum("vectorkeep_build_info", &[("version", &version)]),
        1.0
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let started = first.value("process_start_time_seconds");
    assert!((now.as_secs_f64() - 3_600.0..=now.as_secs_f64()).contains(&started));
    let free = health["checks"]["storage:disk_free"][0]["observed_value"].as_f64();
    let seen = first.value("vectorkeep_disk_free_bytes");
    // Others use the disk meanwhile.
    assert!(seen > 0.0 && seen < free.unwrap() * 2.0, "{seen}, {free:?}");
    let data = files_below(&home.path().join("data")).into_iter();
    let data: u64 = data.map(|file| fs::metadata(file).unwrap().len()).sum();
    let file_bytes = first.value("vectorkeep_store_file_bytes");
    assert!(
        file_bytes > 0.0 && file_bytes <= data as f64,
        "{file_bytes} of {data}"
    );
    assert_eq!(first.value("vectorkeep_store_live_bytes"), 0.0);

    // One reads the other: the next scrape has the first among its requests.
    let second = scrape(&process.http).await;
    let route = [("route", "/metrics"), ("method", "GET"), ("status", "200")];
    assert_eq!(second.sum("vectorkeep_http_requests_total", &route), 1.0);
    assert_eq!(second.value("process_start_time_seconds"), started);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_rise_by_exactly_what_was_done() {
    let home = tempfile::tempdir().unwrap();
    let process = Process::start(home.path(), &[QUICKLY]).await;
    let http = &process.http;
    let words = http.create("words").await;
    let before = scrape(http).await;
    let records = numbered("w", 30);
    for batch in records.chunks(10) {
        words.add(batch).await;
    }
    let written = scrape(http).await;
    for name in [
        "vectorkeep_last_sequence",
        "vectorkeep_commit_duration_seconds_count",
        "vectorkeep_sync_commits_sum",
        "vectorkeep_write_lock_wait_seconds_count",
    ] {
        assert_eq!(rise(&before, &written, name, &[]), 3.0, "{name}");
    }
    let syncs = rise(&before, &written, "vectorkeep_sync_commits_count", &[]);
    assert_eq!(
        rise(
            &before,
            &written,
            "vectorkeep_sync_duration_seconds_count",
            &[]
        ),
        syncs
    );
    assert!((1.0..=3.0).contains(&syncs), "{syncs}");
    assert_eq!(written.value("vectorkeep_collections"), 1.0);
    assert_eq!(written.value("vectorkeep_records"), 30.0);

    let vector = &records[0].embedding;
    for _ in 0..4 {
        words
            .nearest(json!({"query_embeddings": [vector], "n_results": 3}))
            .await;
    }
    words
        .nearest(json!({"query_embeddings": [vector, vector], "n_results": 3}))
        .await;
    let named = json!({"query_embeddings": [vector], "n_results": 3, "ids": [records[1].id, records[2].id]});
    words.nearest(named).await;
    words
        .post("query", json!({"query_embeddings": [[1.0]]}))
        .await
        .expect(400);
    words.delete(json!({"ids": [records[3].id]})).await;
    let searched = scrape(http).await;
    let searches = "vectorkeep_search_duration_seconds_count";
    assert_eq!(rise(&written, &searched, searches, &[]), 6.0);
    let compared = rise(
        &written,
        &searched,
        "vectorkeep_search_vectors_compared_total",
        &[],
    );
    assert_eq!(compared, (4 * 30 + 2 * 30 + 2) as f64);
    assert_eq!(searched.value("vectorkeep_records"), 29.0);
    let requests = "vectorkeep_http_requests_total";
    for (verb, status, count) in [
        ("add", "201", 3.0),
        ("query", "200", 6.0),
        ("query", "400", 1.0),
        ("delete", "200", 1.0),
    ] {
        let route = format!("{RECORD_ROUTE}/{verb}");
        let labels = [("route", &*route), ("method", "POST"), ("status", status)];
        assert_eq!(
            rise(&before, &searched, requests, &labels),
            count,
            "{verb} {status}"
        );
    }
    let route = format!("{RECORD_ROUTE}/query");
    let labels = [("route", &*route), ("method", "POST")];
    let durations = "vectorkeep_http_request_duration_seconds_count";
    assert_eq!(rise(&before, &searched, durations, &labels), 7.0);
    let live = eventually("the sizes to be looked at", async || {
        let live = scrape(http).await.value("vectorkeep_store_live_bytes");
        (live > 0.0).then_some(live)
    });
    assert!(live.await < 100_000.0);
}

async fn job_of(http: &Http, path: &str, body: Value, status: u16) -> Value {
    let job = http.post(path, body).await.ok(status);
    if status < 300 {
        job
    } else {
        job["job"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_counted_by_outcome_and_by_what_they_handled() {
    let home = tempfile::tempdir().unwrap();
    let process = Process::start(home.path(), &[QUICKLY]).await;
    let http = &process.http;
    http.create("words").await.add(&numbered("w", 40)).await;
    let backup = job_of(http, "/backups?wait=true", json!({}), 201).await;
    let id = text(&backup["result"]["id"]);
    let verify = format!("/backups/{id}/verify?wait=true");
    let manifest_only = job_of(http, &verify, json!({"level": "manifest"}), 200).await;
    assert_eq!(
        scrape(http).await.of(AGE).count(),
        0,
        "a manifest proves nothing"
    );
    let sound = job_of(http, &verify, json!({}), 200).await;
    let age = eventually("the verified backup to be noticed", async || {
        let scrape = scrape(http).await;
        scrape.of(AGE).next().map(|sample| sample.value)
    });
    assert!((0.0..3_600.0).contains(&age.await));
    job_of(http, "/compactions?wait=true", json!({}), 200).await;
    let packs = files_below(&home.path().join("repository/packs"));
    let mut pack = fs::read(&packs[0]).unwrap();
    pack[100] ^= 1;
    fs::write(&packs[0], pack).unwrap();
    let damaged = job_of(http, &verify, json!({}), 422).await;
    assert_eq!(damaged["state"], "failed");

    let after = scrape(http).await;
    let jobs = after.of("vectorkeep_jobs_total");
    let counted: BTreeSet<(&str, &str, u64)> = jobs
        .filter(|sample| sample.value > 0.0)
        .map(|sample| {
            (
                &*sample.labels["kind"],
                &*sample.labels["outcome"],
                sample.value as u64,
            )
        })
        .collect();
    let expected = [
        ("backup", "succeeded", 1),
        ("compaction", "succeeded", 1),
        ("verification", "failed", 1),
        ("verification", "succeeded", 2),
    ];
    assert_eq!(counted, BTreeSet::from(expected));
    for (kind, ran) in [("backup", 1.0), ("verification", 3.0), ("restore", 0.0)] {
        let durations = "vectorkeep_job_duration_seconds_count";
        assert_eq!(after.sum(durations, &[("kind", kind)]), ran, "{kind}");
    }
    for (kind, of) in [
        ("backup", vec![&backup]),
        ("verification", vec![&manifest_only, &sound, &damaged]),
    ] {
        for (name, member) in [
            ("vectorkeep_job_records_total", "done"),
            ("vectorkeep_job_bytes_total", "bytes_done"),
        ] {
            let handled: u64 = of
                .iter()
                .map(|job| job["progress"][member].as_u64().unwrap())
                .sum();
            assert_eq!(
                after.sum(name, &[("kind", kind)]),
                handled as f64,
                "{kind} {member}"
            );
        }
    }
    assert!(after.sum("vectorkeep_job_records_total", &[("kind", "backup")]) >= 40.0);
    assert_eq!(after.value("vectorkeep_compactions_total"), 1.0);
    assert_eq!(after.value("vectorkeep_jobs_queued"), 0.0);
    assert_eq!(after.value("vectorkeep_jobs_running"), 0.0);
}

/// In this process, where other tests may count as well: gauges are the service's own.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_running_and_canceled_jobs_are_told_apart() {
    let service = Service::with(|config| config.jobs.workers = 1).await;
    let canceled = [("kind", "drill"), ("outcome", "canceled")];
    let before = scrape(&service).await;
    let mut ids = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..3 {
        let (end, ended) = mpsc::channel::<()>();
        let work = move |progress: &Progress| {
            progress.commit()?;
            let _ = ended.recv();
            Ok(json!({}))
        };
        let jobs = service.app().jobs().clone();
        let submit = move || jobs.submit(submission(JobKind::Drill, work)).unwrap().id;
        ids.push(tokio::task::spawn_blocking(submit).await.unwrap());
        ends.push(end);
    }
    let count = async |queued: f64, running: f64| {
        eventually("jobs to wait and run", async || {
            let seen = scrape(&service).await;
            let (waiting, at_work) = (
                seen.value("vectorkeep_jobs_queued"),
                seen.value("vectorkeep_jobs_running"),
            );
            (waiting == queued && at_work == running).then_some(seen)
        })
        .await
    };
    count(2.0, 1.0).await;
    service
        .post(&format!("/jobs/{}/cancel", ids[2]), json!({}))
        .await
        .expect(200);
    let one_less = count(1.0, 1.0).await;
    drop(ends);
    let after = count(0.0, 0.0).await;
    let jobs = "vectorkeep_jobs_total";
    assert!(rise(&before, &one_less, jobs, &canceled) >= 1.0);
    assert!(
        rise(
            &before,
            &after,
            jobs,
            &[("kind", "drill"), ("outcome", "succeeded")]
        ) >= 2.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_client_chose_is_in_the_text() {
    let home = tempfile::tempdir().unwrap();
    let process = Process::start(home.path(), &[QUICKLY]).await;
    let http = &process.http;
    http.post("/api/v2/tenants", json!({"name": "odd-tenant-7"}))
        .await
        .expect(200);
    let databases = "/api/v2/tenants/odd-tenant-7/databases";
    http.post(databases, json!({"name": "odd-database-7"}))
        .await
        .expect(200);
    let namespace = format!("{databases}/odd-database-7");
    let odd = http
        .create_in(&namespace, json!({"name": "odd.Collection_7"}))
        .await;
    odd.add(&numbered("odd-record-", 5)).await;
    odd.nearest(
        json!({"query_embeddings": [numbered("x", 1)[0].embedding], "ids": [numbered("odd-record-", 1)[0].id]}),
    )
    .await;
    let backup = job_of(
        http,
        "/backups?wait=true",
        json!({"labels": {"odd-label-7": "odd-value-7"}}),
        201,
    )
    .await;
    http.get(&format!("/jobs/{}", text(&backup["id"])))
        .await
        .expect(200);
    http.get("/backups?label=odd-label-7:odd-value-7")
        .await
        .expect(200);
    http.get(&format!("/backups/{}", text(&backup["result"]["id"])))
        .await
        .expect(200);
    for path in [
        "/health/collections/odd.Collection_7",
        "/backups/odd%22backup%5C7",
        "/odd-path-7",
        "/api/v2/odd-path-7",
    ] {
        assert!(http.get(path).await.status >= 400, "{path}");
    }
    http.send("ODDMETHOD", "/backups", None).await.expect(405);
    let request = http
        .request("GET", "/backups")
        .header("x-request-id", "odd-request-id-0000-7");
    Http::try_send(request).await.unwrap().expect(200);

    let answer = http.get("/metrics").await.expect(200);
    let scraped = answer.text();
    let found = Scrape::parse(&scraped);
    let with_requests = found.sum("vectorkeep_http_requests_total", &[]);
    assert!(with_requests > 12.0, "{with_requests}");
    let chosen = [
        odd.id.as_str(),
        &text(&backup["id"]),
        &text(&backup["result"]["id"]),
    ];
    for word in ["odd", "Collection_7", "ODD"].into_iter().chain(chosen) {
        let line = scraped.lines().find(|line| line.contains(word));
        assert_eq!(line, None, "{word}");
    }
    let known = [
        "route",
        "method",
        "status",
        "kind",
        "outcome",
        "le",
        "version",
        "restorable",
    ];
    for sample in &found.samples {
        assert!(
            sample
                .labels
                .keys()
                .all(|name| known.contains(&name.as_str())),
            "{sample:?}"
        );
    }
}

/// Pseudo-random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unknown_paths_and_methods_add_no_series() {
    let home = tempfile::tempdir().unwrap();
    let process = Process::start(home.path(), &[]).await;
    let http = &process.http;
    let places = [
        "",
        "/api/v2",
        "/backups/a/b",
        DEFAULT_NAMESPACE,
        "/backups",
        "/jobs",
        "/docs",
    ];
    let send = async |method: &str, place: &str, name: u64| {
        http.send(method, &format!("{place}/{name:x}"), None).await
    };
    let verb = |at: usize, name: u64| match at % 4 {
        0 => "GET".to_owned(),
        1 => "POST".to_owned(),
        2 => "DELETE".to_owned(),
        _ => format!("BREW{name}"),
    };
    // One of each makes the series there are.
    for place in places {
        for at in 0..4 {
            send(&verb(at, 1), place, 1).await;
        }
    }
    scrape(http).await;
    let before = scrape(http).await;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for at in 0..1_000 {
        let (method, name) = (random.next(), random.next());
        let method = verb((method % 4) as usize, method);
        let answer = send(&method, places[at % places.len()], name).await;
        assert!((400..500).contains(&answer.status), "{}", answer.request);
    }
    let after = scrape(http).await;
    assert_eq!(after.series(), before.series());
    let requests = "vectorkeep_http_requests_total";
    // The scrape before is the one besides.
    assert_eq!(rise(&before, &after, requests, &[]), 1_001.0);
    let unmatched = rise(&before, &after, requests, &[("route", "unmatched")]);
    assert!((500.0..1_000.0).contains(&unmatched), "{unmatched}");
    assert!(rise(&before, &after, requests, &[("method", "other")]) > 100.0);
}
