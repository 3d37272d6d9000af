//! `/openapi.json`, generated from the table of routes and the types of the API.

use schemars::JsonSchema;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::admin::model::BlocklistStatus;
use crate::admin::model::ChangeLine;
use crate::admin::model::ChangedRule;
use crate::admin::model::ChangedRules;
use crate::admin::model::FoundRule;
use crate::admin::model::LookupAnswer;
use crate::admin::model::ProblemDetails;
use crate::admin::model::RuleDetails;
use crate::admin::model::RulesPage;
use crate::admin::routes;
use crate::admin::routes::BlocklistCall;
use crate::admin::routes::Operation;
use crate::admin::routes::ROUTES;
use crate::admin::routes::Route;
use crate::admin::routes::Verb;
use crate::decide::rule::RuleKind;
use crate::metrics::build::VERSION;

/// The description of one operation.
struct OperationSpec {
    summary: &'static str,
    /// Name, description, schema, and whether it is required.
    query: Vec<(&'static str, &'static str, Value, bool)>,
    body: Option<Value>,
    success: Value,
    /// Error statuses besides those of every operation of the blocklist API.
    statuses: &'static [u16],
}

/// The document.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let paths: Map<String, Value> =
        ROUTES.iter().map(|route| (route.path.to_owned(), path_item(route, &mut schemas))).collect();
    let problem = reference::<ProblemDetails>(&mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "callbridge, the admin listener",
            "version": VERSION,
            "description": "Probes, metrics, and the blocklist API. Ids in paths are percent-encoded.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of admin.token_files. If token files are configured, reading requires one too."},
            },
            "responses": {
                "problem": {
                    "description": "The request failed.",
                    "content": {"application/problem+json": {"schema": problem}},
                },
            },
        },
    })
}

fn path_item(route: &Route, schemas: &mut SchemaGenerator) -> Value {
    let names = route.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names
        .map(|name| {
            let description = format!("The id of the {name}, percent-encoded: `%40TOA%23_news` for @TOA#_news.");
            json!({"name": name, "in": "path", "required": true, "description": description, "schema": {"type": "string", "minLength": 1}})
        })
        .collect();
    let mut item = Map::new();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), parameters.into());
    }
    for (verb, operation) in route.operations {
        item.insert(verb.as_str().to_lowercase(), operation_object(route, *verb, *operation, schemas));
    }
    item.into()
}

fn operation_object(route: &Route, verb: Verb, operation: Operation, schemas: &mut SchemaGenerator) -> Value {
    let OperationSpec { summary, mut query, body, success, statuses } = spec(operation, schemas);
    if matches!(operation, Operation::Blocklist(_) | Operation::StatusPage) {
        query.push(app_parameter());
    }
    let mut responses = Map::from_iter([("200".to_owned(), success)]);
    if let Operation::Blocklist(call) = operation {
        if let Some(success) = responses.get_mut("200").and_then(Value::as_object_mut) {
            let schema = json!({"schema": {"type": "integer", "minimum": 0}});
            success.insert("headers".to_owned(), json!({"Blocklist-Generation": schema}));
        }
        let read: &[u16] = &[401, 404, 422, 503];
        let write: &[u16] = if call.is_write() { &[403, 408, 409, 413] } else { &[] };
        for status in read.iter().chain(write) {
            responses.insert(status.to_string(), json!({"$ref": "#/components/responses/problem"}));
        }
    }
    for status in statuses {
        responses.insert(status.to_string(), json!({"$ref": "#/components/responses/problem"}));
    }
    let parameters: Vec<Value> = query
        .into_iter()
        .map(|(name, description, schema, is_required)| {
            json!({"name": name, "in": "query", "required": is_required, "description": description, "schema": schema})
        })
        .collect();
    let mut object = json!({"operationId": operation_id(route, verb), "summary": summary, "responses": responses});
    if let Some(members) = object.as_object_mut() {
        if !parameters.is_empty() {
            members.insert("parameters".to_owned(), parameters.into());
        }
        if let Some(body) = body {
            members.insert("requestBody".to_owned(), body);
        }
        if let Operation::Blocklist(call) = operation {
            // If no tokens are configured, a read requires none.
            let security = if call.is_write() { json!([{"token": []}]) } else { json!([{"token": []}, {}]) };
            members.insert("security".to_owned(), security);
        }
    }
    object
}

