//! The schemas of envelopes, made from the table of commands.

use callbridge::command::Command;
use callbridge::command::Form;
use callbridge::command::Kind;
use callbridge::command::SubjectKey;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// The version in the names of the schemas.
pub(crate) const VERSION: u32 = 1;

/// Milliseconds up to the last time that is understood.
const MILLIS_MAX: i64 = 253_402_207_200_000;

/// What CloudEvents takes as an attribute: no control characters and no noncharacters. (Those beyond the first plane are not named: a
/// pattern cannot name them in every library.)
const ATTRIBUTE: &str = r"^[^\u0000-\u001f\u007f-\u009f\ufdd0-\ufdef\ufffe\uffff]+$";

/// What a schema describes.
#[derive(Clone, Copy)]
pub(crate) enum What {
    /// Envelopes of one command.
    Command(Command),
    /// Those of commands that are not of the table.
    Unknown,
    /// Any.
    Any,
}

impl What {
    /// Each command, then unknown ones, then any.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Command::all().map(Self::Command).chain([Self::Unknown, Self::Any])
    }

    /// Its word in names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Command(command) => command.name(),
            Self::Unknown => "unknown",
            Self::Any => "envelope",
        }
    }

    fn command(self) -> Option<Command> {
        match self {
            Self::Command(command) => Some(command),
            Self::Unknown | Self::Any => None,
        }
    }

    fn form(self) -> Option<Form> {
        self.command().and_then(Command::form)
    }

    fn is_question(self) -> bool {
        self.command().is_some_and(|command| command.kind() == Kind::Before)
    }
}

/// The schema of structured envelopes. That of the data alone stands in it, under the name that `dataschema` has.
pub(crate) fn of(what: What) -> Value {
    let name = what.name();
    let title = match what {
        What::Command(_) => format!("{name} as a CloudEvent of callbridge"),
        What::Unknown => "A callback whose command callbridge does not know, as a CloudEvent".to_owned(),
        What::Any => "Any callback as a CloudEvent of callbridge".to_owned(),
    };
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:callbridge:envelope:{name}:{VERSION}"),
        "title": title,
        "type": "object",
        "required": required(what),
        "properties": attributes(what),
        // Both or neither.
        "dependentRequired": {"subject": ["partitionkey"], "partitionkey": ["subject"]},
        "$defs": {"data": data(what)},
    });
    if matches!(what, What::Any) {
        schema["if"] = json!({"required": ["decision"]});
        schema["then"] = json!({"properties": {"data": {"required": ["decision"]}}});
        schema["else"] = json!({"properties": {"data": {"properties": {"decision": false}}}});
    }
    schema
}

fn required(what: What) -> Vec<&'static str> {
    let always = [
        "specversion",
        "id",
        "idbasis",
        "source",
        "type",
        "time",
        "timesource",
        "receivedtime",
        "datacontenttype",
        "dataschema",
        "sdkappid",
        "data",
    ];
    let has_subject = what.command().is_some_and(|command| command.key() == SubjectKey::App);
    let subject = has_subject.then_some(["subject", "partitionkey"]).into_iter().flatten();
    always.into_iter().chain(subject).chain(what.is_question().then_some("decision")).collect()
}

