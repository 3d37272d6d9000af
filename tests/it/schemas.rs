//! What consumers read: the schemas and the AsyncAPI document in `deploy/schemas` tell what is published, and nothing else.
//!
//! They are made from the table of commands; after a change, `UPDATE_SCHEMAS=1 cargo test --test it schemas::` writes them again. That
//! they are true is tested by every record that any test reads (`support::reader`).

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::time::Duration;

use callbridge::command::Command;
use callbridge::record::Topics;
use serde_json::Value;
use serde_json::json;

use crate::seeds;
use crate::seeds::APP;
use crate::support::asyncapi;
use crate::support::bridge::Bridge;
use crate::support::foreign;
use crate::support::http;
use crate::support::http::Client;
use crate::support::json_schema;
use crate::support::json_schema::What;
use crate::support::reader::Reader;
use crate::support::samples;
use crate::support::schema;

const MINUTE: Duration = Duration::from_secs(60);

/// Written by hand.
const README: &str = "README.md";

/// What any callback about an Official Account may have.
const ALL_FIELDS: &str = r#"{"Official_Account":"@TOA#_a","Operator_Account":"u","Owner_Account":"o","Name":"n","Introduction":"i",
"FaceUrl":"f","Organization":"g","SubscribeAccountList":[],"MsgKey":"k","MsgTime":1670574414,"OnlineOnlyFlag":1,"MsgBody":[],
"CloudCustomData":"c","WithdrawMsgList":[],"EventTime":1670574414123}"#;

#[test]
fn the_schemas_the_document_and_the_examples_are_those_of_this_version() {
    let expected = files();
    if env::var("UPDATE_SCHEMAS").is_ok_and(|value| value == "1") {
        for name in found().keys().filter(|name| !expected.contains_key(*name)) {
            fs::remove_file(schema::folder().join(name)).unwrap();
        }
        for (name, text) in &expected {
            fs::write(schema::folder().join(name), text).unwrap();
        }
    }
    let found = found();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, text) in expected {
        assert_eq!(found[&name], text, "{name}: write it again with UPDATE_SCHEMAS=1");
    }
}

#[test]
fn every_schema_keeps_the_rules_of_json_schema() {
    for what in What::all() {
        let schema = json_schema::of(what);
        jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("{}: {error}", what.name()));
    }
}

#[test]
fn every_example_is_valid_as_it_stands_and_not_without_what_must_be_there() {
    for command in Command::all() {
        let example = example_json(What::Command(command));
        let published = json_schema::of(What::Command(command));
        let validator = schema::compile(&published).unwrap();
        assert!(validator.is_valid(&example), "{command:?}");
        let required =
            |pointer: &str| published.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        for (object, required) in [
            ("", required("/required")),
            ("/data", required("/$defs/data/required")),
            ("/data/decision", required("/$defs/data/properties/decision/required")),
            ("/data/event", required("/$defs/data/properties/event/required")),
        ] {
            for name in required.iter().filter_map(Value::as_str) {
                let mut less = example.clone();
                less.pointer_mut(object).and_then(Value::as_object_mut).unwrap().remove(name).unwrap();
                assert!(!validator.is_valid(&less), "{command:?} without {object}/{name}");
            }
        }
    }
}

#[test]
fn a_consumer_who_validates_does_not_break_on_what_a_later_version_adds() {
    for what in What::all() {
        let example = example_json(what);
        let validator = schema::compile(&json_schema::of(what)).unwrap();
        for object in ["", "/data", "/data/decision", "/data/event", "/data/callback"] {
            let mut more = example.clone();
            if let Some(object) = more.pointer_mut(object).and_then(Value::as_object_mut) {
                object.insert("addedlater".to_owned(), json!("x"));
                assert!(validator.is_valid(&more), "{}", what.name());
            }
        }
    }
}

#[test]
fn the_normal_form_of_a_full_callback_has_exactly_the_members_of_its_schema() {
    for command in Command::all().filter(|command| command.form().is_some()) {
        let record = samples::published(command.name(), ALL_FIELDS).swap_remove(0);
        let envelope: Value = serde_json::from_slice(&record).unwrap();
        let schema = json_schema::of(What::Command(command));
        let named = schema.pointer("/$defs/data/properties/event/properties");
        assert_eq!(names(envelope.pointer("/data/event")), names(named), "{command:?}");
    }
}

