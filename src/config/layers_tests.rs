//! Tests of the sources of settings: the file, the environment and flags, and their precedence.

use crate::config;
use crate::config::CONFIG_VARIABLE;
use crate::config::flags::Flags;
use crate::config::problem::Origin;
use crate::config::tests::EXAMPLE;
use crate::config::tests::Given;
use crate::config::tests::LEAST;
use crate::config::tests::app;
use crate::config::tests::lines;
use crate::config::tests::properties;
use crate::config::tests::variables;
use crate::config::tests::with_file;
use clap::Args;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use tempfile::TempDir;

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let mut given = Given { file: &format!("workers = 1\n{LEAST}"), ..Given::default() };
    assert_eq!(given.config().workers, 1);
    given.variables = &[("CALLBRIDGE_WORKERS", "2")];
    assert_eq!(given.config().workers, 2);
    given.flags = &[("workers", "3")];
    assert_eq!(given.config().workers, 3);
}

#[test]
fn every_setting_and_every_flag_has_its_variable() {
    for name in variables() {
        match (Given { file: LEAST, variables: &[(&name, "x")], ..Given::default() }).load() {
            Ok(config) => assert!(!config.warnings.iter().any(|warning| warning.contains(&name)), "{name}"),
            Err(problems) => assert_eq!(problems[0].origin, Some(Origin::Variable(name.clone())), "{problems:?}"),
        }
    }
}

#[test]
fn the_help_of_each_flag_names_its_setting_its_default_and_its_variable() {
    let command = Flags::augment_args(clap::Command::new("serve"));
    command.clone().debug_assert();
    let help = |flag: &str| {
        let argument = command.get_arguments().find(|argument| argument.get_long() == Some(flag)).unwrap();
        argument.get_help().unwrap().to_string()
    };
    let flags = Flags::default().all();
    assert_eq!(command.get_arguments().count(), flags.len() + 2);
    assert!(help("config").ends_with("[env: CALLBRIDGE_CONFIG]"));
    for flag in flags {
        let help = help(flag.name);
        assert!(help.contains(&format!("[setting: {}]", flag.path)), "{help}");
        let variable = flag.name.to_uppercase().replace('-', "_");
        assert!(help.contains(&format!("[env: CALLBRIDGE_{variable}")), "{help}");
        let default = EXAMPLE.lines().find_map(|line| {
            let key = flag.path.rsplit('.').next().unwrap();
            line.strip_prefix(&format!("{key} = "))
        });
        let default = default.filter(|_| !flag.path.ends_with("listen") && flag.path != "apps[].sdk_app_id");
        if let Some(default) = default {
            assert!(help.contains(&format!("[default: {}]", default.trim_matches('"'))), "{help}");
        }
    }
}

#[test]
fn a_configuration_can_be_made_of_variables_alone() {
    let variables = [
        ("CALLBRIDGE_SDK_APP_ID", "1, 2"),
        ("CALLBRIDGE_TOPIC_PREFIX", "im"),
        ("CALLBRIDGE_TOKEN_FILE", "t"),
        ("CALLBRIDGE_BROKERS", "a:1,b:2"),
        ("CALLBRIDGE_CALLBACKS_LISTEN", "127.0.0.1:0"),
        ("CALLBRIDGE_ADMIN_LISTEN", "127.0.0.1:1"),
        ("CALLBRIDGE_CREATE_TOPICS", "true"),
        ("CALLBRIDGE_BLOCKLIST", "a.txt,b.txt"),
        ("CALLBRIDGE_KAFKA_SASL_PASSWORD", "hidden"),
        ("CALLBRIDGE_CONFIG", ""),
        ("PATH", "/bin"),
    ];
    let variables = variables.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let config = config::load(&Flags::default(), variables).unwrap();
    assert_eq!(config.apps, [app(1, "im", &["t"]), app(2, "im", &["t"])]);
    assert_eq!(config.callbacks.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:1");
    assert!(config.topics.create);
    assert_eq!(config.blocklist.files, [PathBuf::from("a.txt"), PathBuf::from("b.txt")]);
    let expected = [("bootstrap.servers", "a:1,b:2"), ("sasl.password", "hidden")];
    assert_eq!(config.kafka.properties, properties(&expected));
    assert!(!format!("{config:?}").contains("hidden"));
}

#[test]
fn the_environment_can_name_the_config_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("other.toml");
    fs::write(&file, format!("workers = 7\n{LEAST}")).unwrap();
    let variables = [(OsString::from(CONFIG_VARIABLE), file.into_os_string())];
    assert_eq!(config::load(&Flags::default(), variables.into_iter()).unwrap().workers, 7);
}

#[test]
fn a_variable_that_is_empty_counts_as_absent() {
    let given = Given { file: LEAST, variables: &[("CALLBRIDGE_WORKERS", "")], ..Given::default() };
    assert!(given.load().is_ok());
}

