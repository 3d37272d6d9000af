//! Records judged by the schemas of `deploy/schemas`, read as they are shipped.
//!
//! The schemas are open: a consumer who validates shall not break on what a later version adds. Here what they do not name is a mistake,
//! so that nothing is published that they do not tell.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;

use jsonschema::Draft;
use jsonschema::Validator;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use serde_json::value::RawValue;

/// The objects of a schema that hold only what it names, as JSON pointers. What the sender wrote is its own.
const CLOSED: [&str; 5] = [
    "",
    "/$defs/data",
    "/$defs/data/properties/decision",
    "/$defs/data/properties/decision/properties/rules/items",
    "/$defs/data/properties/event",
];

/// What `dataschema` begins with, and ends with.
const DATA_SCHEMA: (&str, &str) = ("urn:callbridge:schema:", ":1");

thread_local! {
    /// By what the schema describes. Each thread has its own: a test is one.
    static VALIDATORS: RefCell<HashMap<String, Rc<Validator>>> = RefCell::default();
}

/// Where the schemas are.
pub(crate) fn folder() -> PathBuf {
    // The fuzz targets, one folder down, judge by them too.
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|root| root.join("deploy/schemas"));
    folders.into_iter().find(|folder| folder.is_dir()).unwrap_or_default()
}

/// Judges one record of any topic but the rejected ones.
///
/// # Errors
///
/// It is no JSON, its schema does not allow it, or value, headers and key do not say the same.
pub(crate) fn judge(key: Option<&[u8]>, headers: &[(&str, &[u8])], value: &[u8]) -> Result<(), String> {
    let header = |name: &str| headers.iter().find(|(header, _)| *header == name).map(|(_, value)| *value);
    let envelope = envelope(headers, value)?;
    let attribute = |name: &str| envelope.get(name).and_then(Value::as_str);
    judge_envelope(attribute("dataschema").unwrap_or_default(), &envelope)?;
    judge_envelope("urn:callbridge:schema:envelope:1", &envelope)?;
    for (name, attribute) in ["id", "type", "source"].map(|name| (name, attribute(name))) {
        let header = header(&format!("ce_{name}")).and_then(|value| str::from_utf8(value).ok());
        if header != attribute {
            return Err(format!("ce_{name} is {header:?}, {name} is {attribute:?}"));
        }
    }
    let (subject, partition_key) = (attribute("subject"), attribute("partitionkey"));
    let key = key.and_then(|key| str::from_utf8(key).ok());
    if (subject, partition_key) != (key.filter(|key| is_attribute(key)), subject) {
        return Err(format!("subject {subject:?}, partitionkey {partition_key:?}, key {key:?}"));
    }
    if envelope["data"].pointer("/decision/outcome").and_then(Value::as_str) != attribute("decision") {
        return Err(format!("decision {:?} of {}", attribute("decision"), envelope["data"]));
    }
    Ok(())
}

/// Whether CloudEvents takes this text as an attribute.
fn is_attribute(text: &str) -> bool {
    let is_forbidden =
        |it: char| it.is_control() || ('\u{fdd0}'..='\u{fdef}').contains(&it) || u32::from(it) % 0x1_0000 >= 0xfffe;
    !text.chars().any(is_forbidden)
}

/// A record as one object, whatever its mode.
///
/// # Errors
///
/// It is no CloudEvent.
pub(crate) fn envelope(headers: &[(&str, &[u8])], value: &[u8]) -> Result<Value, String> {
    match headers.iter().find(|(name, _)| *name == "content-type") {
        Some((_, b"application/cloudevents+json")) => structured(value),
        Some((_, b"application/json")) => binary(headers, value),
        other => Err(format!("content-type {other:?}")),
    }
}

fn judge_envelope(data_schema: &str, envelope: &Value) -> Result<(), String> {
    let name = data_schema.strip_prefix(DATA_SCHEMA.0).and_then(|name| name.strip_suffix(DATA_SCHEMA.1));
    let name = name.ok_or_else(|| format!("dataschema {data_schema}"))?;
    let validator = validator(name)?;
    let errors: Vec<String> =
        validator.iter_errors(envelope).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if errors.is_empty() { Ok(()) } else { Err(format!("{name}: {}: {envelope}", errors.join("; "))) }
}

/// The validator for the envelopes of a command, of `unknown` ones, or of any.
fn validator(name: &str) -> Result<Rc<Validator>, String> {
    VALIDATORS.with_borrow_mut(|validators| {
        if let Some(known) = validators.get(name) {
            return Ok(Rc::clone(known));
        }
        let path = folder().join(format!("{name}.json"));
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let schema: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let validator = Rc::new(compile(&closed(schema))?);
        validators.insert(name.to_owned(), Rc::clone(&validator));
        Ok(validator)
    })
}

/// A validator by the rules of 2020-12, with formats.
pub(crate) fn compile(schema: &Value) -> Result<Validator, String> {
    let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
    options.build(schema).map_err(|error| error.to_string())
}

fn closed(mut schema: Value) -> Value {
    for pointer in CLOSED {
        let object = schema.pointer_mut(pointer).and_then(Value::as_object_mut);
        if let Some(object) = object.filter(|object| object.contains_key("properties")) {
            object.insert("additionalProperties".to_owned(), json!(false));
        }
    }
    schema
}

/// An envelope's members, as they stand there.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(flatten)]
    attributes: Map<String, Value>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    callback: &'a RawValue,
    #[serde(borrow)]
    event: Option<HashMap<String, &'a RawValue>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

fn structured(value: &[u8]) -> Result<Value, String> {
    let text = str::from_utf8(value).map_err(|error| error.to_string())?;
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    with_data(envelope.attributes, envelope.data.get())
}

fn binary(headers: &[(&str, &[u8])], value: &[u8]) -> Result<Value, String> {
    let mut attributes = Map::new();
    for (name, value) in headers {
        let name = if *name == "content-type" { "datacontenttype" } else { name.strip_prefix("ce_").unwrap_or(name) };
        let text = str::from_utf8(value).map_err(|error| error.to_string())?;
        if attributes.insert(name.to_owned(), json!(text)).is_some() {
            return Err(format!("{name} comes twice"));
        }
    }
    with_data(attributes, str::from_utf8(value).map_err(|error| error.to_string())?)
}

/// What the sender wrote may be JSON that this library has no value for: numbers beyond all bounds, a thousand brackets. In its place
/// stands something of its kind.
fn with_data(mut attributes: Map<String, Value>, data: &str) -> Result<Value, String> {
    let data: Data<'_> = serde_json::from_str(data).map_err(|error| error.to_string())?;
    let mut object = data.others;
    if let Some(event) = data.event {
        let event = event.into_iter().map(|(name, raw)| (name, stand_in(raw.get())));
        object.insert("event".to_owned(), Value::Object(event.collect()));
    }
    object.insert("callback".to_owned(), stand_in(data.callback.get()));
    attributes.insert("data".to_owned(), Value::Object(object));
    Ok(Value::Object(attributes))
}

fn stand_in(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_error| match json.as_bytes().first() {
        Some(b'{') => json!({}),
        Some(b'[') => json!([]),
        _ => Value::Null,
    })
}
