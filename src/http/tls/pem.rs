//! Reads certificates and keys from PEM, with a precise error. Shows nothing of a file but the labels of its sections.

use std::fmt;

use memchr::memmem;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

const CERTIFICATE: &[u8] = b"CERTIFICATE";
const KEYS: [&[u8]; 3] = [b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY"];

/// The most labels that an error lists.
const LABELS_MAX: usize = 4;

/// Longer than any label in use.
const LABEL_LENGTH_MAX: usize = 30;

/// Why a file cannot be used as PEM.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPem {
    /// It has no contents.
    #[error("the file is empty")]
    Empty,
    /// An editor has saved it with a byte order mark, so its first line is not PEM.
    #[error("the file begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// It is encoded in UTF-16.
    #[error("the file is UTF-16; save it as UTF-8 without a byte order mark")]
    Utf16,
    /// It is not text.
    #[error("the file is binary, not PEM; convert it with openssl x509, pkey (DER) or pkcs12 (PKCS #12)")]
    Binary,
    /// It is text without any section.
    #[error("the file has no line that begins with -----BEGIN")]
    NoSection,
    /// A section that does not begin at the start of a line would be skipped.
    #[error("line {0}: something stands before -----BEGIN")]
    Indented(usize),
    /// The line is incomplete.
    #[error("line {0}: -----BEGIN does not end in five dashes")]
    Begin(usize),
    /// The file is truncated, or the labels differ.
    #[error("line {0}: this -----BEGIN has no -----END of the same name; the file may be truncated")]
    NoEnd(usize),
    /// The contents of the section are not base64.
    #[error("line {0}: what follows this -----BEGIN is not base64")]
    NotBase64(usize),
    /// A service has nobody to enter a passphrase.
    #[error("the key is encrypted, and a passphrase cannot be given; decrypt it with openssl pkey")]
    Encrypted,
    /// It has sections, but of other kinds.
    #[error("the file has no {wanted}, but {found}")]
    Other {
        /// The expected label.
        wanted: PemKind,
        /// The labels that it has.
        found: String,
    },
}

/// The kinds of sections that are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PemKind {
    Certificate,
    Key,
}

impl fmt::Display for PemKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Certificate => "CERTIFICATE",
            Self::Key => "PRIVATE KEY",
        })
    }
}

/// One section of a file.
struct Section<'f> {
    /// The number of its first line, from 1.
    line: usize,
    label: &'f [u8],
    /// The section with its first and last line.
    bytes: &'f [u8],
}

/// All certificates of a file.
///
/// # Errors
///
/// There is none, or a part of the file is not PEM.
pub(crate) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadPem> {
    let sections = sections(bytes)?;
    let read = |section: &Section<'_>| {
        CertificateDer::from_pem_slice(section.bytes).map_err(|_error| BadPem::NotBase64(section.line))
    };
    let certificates = sections.iter().filter(|section| section.label == CERTIFICATE).map(read);
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>()?;
    if certificates.is_empty() { Err(absent(bytes, &sections, PemKind::Certificate)) } else { Ok(certificates) }
}

/// The first private key of a file.
///
/// # Errors
///
/// There is none, it is encrypted, or a part of the file is not PEM.
pub(crate) fn key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, BadPem> {
    let sections = sections(bytes)?;
    let Some(section) = sections.iter().find(|section| KEYS.contains(&section.label)) else {
        return Err(absent(bytes, &sections, PemKind::Key));
    };
    PrivateKeyDer::from_pem_slice(section.bytes).map_err(|_error| {
        // OpenSSL's traditional format has a header within the section.
        let is_encrypted = memmem::find(section.bytes, b"Proc-Type: 4,ENCRYPTED").is_some();
        if is_encrypted { BadPem::Encrypted } else { BadPem::NotBase64(section.line) }
    })
}

/// Every section of a file. The reader of rustls skips what it does not understand: in a chain, the second certificate could then be taken
/// for the first.
fn sections(bytes: &[u8]) -> Result<Vec<Section<'_>>, BadPem> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(BadPem::Utf16);
    }
    if bytes.starts_with("\u{feff}".as_bytes()) {
        return Err(BadPem::ByteOrderMark);
    }
    let newline = if bytes.contains(&b'\n') { b'\n' } else { b'\r' };
    let mut sections = Vec::new();
    let mut open: Option<(usize, &[u8], usize)> = None;
    let mut begin = 0;
    for (index, line) in bytes.split(|byte| *byte == newline).enumerate() {
        let (number, at, trimmed) = (index + 1, begin, line.trim_ascii_end());
        begin += line.len() + 1;
        if let Some(found) = memmem::find(trimmed, BEGIN) {
            if found > 0 {
                return Err(BadPem::Indented(number));
            }
            if let Some((number, ..)) = open {
                return Err(BadPem::NoEnd(number));
            }
            let label = trimmed.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(DASHES));
            open = Some((number, label.ok_or(BadPem::Begin(number))?, at));
        } else if let Some((number, label, from)) = open
            && trimmed.strip_prefix(END).and_then(|rest| rest.strip_suffix(DASHES)) == Some(label)
        {
            let section = bytes.get(from..at + trimmed.len()).unwrap_or_default();
            sections.push(Section { line: number, label, bytes: section });
            open = None;
        }
    }
    open.map_or(Ok(sections), |(number, ..)| Err(BadPem::NoEnd(number)))
}