#[test]
fn a_setting_that_is_missing_beside_a_variable_or_a_flag_is_named() {
    let variables = &[("CALLBRIDGE_CALLBACKS_TLS_KEY_FILE", "k"), ("CALLBRIDGE_CALLBACKS_BODY_BYTES_MAX", "900000")];
    let flags = &[("admin-listen", "127.0.0.1:8080"), ("listen", "127.0.0.1:8080")];
    let given = Given { file: &format!("queue.bytes_max = 800000\n{LEAST}"), variables, flags };
    assert_eq!(
        given.problems(),
        [
            "callbridge.toml:1: queue.bytes_max: must not be below callbacks.body_bytes_max: the longest body would never fit",
            "CALLBRIDGE_CALLBACKS_TLS_KEY_FILE: callbacks.tls.certificate_file: is missing: callbacks.tls needs it",
            "--admin-listen: must not be the address of callbacks.listen",
        ]
    );
    let given = Given { file: LEAST, variables: &[("CALLBRIDGE_DRAIN_SECONDS", "1")], ..Given::default() };
    let why = "must be below drain_seconds: a stop would have no time left to drain";
    assert_eq!(given.problems(), [format!("CALLBRIDGE_DRAIN_SECONDS: callbacks.keep_accepting_ms: {why}")]);
}

#[test]
fn a_setting_given_by_both_its_variables_is_a_mistake() {
    let variables = &[("CALLBRIDGE_LISTEN", "0.0.0.0:1"), ("CALLBRIDGE_CALLBACKS_LISTEN", "0.0.0.0:2")];
    let given = Given { file: LEAST, variables, ..Given::default() };
    assert_eq!(given.problems(), ["CALLBRIDGE_LISTEN: is given twice, first by CALLBRIDGE_CALLBACKS_LISTEN"]);
}

#[test]
fn a_value_that_is_not_unicode_is_a_mistake() {
    let load = |name: &str| {
        let least = [("CALLBRIDGE_SDK_APP_ID", "1"), ("CALLBRIDGE_BROKERS", "a:1")];
        let least = least.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let broken = (OsString::from(name), OsString::from_vec(vec![0xff]));
        config::load(&Flags::default(), least.into_iter().chain([broken]))
    };
    for name in ["CALLBRIDGE_ACK", "CALLBRIDGE_WORKERS", "CALLBRIDGE_BLOCKLIST", "CALLBRIDGE_KAFKA_SASL_PASSWORD"] {
        assert_eq!(lines(&load(name).unwrap_err()), [format!("{name}: must be UTF-8")]);
    }
    assert_eq!(load("CALLBRIDGE_NONSENSE").unwrap().warnings[0], "CALLBRIDGE_NONSENSE: no such setting");
}

#[test]
fn a_misnamed_variable_is_a_warning() {
    let variables = &[
        ("CALLBRIDGE_ADMIN_LISTN", "0.0.0.0:1"),
        ("CALLBRIDGE_LISTENN", "0.0.0.0:1"),
        ("CALLBRIDGE_DRAIN_SECOND", "1"),
        ("CALLBRIDGE_NONSENSE", "1"),
        ("CALLBRIDGE_CALLBACKS", "1"),
        ("CALLBRIDGE_KAFKA_", "1"),
        ("CALLBRIDGE_workers", "1"),
        ("CALLBRIDGE_CALLBACKS.LISTEN", "1"),
        ("CALLBRIDGE_ADMIN-LISTEN", "1"),
        ("CALLBRIDGE_CALLBACKS_TLS", "1"),
        ("CALLBRIDGE_APPS_SDK_APP_ID", "1"),
    ];
    let warnings = Given { file: LEAST, variables, ..Given::default() }.config().warnings;
    let unknown: BTreeSet<&str> =
        warnings.iter().filter(|line| line.contains("no such setting")).map(String::as_str).collect();
    let expected = [
        "CALLBRIDGE_ADMIN-LISTEN: no such setting",
        "CALLBRIDGE_CALLBACKS.LISTEN: no such setting",
        "CALLBRIDGE_CALLBACKS_TLS: no such setting",
        "CALLBRIDGE_workers: no such setting",
        "CALLBRIDGE_ADMIN_LISTN: no such setting; did you mean CALLBRIDGE_ADMIN_LISTEN?",
        "CALLBRIDGE_APPS_SDK_APP_ID: no such setting",
        "CALLBRIDGE_CALLBACKS: no such setting",
        "CALLBRIDGE_DRAIN_SECOND: no such setting; did you mean CALLBRIDGE_DRAIN_SECONDS?",
        "CALLBRIDGE_KAFKA_: no such setting",
        "CALLBRIDGE_LISTENN: no such setting; did you mean CALLBRIDGE_LISTEN?",
        "CALLBRIDGE_NONSENSE: no such setting",
    ];
    assert_eq!(unknown, BTreeSet::from(expected));
}