/// The id of an operation, from its method and path, such as `put_blocklist_users`.
fn operation_id(route: &Route, verb: Verb) -> String {
    let words = route.path.split('/').filter(|word| !word.is_empty() && !word.starts_with('{'));
    let words = words.map(|word| word.trim_end_matches(".json"));
    [verb.as_str().to_lowercase().as_str()].into_iter().chain(words).collect::<Vec<_>>().join("_")
}

fn spec(operation: Operation, schemas: &mut SchemaGenerator) -> OperationSpec {
    let plain = |summary| base_spec(summary, "text/plain", &json!({"type": "string"}));
    match operation {
        Operation::StatusPage => OperationSpec {
            query: lookup_query().into_iter().map(|(name, text, schema, _)| (name, text, schema, false)).collect(),
            statuses: &[401, 404, 422, 503],
            ..base_spec(
                "The status page; with `user`, also whether that user may subscribe.",
                "text/html",
                &json!({"type": "string"}),
            )
        },
        Operation::Livez => plain("Liveness; 503 with the reason if the process is stuck."),
        Operation::Readyz => plain("Readiness; 503 with the reason if the process cannot accept callbacks."),
        Operation::Metrics => plain("The metrics, in the text format of Prometheus."),
        Operation::OpenApi => base_spec("This document: OpenAPI 3.1.", "application/json", &json!({"type": "object"})),
        Operation::Blocklist(call) => blocklist_spec(call, schemas),
    }
}

fn base_spec(summary: &'static str, content_type: &str, schema: &Value) -> OperationSpec {
    let success = json!({"description": "Done.", "content": {content_type: {"schema": schema}}});
    OperationSpec { summary, query: Vec::new(), body: None, success, statuses: &[] }
}

fn blocklist_spec(call: BlocklistCall, schemas: &mut SchemaGenerator) -> OperationSpec {
    let of = |summary, success: Value| base_spec(summary, "application/json", &success);
    match call {
        BlocklistCall::Status => {
            of("The state of the blocklist at this replica.", reference::<BlocklistStatus>(schemas))
        }
        BlocklistCall::Lookup => OperationSpec {
            query: lookup_query(),
            ..of("Whether a user may subscribe, and every rule that applies.", reference::<LookupAnswer>(schemas))
        },
        BlocklistCall::ListRules => OperationSpec {
            query: page_query(),
            ..of("A page of rules, sorted by kind, user and account.", reference::<RulesPage>(schemas))
        },
        BlocklistCall::ChangeRules => OperationSpec {
            body: Some(lines_body(schemas)),
            query: vec![wait_parameter(), dry_run_parameter(), import_parameter()],
            ..of("Make up to 10000 changes in order, one a line.", reference::<ChangedRules>(schemas))
        },
        BlocklistCall::GetRule(kind) => of(summary(kind, GET), reference::<FoundRule>(schemas)),
        BlocklistCall::PutRule(kind) => change_spec(summary(kind, PUT), schemas),
        BlocklistCall::DeleteRule(kind) => change_spec(summary(kind, DELETE), schemas),
    }
}

fn change_spec(summary: &'static str, schemas: &mut SchemaGenerator) -> OperationSpec {
    OperationSpec {
        body: Some(details_body(schemas)),
        query: vec![wait_parameter()],
        ..base_spec(summary, "application/json", &reference::<ChangedRule>(schemas))
    }
}

const GET: [&str; 4] = ["Read a block.", "Read a pardon.", "Read an allow.", "Read a close."];
const PUT: [&str; 4] = [
    "Block a user.",
    "Pardon a user.",
    "Allow a user, and open the account to allowed users only.",
    "Close an account.",
];
const DELETE: [&str; 4] = ["Remove a block.", "Remove a pardon.", "Remove an allow.", "Remove a close."];

