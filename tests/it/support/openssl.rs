//! Keys and self-signed certificates in PEM, made by openssl.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::support::real;

/// Nothing when there is no openssl: the test shall return.
pub(crate) fn found_or_skipped() -> Option<()> {
    let found = Command::new("openssl").arg("version").output();
    real::found_or_skipped(found.map(drop).map_err(|_missing| "there is no openssl".to_owned()))
}

/// Runs openssl in a folder, with arguments that hold no blanks.
///
/// # Panics
/// When it fails.
pub(crate) fn run(folder: &Path, args: &str) {
    let output = Command::new("openssl").args(args.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Both files, until it is dropped.
pub(crate) struct Pair {
    _folder: TempDir,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    /// Makes a pair for 127.0.0.1 that is good for 30 days. Nothing when there is no openssl: the test shall return.
    pub(crate) fn make(name: &str) -> Option<Self> {
        found_or_skipped()?;
        let folder = TempDir::with_prefix_in("pair-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"])
            .args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args([Path::new("-keyout"), &key, Path::new("-out"), &certificate])
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Some(Self { _folder: folder, certificate, key })
    }
}