#[test]
fn service_variables_of_kubernetes_give_no_warning() {
    let least = Given { file: LEAST, ..Given::default() }.config();
    for service in ["CALLBRIDGE", "CALLBRIDGE_KAFKA", "CALLBRIDGE_ADMIN", "CALLBRIDGE_CALLBACKS_2", "CALLBRIDGE_LISTEN"]
    {
        for (suffix, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "8080"),
            ("SERVICE_PORT_CALLBACKS", "8080"),
            ("SERVICE_PORT_METRICS_TLS", "9464"),
            ("PORT", "tcp://10.0.0.1:8080"),
            ("PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("PORT_8080_TCP_PROTO", "tcp"),
            ("PORT_8080_TCP_PORT", "8080"),
            ("PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("PORT_53_UDP", "udp://10.0.0.1:53"),
        ] {
            let name = format!("{service}_{suffix}");
            let config = Given { file: LEAST, variables: &[(&name, value)], ..Given::default() }.config();
            assert_eq!(format!("{config:?}"), format!("{least:?}"), "{name}");
        }
    }
}

#[test]
fn applications_of_flags_replace_those_of_the_file() {
    let text = "[[apps]]\nsdk_app_id = 1\ntopic_prefix = \"own\"\n[[apps]]\nsdk_app_id = 2\n\
                [kafka]\n\"bootstrap.servers\" = \"a:1\"";
    let apps = |flags: &[(&'static str, &'static str)]| Given { file: text, flags, ..Given::default() }.config().apps;

    assert_eq!(apps(&[("topic-prefix", "default")]), [app(1, "own", &[]), app(2, "default", &[])]);

    let flags = &[("topic-prefix", "default"), ("sdk-app-id", "3"), ("sdk-app-id", "4")];
    assert_eq!(apps(flags), [app(3, "default", &[]), app(4, "default", &[])]);

    let flags = &[("sdk-app-id", "3"), ("sdk-app-id", "3"), ("sdk-app-id", "x")];
    let problems = Given { file: text, flags, ..Given::default() }.problems();
    assert_eq!(
        problems,
        ["--sdk-app-id: application 3 is given twice", "--sdk-app-id: must be a whole number above 0"]
    );
}

#[test]
fn token_files_of_flags_are_for_applications_that_have_none_of_their_own() {
    let text = "[[apps]]\nsdk_app_id = 1\ntoken_files = [\"/own\", \"/old\"]\n[[apps]]\nsdk_app_id = 2\n\
                [kafka]\n\"bootstrap.servers\" = \"a:1\"";
    let apps = |flags: &[(&'static str, &'static str)]| Given { file: text, flags, ..Given::default() }.config().apps;
    let prefix = "tencent-chat";
    assert_eq!(apps(&[]), [app(1, prefix, &["/own", "/old"]), app(2, prefix, &[])]);
    let tokens = ("token-file", "t");
    assert_eq!(apps(&[tokens, ("token-file", "u")]), [app(1, prefix, &["/own", "/old"]), app(2, prefix, &["t", "u"])]);
    assert_eq!(apps(&[tokens, ("sdk-app-id", "3"), ("sdk-app-id", "4")]), [3, 4].map(|id| app(id, prefix, &["t"])));
}

#[test]
fn more_than_ten_applications_keep_their_order() {
    let apps: String = (1..=12).map(|id| format!("[[apps]]\nsdk_app_id = {id}\n")).collect();
    let flags = &[("brokers", "a:1")];
    let config = Given { file: &apps, flags, ..Given::default() }.config();
    assert!(config.apps.iter().map(|app| app.sdk_app_id).eq(1..=12));
}

#[test]
fn paths_of_the_file_are_relative_to_it_and_those_of_flags_are_not() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("callbridge.toml");
    let text = format!("blocklist.files = [\"a.txt\", \"/b.txt\"]\njournal.dir = \"data\"\n{LEAST}");
    fs::write(&file, text).unwrap();
    let load = |given: &[(&str, &str)]| config::load(&with_file(&file, given), std::iter::empty()).unwrap();

    let of_file = load(&[]);
    assert_eq!(of_file.blocklist.files, [folder.path().join("a.txt"), PathBuf::from("/b.txt")]);
    assert_eq!(of_file.journal.dir, folder.path().join("data"));

    let of_flags = load(&[("blocklist", "a.txt"), ("data-dir", "data")]);
    assert_eq!(of_flags.blocklist.files, [PathBuf::from("a.txt")]);
    assert_eq!(of_flags.journal.dir, PathBuf::from("data"));
}
