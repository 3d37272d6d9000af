//! The rules of the source, as tests: which module may name which, what is pure, who alone reads the clock or names rdkafka, and how large
//! the first pages are.
//!
//! They read text, which is crude and enough. Test modules are left out: they may name what they test with.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Each module at the top of `src`, and the modules of this crate that it names. Each names only modules above it.
const NAMES: &[(&str, &[&str])] = &[
    // Words, and stages without I/O.
    ("clock", &[]),
    ("command", &[]),
    ("invisible", &[]),
    ("request", &[]),
    ("sender", &[]),
    ("refusal", &["request"]),
    ("ledger", &["command", "refusal"]),
    ("auth", &["clock", "invisible", "refusal", "request"]),
    ("bearer", &["invisible"]),
    ("body", &[]),
    ("parse", &["body", "refusal"]),
    ("decide", &["clock", "command", "invisible"]),
    ("question", &["body", "clock", "command", "decide", "parse", "refusal"]),
    ("capture", &["auth", "clock", "command", "decide", "refusal"]),
    ("record", &["auth", "command"]),
    ("share", &["record"]),
    ("normalise", &["auth", "body", "capture", "clock", "command", "decide", "record", "request"]),
    // Edges. Intake and publish meet in the journal only.
    ("lifecycle", &[]),
    ("systemd", &[]),
    ("throttle", &[]),
    ("metrics", &["clock", "command", "ledger", "refusal"]),
    ("logging", &["clock"]),
    (
        "journal",
        &[
            "auth",
            "capture",
            "clock",
            "command",
            "decide",
            "ledger",
            "lifecycle",
            "metrics",
            "record",
            "refusal",
            "request",
            "share",
            "throttle",
        ],
    ),
    (
        "intake",
        &[
            "auth",
            "capture",
            "clock",
            "command",
            "decide",
            "journal",
            "ledger",
            "metrics",
            "normalise",
            "parse",
            "question",
            "refusal",
            "request",
        ],
    ),
    (
        "http",
        &[
            "auth",
            "capture",
            "clock",
            "command",
            "decide",
            "intake",
            "ledger",
            "lifecycle",
            "refusal",
            "request",
            "sender",
            "throttle",
        ],
    ),
    ("publish", &["capture", "clock", "journal", "lifecycle", "metrics", "normalise", "record", "refusal", "share"]),
    ("blocklist", &["clock", "decide", "lifecycle", "metrics", "publish"]),
    ("follow", &["auth", "bearer", "blocklist", "clock", "decide", "http", "lifecycle", "metrics", "systemd"]),
    (
        "admin",
        &[
            "bearer",
            "blocklist",
            "clock",
            "decide",
            "journal",
            "ledger",
            "lifecycle",
            "metrics",
            "publish",
            "refusal",
            "request",
            "systemd",
        ],
    ),
    ("send", &["auth", "clock", "command", "http"]),
    // Wiring.
    (
        "config",
        &["blocklist", "capture", "command", "decide", "follow", "journal", "normalise", "publish", "record", "sender"],
    ),
    (
        "app",
        &[
            "admin",
            "auth",
            "blocklist",
            "capture",
            "clock",
            "config",
            "decide",
            "follow",
            "http",
            "intake",
            "journal",
            "ledger",
            "lifecycle",
            "logging",
            "metrics",
            "normalise",
            "publish",
            "record",
            "sender",
            "systemd",
            "throttle",
        ],
    ),
    (
        "cli",
        &[
            "admin",
            "app",
            "auth",
            "bearer",
            "blocklist",
            "clock",
            "command",
            "config",
            "decide",
            "follow",
            "http",
            "journal",
            "logging",
            "metrics",
            "normalise",
            "publish",
            "record",
            "refusal",
            "request",
            "send",
        ],
    ),
];

/// These do no I/O, read no clock, write no log and wait for nothing.
const PURE: &[&str] = &[
    "command",
    "invisible",
    "request",
    "sender",
    "refusal",
    "ledger",
    "auth",
    "bearer",
    "body",
    "parse",
    "decide",
    "question",
    "capture",
    "record",
    "share",
    "normalise",
];

const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "tokio",
    "hyper",
    "rdkafka",
    "tracing",
    "prometheus",
    "std::env",
    "std::fs",
    "std::io",
    "std::net::Tcp",
    "std::net::ToSocketAddrs",
    "std::net::Udp",
    "std::process",
    "std::thread",
    "clock::monotonic",
    "clock::wall",
    "println!",
];

