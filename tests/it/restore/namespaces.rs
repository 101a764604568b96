//! Tenants and databases are in a backup of everything, also those without collections.

use serde_json::{Value, json};

use crate::harness::{Http, Service, numbered, text};

/// A tenant with two databases, one of them with a collection, and a tenant without any.
async fn furnished(service: &Service) {
    for tenant in ["full", "bare"] {
        service
            .post("/api/v2/tenants", json!({"name": tenant}))
            .await
            .expect(200);
    }
    for database in ["used", "unused"] {
        service
            .post("/api/v2/tenants/full/databases", json!({"name": database}))
            .await
            .expect(200);
    }
    let words = service
        .create_in(
            "/api/v2/tenants/full/databases/used",
            json!({"name": "words"}),
        )
        .await;
    words.add(&numbered("w", 5)).await;
}

async fn databases(http: &Http, tenant: &str) -> Vec<String> {
    let listed = http
        .get(&format!("/api/v2/tenants/{tenant}/databases"))
        .await
        .ok(200);
    let mut names: Vec<String> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|database| text(&database["name"]))
        .collect();
    names.sort();
    names
}

/// A service with an empty store on the same repository.
async fn beside(service: &mut Service) -> Service {
    service.stop().await;
    let repository = service.config.repository.url.clone();
    Service::with(|config| config.repository.url = repository).await
}

async fn restored(service: &Service, body: Value) -> Value {
    let mut job = service.post("/restore?wait=true", body).await.ok(200);
    job["result"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_everything_makes_tenants_and_databases_without_collections() {
    let mut service = Service::start().await;
    furnished(&service).await;
    service.backup(json!({})).await;
    let mut fresh = beside(&mut service).await;
    let made =
        json!([{"tenant": "full", "database": "unused"}, {"tenant": "full", "database": "used"}]);
    let body = json!({"backup": "latest"});
    let mut dry = body.clone();
    dry["dry_run"] = json!(true);
    let plan = fresh.post("/restore", dry).await.ok(200);
    assert_eq!(
        (&plan["tenants"], &plan["databases"]),
        (&json!(["bare", "full"]), &made)
    );
    fresh.get("/api/v2/tenants/bare").await.expect(404);
    let result = restored(&fresh, body).await;
    assert_eq!(
        (&result["tenants"], &result["databases"]),
        (&json!(["bare", "full"]), &made)
    );
    for _ in 0..2 {
        fresh.get("/api/v2/tenants/bare").await.expect(200);
        assert_eq!(databases(&fresh, "full").await, ["unused", "used"]);
        assert!(databases(&fresh, "bare").await.is_empty());
        fresh.restart().await;
    }
    // What is there stays as it is.
    let result = restored(&fresh, json!({"backup": "latest", "on_conflict": "merge"})).await;
    assert_eq!(
        (&result["tenants"], &result["databases"]),
        (&json!([]), &json!([]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_collections_comes_back_with_its_databases() {
    let mut service = Service::start().await;
    service
        .post(
            "/api/v2/tenants/default_tenant/databases",
            json!({"name": "planned"}),
        )
        .await
        .expect(200);
    service.backup(json!({})).await;
    let fresh = beside(&mut service).await;
    let result = restored(&fresh, json!({"backup": "latest"})).await;
    assert_eq!(result["collections"], json!([]));
    assert_eq!(
        databases(&fresh, "default_tenant").await,
        ["default_database", "planned"]
    );
    // There is nothing more to do.
    fresh
        .post("/restore", json!({"backup": "latest"}))
        .await
        .problem(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_a_selection_makes_nothing_that_it_does_not_name() {
    let mut service = Service::start().await;
    furnished(&service).await;
    service.backup(json!({})).await;
    let fresh = beside(&mut service).await;
    let words = json!({"tenant": "full", "database": "used", "name": "words"});
    let result = restored(&fresh, json!({"backup": "latest", "collections": [words]})).await;
    assert_eq!(
        (&result["tenants"], &result["databases"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(databases(&fresh, "full").await, ["used"]);
    fresh.get("/api/v2/tenants/bare").await.expect(404);
}
