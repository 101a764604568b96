use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

const RECORDED: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/data/chroma_schema_cases.json"
));

/// The threads of the machine the answers were recorded on.
const NUM_THREADS: usize = 2;

#[derive(Deserialize)]
struct Recorded {
    /// What is answered when nothing is given.
    standard: Value,
    create: Vec<Case>,
    update: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Metadata, configuration and schema of the create request.
    request: Value,
    new_configuration: Option<Value>,
    status: u16,
    message: Option<String>,
    /// A merge patch over the standard answer.
    answer: Option<Value>,
    /// The members of the answer that were recorded, if not all.
    recorded: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct CreateRequest {
    metadata: Option<Metadata>,
    configuration: Option<ConfigurationRequest>,
    schema: Option<SchemaRequest>,
}

#[derive(Deserialize)]
struct UpdateRequest {
    new_configuration: Option<ConfigurationUpdate>,
}

fn recorded() -> Recorded {
    serde_json::from_str(RECORDED).unwrap()
}

/// As the HTTP layer reads a body.
fn parse<T: DeserializeOwned>(body: &Value) -> Result<T, (u16, String)> {
    let text = body.to_string();
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let problem = error.to_string();
        let problem = problem.split(" at line ").next().unwrap();
        match error.inner().classify() {
            serde_json::error::Category::Data => (
                422,
                format!("Failed to deserialize the JSON body into the target type: {problem}"),
            ),
            _ => (400, problem.to_owned()),
        }
    })
}

fn refused(error: Error) -> (u16, String) {
    assert_eq!(error.kind(), crate::error::Kind::InvalidArgument);
    (400, error.message().to_owned())
}

fn create(request: &Value) -> Result<(Configuration, Schema), (u16, String)> {
    let request: CreateRequest = parse(request)?;
    reconcile(
        &request.metadata.unwrap_or_default(),
        request.configuration,
        request.schema,
        NUM_THREADS,
    )
    .map_err(refused)
}

fn created(request: Value) -> (Configuration, Schema) {
    create(&request).unwrap()
}

fn reconfigure(
    configuration: &mut Configuration,
    schema: &mut Schema,
    new_configuration: &Value,
) -> Result<(), (u16, String)> {
    let request: UpdateRequest = parse(&json!({ "new_configuration": new_configuration }))?;
    match request.new_configuration {
        Some(given) => update(configuration, schema, given).map_err(refused),
        None => Ok(()),
    }
}

fn answer(configuration: &Configuration, schema: &Schema) -> Value {
    json!({ "configuration_json": configuration.to_json(), "schema": schema })
}

/// A merge patch as in RFC 7386.
fn patched(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut members = target.as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        if value.is_null() {
            members.remove(name);
        } else {
            let old = members.get(name).unwrap_or(&Value::Null);
            let new = patched(old, value);
            members.insert(name.clone(), new);
        }
    }
    Value::Object(members)
}

fn assert_answer(case: &Case, standard: &Value, configuration: &Configuration, schema: &Schema) {
    let got = answer(configuration, schema);
    let wanted = patched(standard, case.answer.as_ref().unwrap());
    for member in ["configuration_json", "schema"] {
        let compared = case
            .recorded
            .as_ref()
            .is_none_or(|r| r.iter().any(|m| m == member));
        if compared {
            assert_eq!(got[member], wanted[member], "{} {member}", case.name);
        }
    }
}

#[test]
fn recorded_create_requests_get_the_recorded_answers() {
    let recorded = recorded();
    for case in &recorded.create {
        match create(&case.request) {
            Ok((configuration, schema)) => {
                assert_eq!(case.status, 200, "{}", case.name);
                assert_answer(case, &recorded.standard, &configuration, &schema);
            }
            Err((status, message)) => {
                assert_eq!(status, case.status, "{}: {message}", case.name);
                assert_same_message(case, &message);
            }
        }
    }
}

/// Messages have to be Chroma's, except for names of its own types inside them.
fn assert_same_message(case: &Case, message: &str) {
    let wanted = case.message.as_deref().unwrap();
    let up_to_type = |text: &str| text.split("expected struct ").next().map(ToOwned::to_owned);
    assert_eq!(up_to_type(message), up_to_type(wanted), "{}", case.name);
}