fn attributes(what: What) -> Value {
    let name = what.name();
    let mut attributes = json!({
        "specversion": {"const": "1.0"},
        "id": {
            "type": "string",
            "pattern": "^[0-9a-f]{32}$",
            "description": "The same for a callback that is sent twice. idbasis says for how long to drop repeats by it.",
        },
        "idbasis": {
            "enum": ["key", "body", "content"],
            "description": "What the id is the hash of. key: a natural key of this event, such as a message's MsgKey. body: a body that has the event's time, so that the same event at another time has another id. content: \
                something without a time, so that the same that happens again has the same id: drop it only if its receivedtime \
                is within the seconds in which a sender may repeat.",
        },
        "source": {"type": "string", "pattern": "^/tencent-chat/[1-9][0-9]{0,19}$", "format": "uri-reference"},
        "type": attribute("The CallbackCommand."),
        "subject": attribute(
            "What it is about. The record's key. Absent where it has a character that CloudEvents forbids; the key then has it all the same.",
        ),
        "time": time("When it happened, or, if the callback does not say so readably, when it was received."),
        "timesource": {
            "enum": ["callback", "receipt"],
            "description": "Who says the time: the callback, or callbridge when it received it.",
        },
        "receivedtime": time("When callbridge received it."),
        "datacontenttype": {"const": "application/json"},
        "dataschema": {"type": "string", "pattern": "^urn:callbridge:schema:[A-Za-z0-9.]+:[1-9][0-9]*$", "format": "uri"},
        "sdkappid": {"type": "string", "pattern": "^[1-9][0-9]{0,19}$", "description": "The application."},
        "optplatform": short("OptPlatform of the URL: where the action came from, such as RESTAPI or iOS."),
        "clientip": short("ClientIP of the URL: the end-user's address."),
        "requestid": short("RequestID of the URL. Whether a repeated callback has the same one is not known."),
        "operator": attribute("Operator_Account of the callback: who did it, or asks for it."),
        "partitionkey": attribute("The subject again, under CloudEvents' name for a record's key."),
        "decision": outcome("What a before-callback was answered, in a word."),
        "data": {"$ref": "#/$defs/data"},
    });
    match what {
        What::Command(_) => {
            attributes["type"]["const"] = json!(name);
            attributes["dataschema"] = json!({"const": data_id(name)});
        }
        What::Unknown => attributes["dataschema"] = json!({"const": data_id(name)}),
        What::Any => {}
    }
    if what.command().is_some_and(|command| command.key() == SubjectKey::App) {
        attributes["subject"]["description"] =
            json!("The application: it is about no entity within it. The record's key.");
    }
    let absent: &[&str] = match what {
        What::Command(_) if what.is_question() => &[],
        What::Command(_) => &["decision"],
        What::Unknown => &["decision", "subject", "partitionkey", "operator"],
        What::Any => &[],
    };
    if let Value::Object(attributes) = &mut attributes {
        attributes.retain(|name, _schema| !absent.contains(&name.as_str()));
    }
    attributes
}

/// What `dataschema` says.
pub(crate) fn data_id(name: &str) -> String {
    format!("urn:callbridge:schema:{name}:{VERSION}")
}

fn data(what: What) -> Value {
    let mut required = vec!["callback"];
    let mut properties = Map::new();
    if what.is_question() || matches!(what, What::Any) {
        properties.insert("decision".to_owned(), decision());
    }
    if let Some(form) = what.form() {
        properties.insert("event".to_owned(), event(form));
        required.push("event");
    } else if matches!(what, What::Any) {
        properties.insert(
            "event".to_owned(),
            json!({"type": "object", "description": "The normal form; its command's schema tells it."}),
        );
    }
    if what.is_question() {
        required.push("decision");
    }
    let is_batch = what.command().is_some_and(Command::is_batch);
    let of_batch = if is_batch { " Of a batch, the one event." } else { "" };
    let callback =
        format!("The callback's JSON, byte for byte as it came. Its shape is Tencent's, and may change.{of_batch}");
    properties.insert("callback".to_owned(), json!({"type": "object", "description": callback}));
    let mut data = json!({"type": "object", "required": required, "properties": properties});
    if !matches!(what, What::Any) {
        data["$id"] = json!(data_id(what.name()));
    }
    data
}

fn decision() -> Value {
    json!({
        "type": "object",
        "description": "What was answered. This was asked; whether it then happened, an after-callback tells.",
        "required": ["outcome", "refused", "rules", "generation"],
        "properties": {
            "outcome": outcome("How many of those who asked were refused: none, some, all."),
            "refused": texts("Who was refused, in the order asked, each once."),
            "rules": {
                "type": "array",
                "items": decisive_rule(),
                "description": "The rules that refused them, each once for each source that has it.",
            },
            "generation": {"type": "integer", "minimum": 0, "description": "The blocklist's; 0 where none was asked."},
            "enforced": {"const": false, "description": "Only in a dry run: this would have been the decision, and everyone was allowed."},
        },
    })
}