/// What reads a clock. `elapsed` asks for the time without saying so.
const CLOCKS: &[&str] = &["Instant::now", "SystemTime::now", "Zoned::now", "Timestamp::now", ".elapsed()"];

const RDKAFKA: &[&str] = &[
    "blocklist/consumer.rs",
    "blocklist/describe.rs",
    "blocklist/inspect.rs",
    "blocklist/producer.rs",
    "publish/cluster.rs",
    "publish/embedded.rs",
    "publish/kafka.rs",
    "publish/topics.rs",
];

/// The files that may have a `static`. None of them holds state: the table of invisible characters, and the allocator.
const STATIC: &[&str] = &["invisible.rs", "main.rs"];

/// The pages that everybody reads first, and the most that each may hold, in bytes.
const PAGES: &[(&str, u64)] =
    &[("README.md", 8 * 1024), ("ARCHITECTURE.md", 6 * 1024), ("benches/RESULTS.md", 4 * 1024)];

#[test]
fn every_module_stands_in_the_table() {
    let in_table: BTreeSet<String> = NAMES.iter().map(|(module, _)| (*module).to_owned()).collect();
    assert_eq!(in_table.len(), NAMES.len(), "a module stands there twice");
    let module_of = |file: &PathBuf| file.components().next().unwrap().as_os_str().to_str().unwrap().replace(".rs", "");
    let mut in_src: BTreeSet<String> = sources().iter().map(module_of).collect();
    for crate_root in ["lib", "main"] {
        assert!(in_src.remove(crate_root));
    }
    assert_eq!(in_src, in_table);
}

#[test]
fn modules_name_only_what_the_table_says_and_only_what_is_above_them() {
    for (index, (module, expected)) in NAMES.iter().enumerate() {
        let code = code_of_module(module);
        for hidden in ["crate::{", "crate::*", "super::super", "super::{"] {
            assert!(!code.contains(hidden), "{module}: {hidden} hides what is named");
        }
        let named: BTreeSet<&str> =
            code.split("crate::").skip(1).map(first_word).filter(|named| named != module).collect();
        assert_eq!(named, expected.iter().copied().collect(), "{module}");
        let above: BTreeSet<&str> = NAMES[..index].iter().map(|(module, _)| *module).collect();
        assert!(named.is_subset(&above), "{module} names {:?} below it", named.difference(&above));
    }
}

#[test]
fn a_module_of_one_file_does_not_reach_out_by_super() {
    for (module, _named) in NAMES {
        let file = PathBuf::from(format!("{module}.rs"));
        if sources().contains(&file) {
            assert!(!code_of(&file).contains("super::"), "{module}: write crate::");
        }
    }
}

#[test]
fn pure_modules_stay_pure() {
    for module in PURE {
        let code = code_of_module(module);
        for word in IMPURE.iter().chain(CLOCKS) {
            assert!(!code.contains(word), "{module} is pure, but says {word}");
        }
    }
}

#[test]
fn only_clock_reads_the_clock() {
    for file in sources() {
        let reads = CLOCKS.iter().find(|word| code_of(&file).contains(**word));
        assert!(reads.is_none() || file == Path::new("clock.rs"), "{}: {}", file.display(), reads.unwrap());
    }
}

#[test]
fn only_the_listed_files_name_rdkafka() {
    let naming = sources().into_iter().filter(|file| code_of(file).contains("rdkafka::"));
    assert_eq!(naming.collect::<Vec<_>>(), RDKAFKA.iter().map(PathBuf::from).collect::<Vec<_>>());
}

#[test]
fn every_type_name_is_declared_once() {
    let mut declared: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in sources() {
        for name in fs::read_to_string(src().join(&file)).unwrap().lines().filter_map(declared_type) {
            declared.entry(name.to_owned()).or_default().push(file.clone());
        }
    }
    declared.retain(|_, files| files.len() > 1);
    assert!(declared.is_empty(), "declared more than once: {declared:#?}");
}

