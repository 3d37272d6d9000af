//! The table of settings: the only place that knows their names and defaults.
//!
//! The file, the environment, the flags, the help, "did you mean" and the test of the example file all read it.

/// What every variable of the environment begins with.
pub(crate) const VARIABLE_PREFIX: &str = "CALLBRIDGE_";

/// The path that stands for every property of librdkafka.
pub(crate) const ANY_KAFKA: &str = "kafka.*";

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Where it stands in the file. `[]` is each of an array of tables, `*` any name.
    pub(crate) path: &'static str,
    /// Its value when nobody gives one, as it would be written in the environment.
    pub(crate) default: Option<&'static str>,
    /// The flag that gives it.
    pub(crate) flag: Option<Flag>,
}

/// A flag of `serve` and `check`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Its name, without the dashes.
    pub(crate) name: &'static str,
    /// How it is given.
    pub(crate) shape: Shape,
    /// What its help says.
    pub(crate) help: &'static str,
}

/// How a flag is given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// Without a value: it says true.
    Switch,
    /// Once, with a value that the help calls by this name.
    Once(&'static str),
    /// As often as there are values. A variable holds them with commas between.
    Often(&'static str),
}

/// Every setting, in the order of the example file.
pub(crate) const SETTINGS: &[Setting] = &[
    flagged("ack", Some("journal"), "ack", Shape::Once("journal|broker|memory"), "When a callback is acknowledged"),
    flagged("workers", Some("0"), "workers", Shape::Once("N"), "Threads that serve callbacks; 0 means one a core"),
    plain("drain_seconds", "8"),
    flagged(
        "embedded_broker",
        Some("false"),
        "embedded-broker",
        Shape::Switch,
        "Run an in-process Kafka, for trying callbridge out; its address is printed",
    ),
    flagged(
        "callbacks.listen",
        Some("0.0.0.0:8080"),
        "listen",
        Shape::Once("ADDR"),
        "Where Tencent's callbacks come in",
    ),
    absent("callbacks.path"),
    plain("callbacks.sign_window_seconds", "60"),
    absent("callbacks.senders"),
    absent("callbacks.proxies"),
    plain("callbacks.proxy_protocol", "false"),
    absent("callbacks.tls.certificate_file"),
    absent("callbacks.tls.key_file"),
    absent("callbacks.tls.client_ca_file"),
    plain("callbacks.body_bytes_max", "262144"),
    plain("callbacks.bodies_bytes_max", "67108864"),
    plain("callbacks.connections_max", "10000"),
    absent("callbacks.connections_per_peer_max"),
    plain("callbacks.head_timeout_ms", "5000"),
    plain("callbacks.body_timeout_ms", "1000"),
    plain("callbacks.write_timeout_ms", "10000"),
    plain("callbacks.deadline_ms", "1500"),
    plain("callbacks.idle_timeout_seconds", "75"),
    plain("callbacks.connection_age_max_seconds", "3600"),
    plain("callbacks.keep_accepting_ms", "1000"),
    flagged(
        "admin.listen",
        Some("0.0.0.0:9464"),
        "admin-listen",
        Shape::Once("ADDR"),
        "Where probes and Prometheus come in",
    ),
    flagged(
        "apps[].sdk_app_id",
        None,
        "sdk-app-id",
        Shape::Often("ID"),
        "An application whose callbacks are taken, in place of the file's; may be repeated",
    ),
    flagged(
        "apps[].topic_prefix",
        Some("tencent-chat"),
        "topic-prefix",
        Shape::Once("PREFIX"),
        "What the names of the topics begin with, for applications that have no prefix of their own",
    ),
    flagged(
        "apps[].token_files",
        None,
        "token-file",
        Shape::Often("FILE"),
        "A file with tokens that sign callbacks, one a line, for applications that have none of their own; may be repeated",
    ),
    flagged(
        "kafka.bootstrap.servers",
        None,
        "brokers",
        Shape::Once("HOST:PORT,..."),
        "Kafka brokers to begin with; required unless the broker is embedded",
    ),
    flagged(
        ANY_KAFKA,
        None,
        "kafka",
        Shape::Often("NAME=VALUE"),
        "Any property of librdkafka; may be repeated. Passwords belong into the file or the environment",
    ),
    flagged(
        "topics.create",
        Some("false"),
        "create-topics",
        Shape::Switch,
        "Create the topics that are missing before taking callbacks",
    ),
    plain("topics.partitions", "6"),
    absent("topics.replication_factor"),
    absent("topics.min_insync_replicas"),
    absent("topics.retention_ms"),
    plain("topics.commands", "all"),
    plain("publish.unreported_max_seconds", "120"),
    plain("envelope.mode", "structured"),
    flagged("blocklist.files", None, "blocklist", Shape::Often("FILE"), "A blocklist; may be repeated"),
    plain("decide.all_refused", "list"),
    plain("decide.before_loaded", "allow"),
    plain("decide.commands", "OfficialAccount.CallbackBeforeAddSubscriber"),
    plain("queue.bytes_max", "67108864"),
    plain("queue.captures_max", "100000"),
    plain("queue.waiting_bytes_max", "16777216"),
    flagged("journal.dir", Some("/var/lib/callbridge"), "data-dir", Shape::Once("DIR"), "Where the journal lives"),
    plain("journal.segment_bytes", "16777216"),
    absent("journal.quota_bytes"),
    plain("journal.free_bytes_min", "16777216"),
    plain("journal.on_corruption", "refuse"),
    plain("log.format", "auto"),
    plain("log.filter", "info"),
];

/// Without these more senders are let in: where one is given by a variable that is empty, somebody meant a check and would have none.
///
/// Not among them is `callbacks.proxies`: without it no proxy is believed, so fewer are let in.
pub(crate) const SECURITY: &[&str] = &[
    "callbacks.path",
    "callbacks.senders",
    "callbacks.tls.certificate_file",
    "callbacks.tls.key_file",
    "callbacks.tls.client_ca_file",
    "apps[].token_files",
];

impl Setting {
    /// The variables that give it: one named for its path, one for its flag. Properties of Kafka have one each instead.
    pub(crate) fn variables(&self) -> Vec<String> {
        if self.path == ANY_KAFKA {
            return Vec::new();
        }
        let by_path = (!self.path.contains("[]")).then(|| variable(self.path));
        let by_flag = self.flag.map(|flag| variable(flag.name));
        let mut names: Vec<String> = by_flag.into_iter().chain(by_path).collect();
        names.dedup();
        names
    }
}

/// The one of `known` that `name` is most likely a misspelling of, or a name in the wrong section, if there is just one.
pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // Three letters wrong in a long name is a slip; in a short one it is another name.
    let distance_max = (name.len() / 4).min(3);
    let least = known.iter().map(|other| edits(name, other)).min()?;
    let is_slip = least <= distance_max;
    let mut likely = known.iter().filter(|other| match is_slip {
        true => edits(name, other) == least,
        false => last_part(other) == last_part(name),
    });
    let first = likely.next();
    if likely.next().is_some() { None } else { first.copied() }
}

