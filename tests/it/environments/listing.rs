//! What is configured, what of it is there, what is sent to it; and places that are not there or answer badly.

use std::fs;

use serde_json::{Value, json};

use super::proxy::{Fate, Passing, Proxy};
use super::{
    CHROMA, LOCAL, SECOND, World, assert_breaks_off, environment, migrate, migrated, request,
};
use crate::harness::{Http, Service, assert_members, numbered, text};

/// Where nobody listens.
async fn nowhere() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn environments(http: &Http) -> Vec<Value> {
    let listed = http.get("/environments").await.ok(200);
    listed.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn this_service_comes_first_and_each_place_says_whether_it_is_there() {
    let dead = nowhere().await;
    let world = World::with(
        |config| {
            let found = environment("chroma", &dead, json!({}));
            config.environments.insert("dead".to_owned(), found);
            let found = environment("vectorkeep", &dead, json!({}));
            config.environments.insert("a-dead".to_owned(), found);
        },
        |_| (),
    )
    .await;
    let url = world.proxy.url.as_str();
    let expected = [
        ("local", "local", None, true),
        ("a-dead", "vectorkeep", Some(dead.as_str()), false),
        ("chroma", "chroma", Some(url), true),
        ("dead", "chroma", Some(dead.as_str()), false),
        ("second", "vectorkeep", Some(url), true),
    ];
    let listed = environments(&world.local).await;
    assert_eq!(listed.len(), expected.len(), "{listed:?}");
    for (found, (name, kind, url, reachable)) in listed.iter().zip(expected) {
        assert_members(found, &["name", "kind", "url", "reachable", "version"]);
        assert_eq!(
            (&found["name"], &found["kind"], &found["url"]),
            (&json!(name), &json!(kind), &json!(url))
        );
        assert_eq!(found["reachable"], reachable, "{found}");
        assert_eq!(found["version"].is_string(), reachable, "{found}");
    }
    // What answers badly is as good as not there.
    for fate in [
        Fate::Cut,
        Fate::Answered(500, "{}"),
        Fate::Answered(200, "<html>"),
    ] {
        world.proxy.rule(move |_| fate);
        for found in environments(&world.local).await {
            assert_eq!(found["reachable"], found["name"] == "local", "{found}");
        }
    }
}

/// How requests to one environment said who they are.
fn tokens(seen: &[Passing]) -> Vec<(Option<&str>, Option<&str>)> {
    let mut found: Vec<_> = seen
        .iter()
        .map(|passing| {
            (
                passing.header("authorization"),
                passing.header("x-chroma-token"),
            )
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_to_its_place_in_its_header_and_is_shown_to_nobody() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    fs::write(&file, "  a-secret-of-a-file\n").unwrap();
    // One that every process has: what is set here, tests beside this one would see as well.
    let variable = std::env::var("PATH").unwrap();
    let of_variable = variable.trim();
    let bearer = format!("Bearer {of_variable}");

    let other = Service::start().await;
    let first = Proxy::start(&other.base).await;
    let second = Proxy::start(&other.base).await;
    let third = Proxy::start(&other.base).await;
    let of_file = json!({"token_file": file, "token_header": "x-chroma-token"});
    let local = Service::with(|config| {
        config.migration.max_retries = 0;
        for (name, proxy, more) in [
            ("by-variable", &first, json!({"token_env": "PATH"})),
            ("by-file", &second, of_file),
            ("open", &third, json!({})),
        ] {
            let found = environment("vectorkeep", &proxy.url, more);
            config.environments.insert(name.to_owned(), found);
        }
    })
    .await;
    local.create("words").await.add(&numbered("w", 5)).await;

    let secrets = ["a-secret-of-a-file", of_variable];
    let assert_silent = |answer: &str| {
        for secret in secrets {
            assert!(!answer.contains(secret), "a secret in {answer}");
        }
    };
    for (name, proxy, expected) in [
        ("by-variable", &first, (Some(bearer.as_str()), None)),
        ("by-file", &second, (None, Some("a-secret-of-a-file"))),
        ("open", &third, (None, None)),
    ] {
        assert_silent(&local.get("/environments").await.text());
        let body = request((LOCAL, "words"), (name, &format!("of-{name}")), json!({}));
        let done = migrate(&local, body.clone()).await.expect(200);
        assert_silent(&done.text());
        proxy.rule(|_| Fate::Answered(401, "{\"error\": \"AuthError\", \"message\": \"who?\"}"));
        let refused = migrate(&local, body).await.expect(502);
        assert_silent(&refused.text());
        assert!(refused.text().contains("401"), "{}", refused.text());
        assert_eq!(tokens(&proxy.take_seen()), [expected], "{name}");
    }
    assert_silent(&local.get("/jobs").await.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_place_is_none_and_a_dead_one_fails_at_once() {
    let dead = nowhere().await;
    let world = World::with(
        |config| {
            for kind in ["vectorkeep", "chroma"] {
                let name = format!("dead-{kind}");
                let found = environment(kind, &dead, json!({}));
                config.environments.insert(name, found);
            }
        },
        |_| (),
    )
    .await;
    let words = world.local.create("words").await;
    words.add(&numbered("w", 5)).await;
    let before = world.look().await;
    for (place, status) in [("dead-vectorkeep", 502), ("dead-chroma", 502), ("dad", 404)] {
        for (source, target) in [
            ((LOCAL, "words"), (place, "words")),
            ((place, "words"), (LOCAL, "other")),
            ((place, "words"), (SECOND, "other")),
        ] {
            for dry_run in [true, false] {
                let body = request(source, target, json!({"dry_run": dry_run}));
                let problem = migrate(&world.local, body).await.problem(status);
                let detail = text(&problem["detail"]);
                assert!(detail.contains(place), "{detail}");
            }
        }
    }
    // It was never begun: there is no job either.
    assert!(world.look().await == before, "something was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_the_other_sides_failure() {
    let world = World::start().await;
    let words = world.local.create("words").await;
    words.add(&numbered("w", 5)).await;
    world.other.create("there").await;
    for fate in [
        Fate::Answered(200, "<html>"),
        Fate::Answered(200, "{}"),
        Fate::Answered(200, "[]"),
        Fate::Answered(302, ""),
        Fate::Answered(403, "no"),
        Fate::Answered(503, ""),
        Fate::Cut,
    ] {
        let before = world.look().await;
        world.proxy.rule(move |_| fate);
        for place in [SECOND, CHROMA] {
            for body in [
                request((LOCAL, "words"), (place, "new"), json!({})),
                request((place, "there"), (LOCAL, "new"), json!({})),
            ] {
                assert_breaks_off(&world, &body).await;
            }
        }
        world.proxy.mend();
        let names = world.other.names().await;
        assert!(names.iter().eq(["there"]), "{fate:?}: {names:?}");
        assert!(world.look().await == before, "{fate:?}");
    }
}

/// Where a request names neither tenant nor database, the environment's own are meant.
#[tokio::test(flavor = "multi_thread")]
async fn an_environment_has_a_tenant_and_a_database_of_its_own() {
    let mut world = World::start().await;
    let url = world.proxy.url.clone();
    let more = json!({"tenant": "their tenant", "database": "their-database"});
    let found = environment("vectorkeep", &url, more);
    let environments = &mut world.local.config.environments;
    environments.insert("elsewhere".to_owned(), found);
    world.local.restart().await;
    let words = world.local.create("words").await;
    words.add(&numbered("w", 5)).await;

    let body = request((LOCAL, "words"), ("elsewhere", "words"), json!({}));
    let result = migrated(&world.local, body).await;
    assert_eq!(
        result["target"],
        json!({"environment": "elsewhere", "tenant": "their tenant", "database": "their-database",
            "collection": "words"})
    );
    let namespace = "/api/v2/tenants/their%20tenant/databases/their-database";
    let copy = world.other.open_in(namespace, "words").await;
    assert_eq!(copy.records().await, numbered("w", 5));
    assert!(world.other.names().await.is_empty());

    let mut back = request(("elsewhere", "words"), (LOCAL, "back"), json!({}));
    migrated(&world.local, back.clone()).await;
    let ids = world.local.open("back").await.ids(json!({})).await;
    assert_eq!(ids, words.ids(json!({})).await);
    // A request may still say otherwise.
    back["source"]["database"] = json!("default_database");
    let problem = migrate(&world.local, back).await.problem(404);
    assert!(text(&problem["detail"]).contains("default_database"));
    let listed = world.other.get(&format!("{namespace}/collections")).await;
    let listed = listed.ok(200);
    let listed = listed.as_array().unwrap();
    let names: Vec<_> = listed.iter().map(|found| text(&found["name"])).collect();
    assert_eq!(names, ["words"]);
}