/// Selects the summary for `kind` from those for block, pardon, allow and close.
const fn summary(kind: RuleKind, [block, pardon, allow, close]: [&'static str; 4]) -> &'static str {
    match kind {
        RuleKind::Block => block,
        RuleKind::Pardon => pardon,
        RuleKind::Allow => allow,
        RuleKind::Close => close,
    }
}

fn lookup_query() -> Vec<(&'static str, &'static str, Value, bool)> {
    let id = || json!({"type": "string", "minLength": 1});
    vec![
        ("user", "The user.", id(), true),
        ("account", "The account. Without it: an account that has no rules.", id(), false),
    ]
}

fn app_parameter() -> (&'static str, &'static str, Value, bool) {
    let text = "The SdkAppid of a configured application, to use its blocklist. A change requires that the application has its own blocklist, \
                with a topic that no other blocklist or application shares. Without this parameter: the common blocklist.";
    (routes::APP, text, json!({"type": "string", "minLength": 1}), false)
}

fn dry_run_parameter() -> (&'static str, &'static str, Value, bool) {
    let schema = json!({"type": "boolean", "default": false});
    ("dry_run", "Compute the effects of the changes, and write nothing.", schema, false)
}

fn import_parameter() -> (&'static str, &'static str, Value, bool) {
    let schema = json!({"type": "string", "minLength": 1, "maxLength": 255});
    (
        "import",
        "The name of the import that the changes are part of. It is stored with the rules and in the audit topic.",
        schema,
        false,
    )
}

fn page_query() -> Vec<(&'static str, &'static str, Value, bool)> {
    let text = || json!({"type": "string"});
    let kinds = RuleKind::ALL.map(RuleKind::as_str);
    vec![
        ("kind", "Only rules of this kind.", json!({"enum": kinds}), false),
        ("account", "Only rules on this account.", text(), false),
        ("prefix", "Only rules whose user begins with this; for a close, whose account does.", text(), false),
        (
            "limit",
            "The most rules in a page.",
            json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
            false,
        ),
        ("after", "`next` of the previous page: the sentence of its last rule.", text(), false),
    ]
}

fn wait_parameter() -> (&'static str, &'static str, Value, bool) {
    let schema = json!({"enum": ["applied", "acknowledged"], "default": "applied"});
    ("wait", "Respond once Kafka has acknowledged the change, or once this replica has also applied it.", schema, false)
}

fn details_body(schemas: &mut SchemaGenerator) -> Value {
    json!({"required": false, "content": {"application/json": {"schema": reference::<RuleDetails>(schemas)}}})
}

fn lines_body(schemas: &mut SchemaGenerator) -> Value {
    let description = "JSON lines, one change each.";
    let content = json!({"application/jsonl": {"schema": reference::<ChangeLine>(schemas)}});
    json!({"required": true, "description": description, "content": content})
}

fn reference<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashSet;

    /// Collects the values of all members of this name, at any depth.
    fn members<'v>(value: &'v Value, name: &str, found: &mut Vec<&'v Value>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get(name));
                object.values().for_each(|child| members(child, name, found));
            }
            Value::Array(items) => items.iter().for_each(|child| members(child, name, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn references_resolve_and_operation_ids_are_unique() {
        let document = document();
        let (mut references, mut ids) = (Vec::new(), Vec::new());
        members(&document, "$ref", &mut references);
        assert!(references.len() > 20);
        for reference in references {
            let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        members(&document, "operationId", &mut ids);
        assert_eq!(ids.len(), ROUTES.iter().map(|route| route.operations.len()).sum::<usize>());
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn every_schema_is_valid_and_has_a_description() {
        let document = document();
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            jsonschema::draft202012::meta::validate(schema).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(schema["description"].is_string(), "{name}");
        }
    }
}