/// The path of every setting.
pub(crate) fn paths() -> Vec<&'static str> {
    SETTINGS.iter().map(|setting| setting.path).collect()
}

const fn flagged(
    path: &'static str,
    default: Option<&'static str>,
    name: &'static str,
    shape: Shape,
    help: &'static str,
) -> Setting {
    Setting { path, default, flag: Some(Flag { name, shape, help }) }
}

const fn plain(path: &'static str, default: &'static str) -> Setting {
    Setting { path, default: Some(default), flag: None }
}

const fn absent(path: &'static str) -> Setting {
    Setting { path, default: None, flag: None }
}

fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.to_uppercase().replace(['.', '-'], "_"))
}

fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// How many letters must be put in, left out or replaced to make `right` of `left`.
fn edits(left: &str, right: &str) -> usize {
    let mut above: Vec<usize> = (0..=right.chars().count()).collect();
    for (row, letter) in left.chars().enumerate() {
        let mut current = vec![row + 1];
        let mut before = row + 1;
        for ((other, diagonal), over) in right.chars().zip(&above).zip(above.iter().skip(1)) {
            before = (diagonal + usize::from(letter != other)).min(over + 1).min(before + 1);
            current.push(before);
        }
        above = current;
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::config::setting::SETTINGS;
    use crate::config::setting::edits;
    use crate::config::setting::nearest;
    use crate::config::setting::paths;

    #[test]
    fn no_two_settings_share_a_path_a_flag_or_a_variable() {
        let names: Vec<String> = SETTINGS
            .iter()
            .flat_map(|setting| {
                let flag = setting.flag.map(|flag| format!("--{}", flag.name));
                setting.variables().into_iter().chain(flag).chain([setting.path.to_owned()])
            })
            .collect();
        let distinct: BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }

    #[test]
    fn edits_are_counted() {
        for (left, right, expected) in
            [("", "", 0), ("ack", "ack", 0), ("ack", "akc", 2), ("", "ab", 2), ("listn", "listen", 1)]
        {
            assert_eq!(edits(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn a_near_name_is_suggested_and_an_ambiguous_or_far_one_is_not() {
        for (given, expected) in [
            ("callbacks.listn", Some("callbacks.listen")),
            ("drain_second", Some("drain_seconds")),
            ("callbacks.drain_seconds", Some("drain_seconds")),
            ("apps[].sdkappid", Some("apps[].sdk_app_id")),
            ("kafak.bootstrap.servers", Some("kafka.bootstrap.servers")),
            ("listen", None),
            ("tls.certificate", None),
        ] {
            assert_eq!(nearest(given, &paths()), expected, "{given}");
        }
    }
}
