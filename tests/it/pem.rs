//! TLS files as operators have them: which work, and what is said of those that do not.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::openssl;

/// A folder of files that openssl makes.
struct Folder(TempDir);

impl Folder {
    /// With `key.pem`, `certificate.pem` and the request `csr.pem`, of P-256. Nothing when there is no openssl: the test shall return.
    fn make() -> Option<Self> {
        openssl::found_or_skipped()?;
        let folder = Self(TempDir::with_prefix_in("pem-", env!("CARGO_TARGET_TMPDIR")).unwrap());
        folder.openssl("ecparam -name prime256v1 -genkey -noout -out key.pem");
        folder.write("extensions", "basicConstraints=CA:FALSE");
        folder.certify("key.pem", "certificate.pem", "30");
        Some(folder)
    }

    fn openssl(&self, args: &str) {
        openssl::run(self.0.path(), args);
    }

    /// Makes a certificate of a key, good for so many days.
    fn certify(&self, key: &str, certificate: &str, days: &str) {
        self.openssl(&format!("req -new -key {key} -subj /CN=callbridge -out csr.pem"));
        self.openssl(&format!(
            "x509 -req -in csr.pem -signkey {key} -days {days} -extfile extensions -out {certificate}"
        ));
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.0.path(), name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn settings(&self, certificate: &str, key: &str, more: &str) -> String {
        let (certificate, key) = (self.path(certificate), self.path(key));
        format!("callbacks.tls.certificate_file = {certificate:?}\ncallbacks.tls.key_file = {key:?}\n{more}\n")
    }

    /// The exit code of `check` with these files, and what it says of TLS.
    fn check(&self, certificate: &str, key: &str, more: &str) -> (i32, String) {
        self.write("callbridge.toml", &self.settings(certificate, key, more));
        let output = Command::new(env!("CARGO_BIN_EXE_callbridge"))
            .args(["check", "--embedded-broker", "--sdk-app-id", APP, "--config"])
            .arg(self.path("callbridge.toml"))
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let lines = stderr.lines().filter(|line| line.contains("callbacks.tls") || line.contains(".pem"));
        (output.status.code().unwrap(), lines.collect::<Vec<_>>().join("\n"))
    }
}

#[test]
fn tls_files_with_parameters_other_sections_and_any_line_endings_work() {
    let Some(folder) = Folder::make() else { return };
    folder.openssl("ecparam -name prime256v1 -genkey -out parameters.pem");
    folder.certify("parameters.pem", "of-parameters.pem", "30");
    folder.write("both.pem", &(folder.read("key.pem") + &folder.read("certificate.pem")));
    folder.write("windows-key.pem", &folder.read("key.pem").replace('\n', "\r\n"));
    folder.write("windows.pem", &folder.read("certificate.pem").replace('\n', "\r\n"));
    folder.openssl("genrsa -traditional -out rsa.pem 2048");
    folder.certify("rsa.pem", "of-rsa.pem", "30");
    for (certificate, key) in [
        ("certificate.pem", "key.pem"),
        ("of-parameters.pem", "parameters.pem"),
        ("both.pem", "both.pem"),
        ("windows.pem", "windows-key.pem"),
        ("of-rsa.pem", "rsa.pem"),
    ] {
        assert_eq!(folder.check(certificate, key, ""), (0, String::new()), "{certificate} {key}");
    }
}

#[test]
fn says_what_is_wrong_with_a_certificate_file() {
    let Some(folder) = Folder::make() else { return };
    let certificate = folder.read("certificate.pem");
    folder.write("empty.pem", "");
    folder.write("mark.pem", &format!("\u{feff}{certificate}"));
    folder.write("chain.pem", &format!("{certificate}\u{feff}{certificate}"));
    folder.write("cut.pem", &certificate[..certificate.len() / 2]);
    folder.openssl("x509 -in certificate.pem -outform DER -out der.pem");
    folder.write("no-der.pem", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
    let lines = certificate.lines().count();
    for (file, says) in [
        ("key.pem", "the file has no CERTIFICATE, but EC PRIVATE KEY".to_owned()),
        ("csr.pem", "the file has no CERTIFICATE, but CERTIFICATE REQUEST".to_owned()),
        ("empty.pem", "the file is empty".to_owned()),
        ("mark.pem", "the file begins with a byte order mark".to_owned()),
        ("chain.pem", format!("line {}: something stands before -----BEGIN", lines + 1)),
        ("cut.pem", "line 1: this -----BEGIN has no -----END".to_owned()),
        ("der.pem", "the file is binary, not PEM".to_owned()),
    ] {
        let (code, said) = folder.check(file, "key.pem", "");
        assert!(code == 78 && said.contains(&format!("read the certificate: {says}")), "{file}: {said}");
        let more = format!("callbacks.tls.client_ca_file = {:?}", folder.path(file));
        let (code, said) = folder.check("certificate.pem", "key.pem", &more);
        let begin = "read the client CA certificates: ";
        assert!(code == 78 && said.contains(&format!("{begin}{says}")), "{file}: {said}");
    }
    folder.openssl("x509 -req -in csr.pem -signkey key.pem -out version-1.pem");
    for file in ["no-der.pem", "version-1.pem"] {
        let (code, said) = folder.check(file, "key.pem", "");
        assert!(code == 78 && said.contains("the first in the file is not X.509 of version 3"), "{file}: {said}");
    }
    let more = format!("callbacks.tls.client_ca_file = {:?}", folder.path("no-der.pem"));
    let (code, said) = folder.check("certificate.pem", "key.pem", &more);
    assert!(code == 78 && said.contains("number 1 in the file is not X.509"), "{said}");
}

#[test]
fn says_what_is_wrong_with_a_key_file() {
    let Some(folder) = Folder::make() else { return };
    folder.openssl("pkey -in key.pem -aes256 -passout pass:secret -out encrypted.pem");
    folder.openssl("ec -in key.pem -aes256 -passout pass:secret -out old-encrypted.pem");
    folder.openssl("pkey -in key.pem -outform DER -out der.pem");
    folder.openssl("pkey -in key.pem -pubout -out public.pem");
    folder.openssl("ecparam -name prime256v1 -genkey -noout -out another.pem");
    folder.openssl("ecparam -name secp256k1 -genkey -noout -out other-curve.pem");
    folder.openssl("genpkey -algorithm ED448 -out ed448.pem");
    folder.openssl("genrsa -out short.pem 1024");
    folder.openssl("genrsa -traditional -out old-short.pem 2047");
    folder.write("mark.pem", &format!("\u{feff}{}", folder.read("key.pem")));
    folder.write("base64.pem", &folder.read("key.pem").replacen("\nM", "\n*", 1));
    let kind = "use the key: it is damaged, or neither RSA, ECDSA on P-256 or P-384, nor Ed25519";
    let length = |bits: usize| format!("use the key: it is an RSA key of {bits} bits; only 2048 to 4096 are supported");
    for (file, says) in [
        ("encrypted.pem", "read the key: the key is encrypted".to_owned()),
        ("old-encrypted.pem", "read the key: the key is encrypted".to_owned()),
        ("certificate.pem", "read the key: the file has no PRIVATE KEY, but CERTIFICATE".to_owned()),
        ("public.pem", "read the key: the file has no PRIVATE KEY, but PUBLIC KEY".to_owned()),
        ("der.pem", "read the key: the file is binary, not PEM".to_owned()),
        ("mark.pem", "read the key: the file begins with a byte order mark".to_owned()),
        ("base64.pem", "read the key: line 1: what follows this -----BEGIN is not base64".to_owned()),
        ("short.pem", length(1024)),
        ("old-short.pem", length(2047)),
        ("other-curve.pem", kind.to_owned()),
        ("ed448.pem", kind.to_owned()),
        ("another.pem", "the key is not that of the first certificate in the file".to_owned()),
    ] {
        let (code, said) = folder.check("certificate.pem", file, "");
        assert!(code == 78 && said.contains(&says), "{file}: {said}");
        let key = folder.read("key.pem");
        assert!(key.lines().skip(1).all(|line| !said.contains(&line[..16])), "a key is shown");
    }
}

#[test]
fn warns_of_an_expired_certificate_in_check_at_the_start_and_at_a_reload() {
    let Some(folder) = Folder::make() else { return };
    folder.certify("key.pem", "expired.pem", "-1");
    let says = "a certificate in the file has expired, at ";
    let (code, said) = folder.check("expired.pem", "key.pem", "");
    assert!(code == 0 && said.starts_with("warning: ") && said.contains(says), "{said}");

    let certificate = folder.read("certificate.pem");
    let bridge = Bridge::light(&folder.settings("expired.pem", "key.pem", ""));
    let replace = |text: &str, reloads: f64| {
        folder.write("next.pem", text);
        fs::rename(folder.path("next.pem"), folder.path("expired.pem")).unwrap();
        bridge.metrics_until(|metrics| metrics["callbridge_tls_reloads_total"] == reloads);
    };
    let expired = folder.read("expired.pem");
    replace(&certificate, 1.0);
    replace(&expired, 2.0);
    let stderr = bridge.stop_and_wait().stderr;
    let warnings = stderr.lines().filter(|line| line.contains("\"WARN\"") && line.contains(says)).count();
    assert_eq!(warnings, 2, "{stderr}");
}
