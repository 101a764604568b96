//! The alerting rules that are deployed: what they ask for is what a running service tells.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::json;

use super::{QUICKLY, exposition::Sample, exposition::Scrape, scrape};
use crate::harness::{eventually, numbered, text};
use crate::start::Process;

/// What Prometheus adds by itself.
const OWN_LABELS: [&str; 2] = ["instance", "job"];
const OWN_METRIC: &str = "up";
const KEYWORDS: [&str; 8] = [
    "and", "or", "unless", "by", "on", "without", "ignoring", "bool",
];

/// Name and expression of every rule. Each is written on lines of its own, as `- alert: …`, `expr: …`,
/// `labels: {severity: …}` and `annotations: {summary: …}`.
fn rules() -> Vec<(String, String)> {
    let file = include_str!("../../../deploy/prometheus/vectorkeep.rules.yaml");
    let rules: Vec<&str> = file.split("- alert: ").skip(1).collect();
    let member = |rule: &str, name: &str| {
        let start = format!("{name}: ");
        let mut found = rule
            .lines()
            .filter_map(|line| line.trim().strip_prefix(&start));
        let first = found.next().unwrap_or_else(|| panic!("no {name}: {rule}"));
        assert_eq!(found.next(), None, "{name} twice: {rule}");
        first.to_owned()
    };
    let read = |rule: &&str| {
        for name in ["labels", "annotations"] {
            let text = member(rule, name);
            assert!(text.starts_with('{') && text.ends_with('}'), "{text}");
        }
        assert!(member(rule, "labels").contains("severity: "), "{rule}");
        assert!(member(rule, "annotations").contains("summary: "), "{rule}");
        let name = rule.lines().next().unwrap().trim().to_owned();
        (name, member(rule, "expr"))
    };
    rules.iter().map(read).collect()
}

/// A condition on a label.
struct Matcher {
    label: String,
    operator: String,
    value: String,
}

impl Matcher {
    fn accepts(&self, sample: &Sample) -> bool {
        let found = sample.labels.get(&self.label).map_or("", String::as_str);
        let whole = || Regex::new(&format!("^(?:{})$", self.value)).unwrap();
        match self.operator.as_str() {
            "=" => found == self.value,
            "!=" => found != self.value,
            "=~" => whole().is_match(found),
            _ => !whole().is_match(found),
        }
    }
}

/// Names that an expression selects, each with its conditions; and the labels that it groups by.
fn selectors(expression: &str) -> (Vec<(String, Vec<Matcher>)>, BTreeSet<String>) {
    let grouping = Regex::new(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)").unwrap();
    let mut labels = BTreeSet::new();
    for found in grouping.captures_iter(expression) {
        labels.extend(found[1].split(',').map(|label| label.trim().to_owned()));
    }
    let rest = grouping.replace_all(expression, " ");
    let rest = Regex::new(r"\[[^\]]*\]")
        .unwrap()
        .replace_all(&rest, " ")
        .into_owned();
    let selector = Regex::new(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\b(\{[^}]*\}|\s*\()?").unwrap();
    let condition = Regex::new(r#"([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)""#).unwrap();
    let mut selected = Vec::new();
    for found in selector.captures_iter(&rest) {
        let behind = found.get(2).map_or("", |behind| behind.as_str().trim());
        if behind == "(" || KEYWORDS.contains(&&found[1]) {
            continue;
        }
        let conditions = condition.captures_iter(behind).map(|found| Matcher {
            label: found[1].to_owned(),
            operator: found[2].to_owned(),
            value: found[3].to_owned(),
        });
        selected.push((found[1].to_owned(), conditions.collect()));
    }
    (selected, labels)
}

/// Every alternative of a regular expression has to be met, not only one.
fn alternatives(matcher: &Matcher) -> Vec<Matcher> {
    let values: Vec<&str> = if matcher.operator == "=~" {
        matcher.value.split('|').collect()
    } else {
        vec![&matcher.value]
    };
    let of = |value: &str| Matcher {
        label: matcher.label.clone(),
        operator: matcher.operator.clone(),
        value: value.to_owned(),
    };
    values.into_iter().map(of).collect()
}

fn check(scrape: &Scrape, alert: &str, expression: &str) -> BTreeSet<String> {
    let (selected, groups) = selectors(expression);
    assert!(
        !selected.is_empty(),
        "{alert} selects nothing: {expression}"
    );
    let mut used = BTreeSet::new();
    for (name, matchers) in selected {
        if name == OWN_METRIC {
            continue;
        }
        let all: Vec<&Sample> = scrape.of(&name).collect();
        assert!(!all.is_empty(), "{alert}: there is no {name}");
        let mut left = all.clone();
        for matcher in matchers
            .iter()
            .filter(|found| !OWN_LABELS.contains(&&*found.label))
        {
            let (label, value) = (&matcher.label, &matcher.value);
            if matcher.operator.starts_with('!') {
                // What is excluded has to be there as well, or nothing is excluded.
                let some = all.iter().any(|sample| !matcher.accepts(sample));
                assert!(
                    some,
                    "{alert}: no {name} with {label} {value:?} to leave out"
                );
                continue;
            }
            for one in alternatives(matcher) {
                let found = left.iter().any(|sample| one.accepts(sample));
                assert!(found, "{alert}: no {name} with {label} {:?}", one.value);
            }
            left.retain(|sample| matcher.accepts(sample));
        }
        for label in groups
            .iter()
            .filter(|label| !OWN_LABELS.contains(&label.as_str()))
        {
            assert!(
                left.iter().all(|sample| sample.labels.contains_key(label)),
                "{alert}: no {label} in {name}"
            );
        }
        used.insert(name);
    }
    used
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_alerts_ask_for_what_there_is() {
    let home = tempfile::tempdir().unwrap();
    // No disk has so much free: one answer is a 503.
    let much = "1000000000000000";
    let settings = [
        QUICKLY,
        ("VECTORKEEP__HEALTH__DISK_WARN_BYTES", much),
        ("VECTORKEEP__HEALTH__DISK_FAIL_BYTES", much),
    ];
    let process = Process::start(home.path(), &settings).await;
    let http = &process.http;
    let words = http.create("words").await;
    words.add(&numbered("w", 5)).await;
    words.count().await;
    let not_offered = json!({"searches": []});
    words.post("search", not_offered).await.expect(501);
    let backup = text(&http.backup(json!({})).await["id"]);
    http.post(&format!("/backups/{backup}/verify?wait=true"), json!({}))
        .await
        .expect(200);
    http.get("/health/storage").await.expect(503);
    let scraped = eventually("the verified backup to be noticed", async || {
        let scraped = scrape(http).await;
        (scraped.of(super::AGE).count() > 0).then_some(scraped)
    })
    .await;
    let rules = rules();
    let names: BTreeSet<&str> = rules.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.len() == rules.len() && names.len() >= 8, "{names:?}");
    let mut used = BTreeSet::new();
    for (name, expression) in &rules {
        used.extend(check(&scraped, name, expression));
    }
    for important in [
        "vectorkeep_store_poisoned",
        "vectorkeep_disk_free_bytes",
        "vectorkeep_newest_verified_backup_age_seconds",
        "vectorkeep_jobs_total",
        "vectorkeep_http_requests_total",
        "vectorkeep_http_request_duration_seconds_bucket",
        "vectorkeep_store_file_live_ratio",
        "process_start_time_seconds",
    ] {
        assert!(used.contains(important), "nothing watches {important}");
    }
}
