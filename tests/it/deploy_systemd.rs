//! `deploy/systemd` and `deploy/debian`: the units are correct and confine callbridge, and the package has all its files.
//! `make deb` builds the package and has lintian look at it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::real;
use crate::support::tools;

/// What systemd-analyze calls exposure, from 0 to 100. By default a unit has 92.
const EXPOSURE_MAX: &str = "--threshold=13";

/// Copies of the units that start the binary at hand.
fn units() -> TempDir {
    let folder = TempDir::with_prefix_in("systemd-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["callbridge.service", "callbridge.socket"] {
        let unit = fs::read_to_string(tools::repository("deploy/systemd").join(name)).unwrap();
        let unit =
            unit.replace("ExecStart=/usr/bin/callbridge", concat!("ExecStart=", env!("CARGO_BIN_EXE_callbridge")));
        fs::write(folder.path().join(name), unit).unwrap();
    }
    folder
}

fn analyze(args: &[&str], folder: &Path, units: &[&str]) -> Output {
    let units = units.iter().map(|unit| folder.join(unit));
    Command::new("systemd-analyze").args(args).args(units).output().unwrap()
}

#[test]
fn the_units_are_correct_and_leave_callbridge_little_to_reach() {
    if real::found_or_skipped(tools::in_path("systemd-analyze")).is_none() {
        return;
    }
    let folder = units();
    let verified = analyze(&["verify"], folder.path(), &["callbridge.service", "callbridge.socket"]);
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    let security = ["security", "--offline=true", "--no-pager", EXPOSURE_MAX];
    let judged = analyze(&security, folder.path(), &["callbridge.service"]);
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));

    let service = folder.path().join("callbridge.service");
    let good = fs::read_to_string(&service).unwrap();
    for line in ["DynamicUser=yes\n", "SystemCallFilter=@system-service\n", "CapabilityBoundingSet=\n"] {
        fs::write(&service, good.replace(line, "")).unwrap();
        let judged = analyze(&security, folder.path(), &["callbridge.service"]);
        assert!(!judged.status.success(), "without {line}");
    }
}

#[test]
fn every_file_of_the_debian_package_is_in_the_repository() {
    let mut cargo = Command::new(env!("CARGO"));
    let metadata = tools::output(cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1"]));
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let assets = metadata["packages"][0]["metadata"]["deb"]["assets"].as_array().unwrap();
    assert!(assets.len() > 5);
    for asset in assets {
        let source = asset[0].as_str().unwrap();
        assert!(source == "target/release/callbridge" || tools::repository(source).is_file(), "{source}");
    }
}