/// Why a file has no section of that kind.
fn absent(bytes: &[u8], sections: &[Section<'_>], wanted: PemKind) -> BadPem {
    if wanted == PemKind::Key && sections.iter().any(|section| section.label == b"ENCRYPTED PRIVATE KEY") {
        return BadPem::Encrypted;
    }
    if !sections.is_empty() {
        let found: Vec<&str> = sections.iter().take(LABELS_MAX).map(|section| shown(section.label)).collect();
        return BadPem::Other { wanted, found: found.join(", ") };
    }
    if bytes.trim_ascii().is_empty() {
        return BadPem::Empty;
    }
    if str::from_utf8(bytes).is_err() || bytes.contains(&0) { BadPem::Binary } else { BadPem::NoSection }
}

/// A label, or `...` if it is not one of those in use.
fn shown(label: &[u8]) -> &str {
    let is_plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    let is_shown = label.len() <= LABEL_LENGTH_MAX && label.iter().all(is_plain);
    str::from_utf8(label).ok().filter(|_| is_shown).unwrap_or("...")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";

    fn section(label: &str) -> String {
        format!("-----BEGIN {label}-----\n{BODY}\n-----END {label}-----\n")
    }

    fn certificate() -> String {
        section("CERTIFICATE")
    }

    #[test]
    fn reads_certificates_and_keys_among_other_sections_and_text() {
        let text = format!(
            "Bag Attributes\n  caf\u{e9}\n{}{}{}subject=x\n{}",
            section("EC PARAMETERS"),
            section("EC PRIVATE KEY"),
            certificate(),
            certificate()
        );
        for text in [text.clone(), text.replace('\n', "\r\n"), text.replace('\n', "\r"), text.replace('\n', " \n")] {
            let expected = vec![CertificateDer::from(&b"0123456789abcdef"[..]); 2];
            assert_eq!(certificates(text.as_bytes()).unwrap(), expected);
            assert!(matches!(key(text.as_bytes()), Ok(PrivateKeyDer::Sec1(_))));
        }
        assert_eq!(certificates(certificate().trim_end().as_bytes()).unwrap().len(), 1);
        assert!(matches!(key(section("PRIVATE KEY").as_bytes()), Ok(PrivateKeyDer::Pkcs8(_))));
        assert!(matches!(key(section("RSA PRIVATE KEY").as_bytes()), Ok(PrivateKeyDer::Pkcs1(_))));
    }

    #[test]
    fn says_why_there_is_no_certificate() {
        let other = |found: &str| BadPem::Other { wanted: PemKind::Certificate, found: found.to_owned() };
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        for (text, bad) in [
            (String::new(), BadPem::Empty),
            (" \r\n\n".to_owned(), BadPem::Empty),
            ("hello\n".to_owned(), BadPem::NoSection),
            ("0\u{82}\u{1}\0".to_owned(), BadPem::Binary),
            (format!("\u{feff}{0}{0}", certificate()), BadPem::ByteOrderMark),
            (format!("{0}\u{feff}{0}", certificate()), BadPem::Indented(4)),
            (format!("  {}", certificate()), BadPem::Indented(1)),
            (format!("{begin}\n{BODY}\n"), BadPem::NoEnd(1)),
            (format!("x\n{begin}\n{BODY}\n{}", certificate()), BadPem::NoEnd(2)),
            (format!("{begin}\n{BODY}\n-----END X509 CRL-----\n"), BadPem::NoEnd(1)),
            (format!("-----BEGIN CERTIFICATE----\n{BODY}\n{end}\n"), BadPem::Begin(1)),
            (format!("{}{begin}\n{BODY}%\n{end}\n", certificate()), BadPem::NotBase64(4)),
            (section("PRIVATE KEY"), other("PRIVATE KEY")),
            (section("CERTIFICATE REQUEST"), other("CERTIFICATE REQUEST")),
            (section("X509 CRL") + &section("secret words"), other("X509 CRL, ...")),
        ] {
            assert_eq!(certificates(text.as_bytes()).unwrap_err(), bad, "{text:?}");
        }
        assert_eq!(certificates(b"0\x82\x01\x0a\xff").unwrap_err(), BadPem::Binary);
        let utf16: Vec<u8> = certificate().encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(certificates(&[b"\xff\xfe", &utf16[..]].concat()).unwrap_err(), BadPem::Utf16);
        assert_eq!(certificates(&utf16).unwrap_err(), BadPem::Binary);
    }

    #[test]
    fn says_why_there_is_no_key() {
        let old = format!(
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n{BODY}\n-----END RSA PRIVATE \
             KEY-----\n"
        );
        let other = |found: &str| BadPem::Other { wanted: PemKind::Key, found: found.to_owned() };
        for (text, bad) in [
            (old.clone(), BadPem::Encrypted),
            (old.replace('\n', "\r\n"), BadPem::Encrypted),
            (section("ENCRYPTED PRIVATE KEY"), BadPem::Encrypted),
            (certificate() + &section("ENCRYPTED PRIVATE KEY"), BadPem::Encrypted),
            (certificate(), other("CERTIFICATE")),
            (section("EC PARAMETERS") + &section("PUBLIC KEY"), other("EC PARAMETERS, PUBLIC KEY")),
            (section("OPENSSH PRIVATE KEY"), other("OPENSSH PRIVATE KEY")),
            (section("PRIVATE KEY").replace("MDEy", "M*Ey"), BadPem::NotBase64(1)),
            (format!("\u{feff}{}", section("PRIVATE KEY")), BadPem::ByteOrderMark),
        ] {
            let error = key(text.as_bytes()).unwrap_err();
            assert_eq!(error, bad, "{text:?}");
            assert!(!error.to_string().contains(&BODY[..4]), "{error}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        proptest::proptest!(|(text in "(-----BEGIN |-----END |-----|CERTIFICATE|PRIVATE KEY|\r|\n|[ -~]|\\PC){0,40}")| {
            let _certificates = certificates(text.as_bytes());
            let _key = key(text.as_bytes());
        });
    }
}