#[test]
fn files_of_a_folder_do_not_import_each_other_in_a_cycle() {
    for (folder, siblings) in siblings() {
        let path = folder.to_str().unwrap().replace('/', "::");
        let mut named: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for module in &siblings {
            let (code, own) =
                (code_of_module(&format!("{}/{module}", folder.display())), own_code(&folder.join(module)));
            let names = |other: &&String| {
                *other != module
                    && (code.contains(&format!("crate::{path}::{other}::"))
                        || own.contains(&format!("super::{other}::")))
            };
            named.insert(module, siblings.iter().filter(names).map(String::as_str).collect());
        }
        // Whoever names none of the others, or is named by none, is in no cycle.
        while let Some(outside) = named.iter().find_map(|(module, names)| {
            (names.is_empty() || named.values().all(|names| !names.contains(module))).then_some(*module)
        }) {
            named.remove(outside);
            for names in named.values_mut() {
                names.remove(outside);
            }
        }
        assert!(named.is_empty(), "a cycle in {}: {named:?}", folder.display());
    }
}

#[test]
fn names_of_tests_have_at_most_80_characters() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["src", "tests"].iter().flat_map(|folder| rust_files(&root.join(folder))) {
        for name in
            fs::read_to_string(&file).unwrap().split("#[test]").skip(1).filter_map(|rest| rest.split("fn ").nth(1))
        {
            assert!(first_word(name).len() <= 80, "{}: {}", file.display(), first_word(name));
        }
    }
}

#[test]
fn only_constants_are_static() {
    let is_static = |line: &str| line.trim_start().trim_start_matches("pub(crate) ").starts_with("static ");
    let has_static = |file: &PathBuf| code_of(file).lines().any(is_static);
    let found: BTreeSet<PathBuf> = sources().into_iter().filter(has_static).collect();
    let allowed: BTreeSet<PathBuf> = STATIC.iter().map(PathBuf::from).collect();
    assert_eq!(found, allowed);
}

#[test]
fn the_first_pages_are_short() {
    for (page, bytes_max) in PAGES {
        let bytes = fs::metadata(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap().len();
        assert!(bytes <= *bytes_max, "{page} has {bytes} bytes, more than {bytes_max}");
    }
}

#[test]
fn the_reading_order_names_files_that_exist_and_counts_them() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let section = page.split_once("## Reading order").unwrap().1.split("\n## ").next().unwrap();
    let files: Vec<&str> = section.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs")).collect();
    for file in &files {
        assert!(sources().contains(&PathBuf::from(file)), "there is no {file}");
    }
    assert_eq!(files.iter().collect::<BTreeSet<_>>().len(), files.len(), "a file stands there twice");
    assert!(section.contains(&format!(": {} files of `src`", files.len())), "{} files", files.len());
}

#[test]
fn every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "tests", "benches"] {
        for file in rust_files(&root.join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("//! "), "{}", file.display());
        }
    }
}

/// Every file of `src`, as a path within it, sorted.
fn sources() -> Vec<PathBuf> {
    let files = rust_files(&src());
    let mut files: Vec<PathBuf> = files.iter().map(|file| file.strip_prefix(src()).unwrap().to_owned()).collect();
    files.sort();
    files
}

/// The modules of each folder of `src`.
fn siblings() -> BTreeMap<PathBuf, BTreeSet<String>> {
    let mut folders: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for file in sources() {
        for path in file.ancestors().filter(|path| path.components().count() > 1 && !path.ends_with("mod.rs")) {
            let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
            folders.entry(path.parent().unwrap().to_owned()).or_default().insert(module);
        }
    }
    folders
}

/// The code of a module without that of its children.
fn own_code(module: &Path) -> String {
    let files = [module.with_extension("rs"), module.join("mod.rs")];
    files.iter().filter(|file| src().join(file).exists()).map(|file| code_of(file)).collect()
}

/// The type that a line declares. A `type` that stands within something belongs to that.
fn declared_type(line: &str) -> Option<&str> {
    if line.starts_with(' ') && line.trim_start().starts_with("type ") {
        return None;
    }
    let item = line.trim_start();
    let item = if item.starts_with("pub") { item.split_once(' ')?.1 } else { item };
    let (kind, rest) = item.split_once(' ')?;
    ["struct", "enum", "trait", "type"].contains(&kind).then(|| first_word(rest))
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The code of a module and its children.
fn code_of_module(module: &str) -> String {
    let of_module = |file: &PathBuf| file.starts_with(module) || *file == Path::new(module).with_extension("rs");
    sources().iter().filter(|file| of_module(file)).map(|file| code_of(file)).collect()
}

/// The code of one file: without comment lines, and without its tests, which stand at its end or in a file of their own.
fn code_of(file: &Path) -> String {
    if file.to_string_lossy().ends_with("tests.rs") {
        return String::new();
    }
    let text = fs::read_to_string(src().join(file)).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

fn first_word(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap()
}
