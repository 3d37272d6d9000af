//! Gives the code the commit that it is built from, for `--version` and `callbridge_build_info`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

/// git writes the commit into this file when it makes a source archive (.gitattributes). In a checkout it holds a placeholder.
const ARCHIVED: &str = ".archived-commit";

fn main() {
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ARCHIVED}");
    let given = env::var("BUILD_COMMIT").ok();
    let commit = given.and_then(|text| checked(&text)).or_else(of_archive).or_else(of_checkout);
    // No name with CALLBRIDGE_: cargo also gives it to what it runs, where it would be a misnamed setting.
    println!("cargo::rustc-env=SHOWN_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

fn of_archive() -> Option<String> {
    checked(&fs::read_to_string(ARCHIVED).ok()?)
}

/// Only of a checkout of callbridge itself: the sources may lie unpacked in a repository of somebody else.
fn of_checkout() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // It changes with each commit and each checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    checked(&git(&["rev-parse", "HEAD"])?)
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first 12 digits of a commit.
fn checked(text: &str) -> Option<String> {
    let text = text.trim();
    let is_commit = text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| text.chars().take(12).collect())
}
