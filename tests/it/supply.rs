//! The bill of materials (`make sbom`): what cargo knows nothing of.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use rdkafka::util::get_rdkafka_version;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

#[test]
fn the_bill_of_materials_names_each_c_library_with_the_version_of_its_source() {
    let folder = TempDir::with_prefix_in("sbom-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let metadata = fs::File::create(folder.path().join("metadata.json")).unwrap();
    // Of other platforms some crates may not be here.
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap().stdout;
    let platform = String::from_utf8(host).unwrap();
    let words = ["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", platform.trim()];
    let status = Command::new("cargo").args(words).current_dir(root).stdout(metadata).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
    // What cargo-cyclonedx writes, as far as it matters here.
    let crates = ["rdkafka-sys", "openssl-src", "libz-sys", "zstd-sys", "libmimalloc-sys"];
    let dependencies = crates.map(|name| json!({"ref": format!("registry+https://example.test#{name}@1.0.0")}));
    let sbom =
        json!({"serialNumber": "x", "metadata": {"timestamp": "x"}, "components": [], "dependencies": dependencies});
    fs::write(folder.path().join("sbom.json"), sbom.to_string()).unwrap();

    let script = root.join("deploy/sbom/c_libraries.py");
    let output =
        Command::new("python3").arg(script).args(["sbom.json", "metadata.json"]).current_dir(folder.path()).output();

    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let sbom: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(sbom.get("serialNumber").is_none() && sbom["metadata"].get("timestamp").is_none());
    let components = sbom["components"].as_array().unwrap();
    let names: Vec<&str> = components.iter().map(|component| component["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["librdkafka", "lz4", "openssl", "zlib", "zstd", "mimalloc"]);
    for component in components {
        let version = component["version"].as_str().unwrap();
        assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{component}");
        let purl = component["purl"].as_str().unwrap();
        let users =
            sbom["dependencies"].as_array().unwrap().iter().filter(|it| it["dependsOn"].to_string().contains(purl));
        assert_eq!(users.count(), 1, "{purl}");
    }
    // What is linked says the same.
    assert_eq!(components[0]["version"], get_rdkafka_version().1);
}
