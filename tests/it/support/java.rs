//! The Java that runs Kafka, and Kafka's jars, which `make kafka` fetches.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Names the version, and is what `make kafka` reads.
const POM: &str = include_str!("../../kafka/pom.xml");

/// For a quick start, not for speed. The heap is for the thousands of partitions of a whole run: with 256 MiB a broker collects garbage
/// without end from 3900 on.
const JAVA: [&str; 6] = [
    "-Xms64m",
    "-Xmx1g",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];

/// Says what is missing where Kafka cannot run. Fetches the jars when only they are.
pub(crate) fn available() -> Result<(), String> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    FOUND.get_or_init(|| java_17().and_then(|()| fetch_jars())).clone()
}

/// What follows `java` to run `class` from the jars; the class's own arguments come after.
pub(crate) fn args(class: &str) -> Vec<String> {
    let jars = format!("{}/libs/*", home().display());
    // A file that is not there would also cost the archive that Java has of its own classes.
    let archive = home().join("classes.jsa");
    let archive = archive.is_file().then(|| format!("-XX:SharedArchiveFile={}", archive.display()));
    let options = JAVA.into_iter().map(str::to_owned).chain(archive);
    options.chain(["-cp", &jars, class].map(str::to_owned)).collect()
}

fn home() -> PathBuf {
    let version = POM.split("<kafka.version>").nth(1).and_then(|rest| rest.split('<').next()).unwrap();
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("target/kafka-{version}"))
}

/// Kafka 4 needs Java 17.
fn java_17() -> Result<(), String> {
    let output = Command::new("java").arg("-version").output().map_err(|_missing| "there is no java".to_owned())?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text.split('"').nth(1).and_then(|version| version.split(['.', '-']).next()?.parse().ok());
    if version.is_some_and(|major: u32| major >= 17) { Ok(()) } else { Err(format!("java is not 17 or newer: {text}")) }
}

fn fetch_jars() -> Result<(), String> {
    if home().join("libs").is_dir() {
        return Ok(());
    }
    let make = Command::new("make").arg("kafka").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = make.map_err(|error| format!("cannot run make kafka: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("make kafka: {}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat())))
}
