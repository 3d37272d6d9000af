//! The flags of `serve` and `check`, as they were written. Their values are checked with those of the file and the environment.

use std::fmt;
use std::path::PathBuf;

use toml::Value;

/// The values of the command line. They stay text here, so that their errors are reported together with all others.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct Flags {
    /// The config file (TOML) [env: CALLBRIDGE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// When a callback is acknowledged [setting: ack] [default: journal] [env: CALLBRIDGE_ACK]
    #[arg(long, value_name = "journal|broker|memory")]
    ack: Option<String>,
    /// Threads that serve callbacks; 0 means one a core [setting: workers] [default: 0] [env: CALLBRIDGE_WORKERS]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Run an in-process Kafka broker for evaluation; its address is printed [setting: embedded_broker] [default: false] [env:
    /// CALLBRIDGE_EMBEDDED_BROKER]
    #[arg(long)]
    embedded_broker: bool,
    /// The address of the callback listener [setting: callbacks.listen] [default: 0.0.0.0:8080] [env: CALLBRIDGE_LISTEN]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The address of the admin listener: probes and metrics [setting: admin.listen] [default: 0.0.0.0:9464] [env: CALLBRIDGE_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// An application whose callbacks are accepted, in place of those of the file; may be repeated [setting: apps[].sdk_app_id] [env:
    /// CALLBRIDGE_SDK_APP_ID, with commas between]
    #[arg(long, value_name = "ID")]
    sdk_app_id: Vec<String>,
    /// The prefix of topics, for applications without their own [setting: apps[].topic_prefix] [default: tencent-chat] [env:
    /// CALLBRIDGE_TOPIC_PREFIX]
    #[arg(long, value_name = "PREFIX")]
    topic_prefix: Option<String>,
    /// A file with tokens that sign callbacks, one a line, for applications without their own; may be repeated [setting:
    /// apps[].token_files] [env: CALLBRIDGE_TOKEN_FILE, with commas between]
    #[arg(long, value_name = "FILE")]
    token_file: Vec<String>,
    /// The bootstrap servers of Kafka; required unless the broker is embedded [setting: kafka.bootstrap.servers] [env: CALLBRIDGE_BROKERS]
    #[arg(long, value_name = "HOST:PORT,...")]
    brokers: Option<String>,
    /// Any property of librdkafka; may be repeated. Passwords belong in the file or the environment [setting: kafka.*] [env:
    /// CALLBRIDGE_KAFKA_NAME, with '_' for each '.']
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) kafka: Vec<String>,
    /// Create missing topics before accepting callbacks [setting: topics.create] [default: false] [env: CALLBRIDGE_CREATE_TOPICS]
    #[arg(long)]
    create_topics: bool,
    /// A blocklist file; may be repeated [setting: blocklist.files] [env: CALLBRIDGE_BLOCKLIST, with commas between]
    #[arg(long, value_name = "FILE")]
    blocklist: Vec<String>,
    /// The directory of the journal [setting: journal.dir] [default: /var/lib/callbridge] [env: CALLBRIDGE_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

/// A flag that gives one setting.
pub(super) struct FlagValue {
    /// Without its dashes.
    pub(super) name: &'static str,
    /// The setting, by its path in the file.
    pub(super) path: &'static str,
    /// Absent where the flag was not given.
    pub(super) value: Option<Value>,
}

impl Flags {
    /// Every flag but `--config` and `--kafka`.
    pub(super) fn all(&self) -> [FlagValue; 12] {
        let one = |value: &Option<String>| value.clone().map(Value::from);
        let switch = |is_given: bool| is_given.then_some(Value::Boolean(true));
        let several = |values: &[String]| (!values.is_empty()).then(|| Value::from(values.to_vec()));
        [
            ("ack", "ack", one(&self.ack)),
            ("workers", "workers", one(&self.workers)),
            ("embedded-broker", "embedded_broker", switch(self.embedded_broker)),
            ("listen", "callbacks.listen", one(&self.listen)),
            ("admin-listen", "admin.listen", one(&self.admin_listen)),
            ("sdk-app-id", "apps[].sdk_app_id", several(&self.sdk_app_id)),
            ("topic-prefix", "apps[].topic_prefix", one(&self.topic_prefix)),
            ("token-file", "apps[].token_files", several(&self.token_file)),
            ("brokers", "kafka.bootstrap.servers", one(&self.brokers)),
            ("create-topics", "topics.create", switch(self.create_topics)),
            ("blocklist", "blocklist.files", several(&self.blocklist)),
            ("data-dir", "journal.dir", one(&self.data_dir)),
        ]
        .map(|(name, path, value)| FlagValue { name, path, value })
    }
}

impl fmt::Debug for Flags {
    /// Only the file: values may be secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Flags").field("config", &self.config).finish_non_exhaustive()
    }
}