#[test]
fn recorded_updates_have_the_recorded_outcome() {
    let recorded = recorded();
    for case in &recorded.update {
        let (mut configuration, mut schema) = create(&case.request).unwrap();
        let new = case.new_configuration.as_ref().unwrap();
        match reconfigure(&mut configuration, &mut schema, new) {
            Ok(()) => assert_eq!(case.status, 200, "{}", case.name),
            Err((status, message)) => {
                assert_eq!(status, case.status, "{}: {message}", case.name);
                assert_same_message(case, &message);
            }
        }
        assert_answer(case, &recorded.standard, &configuration, &schema);
    }
}

#[test]
fn storing_loses_nothing() {
    for case in &recorded().create {
        if let Ok((configuration, schema)) = create(&case.request) {
            let stored = serde_json::to_string(&(&configuration, &schema)).unwrap();
            let read: (Configuration, Schema) = serde_json::from_str(&stored).unwrap();
            assert_eq!(read, (configuration, schema), "{}", case.name);
        }
    }
}

#[test]
fn the_embedding_function_comes_back_as_it_was_sent_with_the_order_of_its_members() {
    let function =
        r#"{"type":"known","name":"z","config":{"z":1,"a":{"y":2.0,"b":[null,-0.0,1e+300]}}}"#;
    let value: Value = serde_json::from_str(function).unwrap();
    let (configuration, schema) = created(json!({"configuration": {"embedding_function": value}}));
    let shown = configuration.to_json()["embedding_function"].to_string();
    assert_eq!(shown, function);
    assert!(serde_json::to_string(&schema).unwrap().contains(function));
}

fn nested(levels: usize) -> Value {
    let config = (0..levels).fold(Value::Null, |inner, _| json!([inner]));
    json!({"type": "known", "name": "z", "config": config})
}

/// Parameters that just fitted into a request did not fit into the stored schema, which wraps them more
/// deeply: the collection could be made and never be read again.
#[test]
fn no_embedding_function_is_taken_that_could_not_be_read_again() {
    let in_configuration =
        |levels| json!({"configuration": {"embedding_function": nested(levels)}});
    let in_schema = |levels| {
        let index = json!({"enabled": true, "config": {"embedding_function": nested(levels)}});
        let sparse = json!({"enabled": false, "config": {"embedding_function": nested(levels)}});
        [
            json!({"schema": {"defaults": {}, "keys": {
                EMBEDDING_KEY: {"float_list": {"vector_index": index}},
            }}}),
            json!({"schema": {"defaults": {"sparse_vector": {"sparse_vector_index": sparse}}, "keys": {}}}),
        ]
    };
    let requests = |levels| [vec![in_configuration(levels)], in_schema(levels).to_vec()].concat();
    for request in requests(64) {
        let stored = json!([[[[created(request)]]]]).to_string();
        serde_json::from_str::<Value>(&stored).unwrap();
    }
    for levels in [65, 118] {
        for request in requests(levels) {
            assert_eq!(create(&request).unwrap_err().0, 400);
        }
        let (mut configuration, mut schema) = created(json!({}));
        let new = json!({"embedding_function": nested(levels)});
        let refusal = reconfigure(&mut configuration, &mut schema, &new);
        assert_eq!(refusal.unwrap_err().0, 400);
    }
}

#[test]
fn another_number_of_threads_than_the_machines_is_a_choice() {
    let request = |threads: usize| {
        json!({
            "metadata": {"hnsw:M": 5},
            "configuration": {"hnsw": {"num_threads": threads}},
        })
    };
    assert_eq!(created(request(NUM_THREADS)).0.hnsw.max_neighbors, 5);
    assert_eq!(created(request(NUM_THREADS + 1)).0.hnsw.max_neighbors, 16);
}

#[test]
fn an_encryption_key_is_refused_because_it_would_not_be_used() {
    let request = json!({"schema": {"defaults": {}, "keys": {}, "cmek": {"gcp": "projects/a"}}});
    let (status, message) = create(&request).unwrap_err();
    assert_eq!(status, 400);
    assert!(
        message.contains("encryption keys are not enabled"),
        "{message}"
    );
}

fn metadata(pairs: Value) -> Metadata {
    serde_json::from_value(pairs).unwrap()
}

