//! The AsyncAPI document: every topic, what is in its records, and by what key.

use callbridge::normalise::REJECTIONS;
use callbridge::refusal::Reason;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::support::json_schema;
use crate::support::json_schema::What;

const STRUCTURED: &str = "application/cloudevents+json";
const BINARY: &str = "application/json";

/// The whole document.
pub(crate) fn document() -> Value {
    let mut channels = Map::new();
    let mut operations = Map::new();
    let mut messages = Map::new();
    for what in What::all().filter(|what| !matches!(what, What::Any)) {
        let name = what.name();
        let says = match what {
            What::Command(_) => format!("Callbacks of the command {name}."),
            What::Unknown | What::Any => {
                "Callbacks of commands that callbridge does not know, and of those that have no topic of their own. Their schema is \
                 the one that dataschema names."
                    .to_owned()
            }
        };
        channels.insert(name.to_owned(), channel(name, &says, &["structured", "binary"]));
        operations.insert(format!("send.{name}"), send(name));
        for (mode, message) in [("structured", structured(name)), ("binary", binary(name))] {
            messages.insert(format!("{name}.{mode}"), message);
        }
    }
    let says =
        "Raw bytes of callbacks whose sender is known and that could not be used, each with the reason in its headers.";
    channels.insert("rejected".to_owned(), channel("rejected", says, &["raw"]));
    operations.insert("send.rejected".to_owned(), send("rejected"));
    messages.insert("rejected.raw".to_owned(), rejected());
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "callbridge",
            "version": format!("{}.0.0", json_schema::VERSION),
            "description": "What callbridge publishes to Kafka: callbacks of Tencent Cloud Chat as CloudEvents 1.0, at least once, in \
                order per key. By envelope.mode, all records are structured or all are binary.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "defaultContentType": STRUCTURED,
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {
                "structuredHeaders": headers_structured(),
                "binaryHeaders": headers_binary(),
                "rejectedHeaders": headers_rejected(),
            },
            "parameters": {
                "prefix": {"default": "tencent-chat", "description": "topic_prefix of the application."},
            },
        },
    })
}

fn channel(name: &str, says: &str, modes: &[&str]) -> Value {
    let messages: Map<String, Value> = modes
        .iter()
        .map(|mode| ((*mode).to_owned(), reference(&format!("#/components/messages/{name}.{mode}"))))
        .collect();
    json!({
        "address": format!("{{prefix}}.{name}"),
        "description": says,
        "messages": messages,
        "parameters": {"prefix": reference("#/components/parameters/prefix")},
    })
}

fn send(name: &str) -> Value {
    json!({"action": "send", "channel": reference(&format!("#/channels/{name}"))})
}

fn structured(name: &str) -> Value {
    json!({
        "name": format!("{name}.structured"),
        "title": "The whole CloudEvent is the value",
        "contentType": STRUCTURED,
        "headers": reference("#/components/schemas/structuredHeaders"),
        "payload": reference(&format!("./{name}.json")),
        "bindings": {"kafka": key(name)},
    })
}

fn binary(name: &str) -> Value {
    json!({
        "name": format!("{name}.binary"),
        "title": "The attributes are headers, the data is the value",
        "contentType": BINARY,
        "headers": reference("#/components/schemas/binaryHeaders"),
        "payload": reference(&format!("./{name}.json#/$defs/data")),
        "bindings": {"kafka": key(name)},
    })
}

fn rejected() -> Value {
    json!({
        "name": "rejected.raw",
        "title": "The body as it came; of a batch, the one event",
        "contentType": "application/octet-stream",
        "headers": reference("#/components/schemas/rejectedHeaders"),
        "payload": {"description": "Any bytes: most often it is not even JSON."},
    })
}

fn key(name: &str) -> Value {
    let says = if name == "unknown" {
        "None for a command that callbridge does not know; else what it would be in the command's own topic."
    } else {
        "The subject, also one that the envelope leaves out for its characters; none where the callback does not say what it is about."
    };
    json!({"key": {"type": "string", "description": says}, "bindingVersion": "0.5.0"})
}

fn headers_structured() -> Value {
    let mut headers = headers_binary();
    let required = ["content-type", "ce_id", "ce_source", "ce_type"];
    if let Some(properties) = headers["properties"].as_object_mut() {
        properties.retain(|name, _schema| required.contains(&name.as_str()));
    }
    headers["properties"]["content-type"] = json!({"const": STRUCTURED});
    headers["required"] = json!(required);
    headers
}

fn headers_binary() -> Value {
    let envelope = json_schema::of(What::Any);
    let header = |name: &str| if name == "datacontenttype" { "content-type".to_owned() } else { format!("ce_{name}") };
    let attributes = envelope["properties"].as_object().unwrap().iter().filter(|(name, _schema)| *name != "data");
    let properties: Map<String, Value> = attributes.map(|(name, schema)| (header(name), schema.clone())).collect();
    let required = envelope["required"].as_array().unwrap().iter().filter_map(Value::as_str);
    let required: Vec<String> = required.filter(|name| *name != "data").map(header).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn headers_rejected() -> Value {
    let kept = Reason::ALL.into_iter().filter(|reason| reason.is_kept() || *reason == Reason::Unpublishable);
    let reasons: Vec<&str> = kept.map(Reason::word).chain(REJECTIONS).collect();
    let attributes = &json_schema::of(What::Any)["properties"];
    let text = |says: &str| json!({"type": "string", "description": says});
    let properties = json!({
        "callbridge-reason": {"enum": reasons},
        "callbridge-detail": {"type": "string", "maxLength": 1024, "description": "Why, in full, with line and column; cut after 1024 bytes."},
        "callbridge-command": text("CallbackCommand of the URL."),
        "callbridge-sdkappid": attributes["sdkappid"],
        "callbridge-received": attributes["receivedtime"],
        "callbridge-peer": text("Address and port of the other end of the connection: Tencent, or a proxy."),
    });
    let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn reference(to: &str) -> Value {
    json!({"$ref": to})
}
