//! A key and a self-signed certificate for 127.0.0.1, made by Java's keytool.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Opens the key store. It protects nothing.
pub(crate) const PASSWORD: &str = "for-tests";

/// Where the two files lie, until it is dropped.
pub(crate) struct Certificate {
    _folder: TempDir,
    /// Key and certificate, PKCS12, for the server.
    pub(crate) key_store: PathBuf,
    /// The certificate alone, PEM, for those who shall trust it.
    pub(crate) pem: PathBuf,
}

impl Certificate {
    /// Makes both.
    pub(crate) fn make() -> Self {
        let folder = TempDir::with_prefix_in("tls-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (key_store, pem) = (folder.path().join("key.p12"), folder.path().join("certificate.pem"));
        let made = Self { _folder: folder, key_store, pem };
        let names = "san=dns:localhost,ip:127.0.0.1";
        let key = ["-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-dname", "CN=localhost"];
        made.keytool(&[&key[..], &["-validity", "30", "-ext", names, "-ext", "bc:c"]].concat());
        made.keytool(&["-exportcert", "-rfc", "-file", made.pem.to_str().unwrap()]);
        made
    }

    fn keytool(&self, args: &[&str]) {
        let output = Command::new("keytool")
            .args(args)
            .args(["-alias", "test", "-storetype", "PKCS12", "-storepass", PASSWORD, "-keystore"])
            .arg(&self.key_store)
            .output()
            .expect("cannot run keytool");
        assert!(output.status.success(), "keytool: {}", String::from_utf8_lossy(&output.stdout));
    }
}