fn decisive_rule() -> Value {
    let rule = "The rule as a sentence: block USER [on ACCOUNT], close ACCOUNT, only those allowed on ACCOUNT, no blocklist loaded.";
    let source = "The file or topic that has it: file:PATH or topic:NAME. Absent where none was loaded.";
    json!({
        "type": "object",
        "required": ["rule"],
        "properties": {
            "rule": {"type": "string", "description": rule},
            "source": {"type": "string", "description": source},
        },
    })
}

/// The normal form. The first names are those that are always there.
fn event(form: Form) -> Value {
    let account = ("official_account", text("The Official Account."));
    let operator = ("operator", any_text("Who did it, or asks for it."));
    let owner = ("owner", any_text("Who owns it, or did."));
    let name = ("name", any_text("What it is or was called."));
    let millis = "in milliseconds since the Unix epoch.";
    let at = ("event_time_ms", integer(&format!("When, {millis} Absent where the callback does not say it readably.")));
    let (required, members): (usize, Vec<(&str, Value)>) = match form {
        Form::AskedFor => (1, vec![("owner", text("Whose it shall be.")), operator, name, at]),
        Form::Account => (1, vec![account, operator, owner, name, at]),
        Form::InfoChanged => {
            let changed = |what: &str| any_text(&format!("The new {what}; absent if it is still the old one."));
            let profile = [
                ("name", changed("name")),
                ("introduction", changed("introduction")),
                ("face_url", changed("picture's URL")),
                ("organization", changed("organization")),
            ];
            (1, [account, operator, at].into_iter().chain(profile).collect())
        }
        Form::Subscribers => {
            (2, vec![account, ("subscribers", texts("Who subscribes, or no longer does.")), operator, at])
        }
        Form::Message => {
            let message = [
                ("message_key", any_text("What it is taken back by. A message that is yet to be sent has none.")),
                ("message_time_ms", integer(&format!("When it was sent, {millis}"))),
                (
                    "online_only",
                    json!({"type": "boolean", "description": "Whether it is for those only who are online."}),
                ),
                ("message_body", json!({"type": "array", "description": "Its elements, as they came."})),
                ("custom_data", any_text("What the application put beside it.")),
            ];
            (1, [account, operator, at].into_iter().chain(message).collect())
        }
        Form::Withdrawn => {
            (2, vec![account, ("message_keys", texts("The messages that were taken back.")), operator, at])
        }
    };
    let required: Vec<&str> = members.iter().take(required).map(|(name, _schema)| *name).collect();
    let properties: Map<String, Value> = members.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({"type": "object", "description": "The normal form.", "required": required, "properties": properties})
}

fn outcome(description: &str) -> Value {
    json!({"enum": ["allow", "partial", "refuse"], "description": description})
}

fn text(description: &str) -> Value {
    json!({"type": "string", "minLength": 1, "description": description})
}

/// An attribute that may hold what the sender wrote.
fn attribute(description: &str) -> Value {
    json!({"type": "string", "pattern": ATTRIBUTE, "description": description})
}

/// An attribute from the query; a longer one is left out.
fn short(description: &str) -> Value {
    json!({"type": "string", "pattern": ATTRIBUTE, "maxLength": 128, "description": description})
}

fn any_text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn texts(description: &str) -> Value {
    json!({"type": "array", "items": {"type": "string"}, "description": description})
}

fn integer(description: &str) -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": MILLIS_MAX, "description": description})
}

fn time(description: &str) -> Value {
    let pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$";
    json!({"type": "string", "format": "date-time", "pattern": pattern, "description": description})
}