fn discover(schema: &mut Schema, pairs: Value) -> bool {
    let metadata = metadata(pairs);
    schema.discover(metadata.iter().map(|(key, value)| (key.as_str(), value)))
}

#[test]
fn written_keys_appear_with_the_flags_of_the_defaults() {
    let (_, mut schema) = created(json!({"schema": {
        "defaults": {"string": {"string_inverted_index": {"enabled": false, "config": {}}}},
        "keys": {"age": {"int": {"int_inverted_index": {"enabled": false, "config": {}}}}, "k": {}},
    }}));
    let written = json!({
        "age": 3, "arr": [1], "b": true, "f": 1.5, "s": "x", "k": ["x"], "chroma:own": 1,
    });
    assert!(discover(&mut schema, written.clone()));
    let flag = |enabled: bool| json!({"enabled": enabled, "config": {}});
    let string = json!({"fts_index": flag(false), "string_inverted_index": flag(false)});
    let mut keys = serde_json::to_value(&schema).unwrap()["keys"].take();
    keys.as_object_mut()
        .unwrap()
        .retain(|key, _| !key.starts_with('#'));
    assert_eq!(
        keys,
        json!({
            "age": {"int": {"int_inverted_index": flag(false)}},
            "arr": {"int": {"int_inverted_index": flag(true)}},
            "b": {"bool": {"bool_inverted_index": flag(true)}},
            "f": {"float": {"float_inverted_index": flag(true)}},
            "k": {"string": string},
            "s": {"string": string},
        })
    );
    let before = schema.clone();
    assert!(!discover(&mut schema, written));
    assert_eq!(schema, before);
    assert!(discover(&mut schema, json!({"s": 1})));
    let both = serde_json::to_value(&schema).unwrap()["keys"]["s"].take();
    assert_eq!(
        both,
        json!({"string": string, "int": {"int_inverted_index": flag(true)}})
    );
}

#[test]
fn filters_follow_the_keys_flag_for_the_operand_and_else_the_defaults() {
    let off = json!({"enabled": false, "config": {}});
    let (_, schema) = created(json!({"schema": {
        "defaults": {"string": {"string_inverted_index": off}},
        "keys": {"age": {"int": {"int_inverted_index": off}}, "empty": {"int": {}}},
    }}));
    let allowed = |key: &str, kind| schema.ensure_filterable(key, kind).map_err(refused);
    let disabled = |key: &str, kind: &str| {
        let text = format!(
            "Cannot filter using metadata key '{key}' with type '{kind}' because indexing is disabled"
        );
        Err((400, text))
    };
    assert_eq!(allowed("age", IndexKind::Int), disabled("age", "Int"));
    assert_eq!(allowed("age", IndexKind::Float), Ok(()));
    assert_eq!(allowed("age", IndexKind::Str), disabled("age", "Str"));
    assert_eq!(allowed("other", IndexKind::Str), disabled("other", "Str"));
    assert_eq!(allowed("other", IndexKind::Bool), Ok(()));
    // Chroma answers 500 for an entry that names the type without an index.
    assert_eq!(allowed("empty", IndexKind::Int), Ok(()));
    assert_eq!(allowed(DOCUMENT_KEY, IndexKind::FullText), Ok(()));
}

#[test]
fn documents_are_never_compared_as_strings_and_full_text_search_can_be_off() {
    let (_, schema) = created(json!({}));
    assert!(!schema.is_filterable(DOCUMENT_KEY, IndexKind::Str));
    assert!(schema.is_filterable(DOCUMENT_KEY, IndexKind::FullText));
    let (_, schema) = created(json!({"schema": {"defaults": {}, "keys": {
        "#document": {"string": {"fts_index": {"enabled": false, "config": {}}}},
    }}}));
    let refusal = schema.ensure_filterable(DOCUMENT_KEY, IndexKind::FullText);
    assert_eq!(
        refusal.unwrap_err().message(),
        "Cannot filter using full-text search because FTS indexing is disabled"
    );
}

#[test]
fn a_refused_update_changes_nothing() {
    let (mut configuration, mut schema) = created(json!({}));
    let before = answer(&configuration, &schema);
    let both = json!({"hnsw": {"ef_search": 3}, "spann": {"search_nprobe": 3}});
    assert!(reconfigure(&mut configuration, &mut schema, &both).is_err());
    assert_eq!(answer(&configuration, &schema), before);
}