fn names(object: Option<&Value>) -> BTreeSet<&str> {
    object.and_then(Value::as_object).unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_asyncapi_document_names_every_topic_and_nothing_else() {
    let document = asyncapi::document();
    let addresses =
        document["channels"].as_object().unwrap().values().map(|channel| channel["address"].as_str().unwrap());
    let named: BTreeSet<String> = addresses.map(|address| address.replace("{prefix}", "tencent-chat")).collect();
    let topics = Topics::new(["tencent-chat"]);
    assert_eq!(named, topics.names().iter().cloned().collect());
    let sent = document["operations"].as_object().unwrap().values();
    let sent: BTreeSet<&str> = sent.map(|operation| operation["channel"]["$ref"].as_str().unwrap()).collect();
    assert_eq!(sent.len(), named.len());
}

#[test]
fn every_reference_of_the_asyncapi_document_leads_to_something() {
    let (document, files) = (asyncapi::document(), files());
    let mut references = BTreeSet::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 2 * Command::COUNT);
    for reference in references {
        let (file, pointer) = reference.split_once('#').unwrap_or((&reference, ""));
        let target = match file.strip_prefix("./") {
            None => document.clone(),
            Some(file) => serde_json::from_str(&files[file]).unwrap(),
        };
        assert!(target.pointer(pointer).is_some_and(Value::is_object), "{reference}");
    }
}

#[test]
fn the_official_cloudevents_sdk_reads_structured_and_binary_records() {
    for mode in ["structured", "binary"] {
        let bridge = Bridge::builder().embedded().settings(&format!("envelope.mode = \"{mode}\"")).start();
        let mut client = Client::connect(bridge.callbacks).unwrap();
        for seed in seeds::ALL {
            let answer = client.post(&http::callback_target(APP, seed.command), seed.body.as_bytes()).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let topics = seeds::ALL.map(|seed| format!("tencent-chat.{}", seed.command));
        let reader = Reader::open(&bridge.embedded_kafka(), &topics.each_ref().map(String::as_str));
        let records = reader.collect(seeds::ALL.len(), MINUTE);
        let Some(events) = foreign::cloud_events(&records) else { return };
        assert_eq!(events.len(), records.len());
        for (event, record) in events.iter().zip(&records) {
            // Read and judged by the schemas here, as one object in both modes.
            let headers: Vec<(&str, &[u8])> =
                record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            let mut expected = schema::envelope(&headers, &record.value).unwrap();
            let data = expected.as_object_mut().unwrap().remove("data");
            assert_eq!((&event["attributes"], Some(&event["data"])), (&expected, data.as_ref()), "{mode}");
        }
    }
}

fn collect_references(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            references.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| collect_references(value, references));
        }
        Value::Array(array) => array.iter().for_each(|value| collect_references(value, references)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Every file that shall be there, but for the one that is written by hand.
fn files() -> BTreeMap<String, String> {
    let schemas = What::all().map(|what| (format!("{}.json", what.name()), pretty(&json_schema::of(what))));
    let examples = What::all().filter(|what| !matches!(what, What::Any)).map(|what| {
        let record = String::from_utf8(example(what)).unwrap();
        (format!("examples/{}.json", what.name()), format!("{record}\n"))
    });
    let document = ("asyncapi.json".to_owned(), pretty(&asyncapi::document()));
    schemas.chain(examples).chain([document]).collect()
}

/// Every file that is there, by its path.
fn found() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for folder in ["", "examples/"] {
        for entry in fs::read_dir(schema::folder().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{folder}{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_file() && name != README {
                files.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    files
}

/// What becomes of the first sample of a command; of a batch, of its first event.
fn example(what: What) -> Vec<u8> {
    let mut records = match what {
        What::Command(command) => samples::published(command.name(), samples::first_of(command).callback.get()),
        What::Unknown | What::Any => samples::published("Future.CallbackAfterSomething", r#"{"Something":[1]}"#),
    };
    records.swap_remove(0)
}

fn example_json(what: What) -> Value {
    serde_json::from_slice(&example(what)).unwrap()
}

fn pretty(value: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).unwrap())
}
