//! The real curl, so that what a sender sees does not rest on our own client alone.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::support::real;

/// What curl printed of one answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

/// Posts the file at `path` (relative to the repository). Nothing when there is no curl: the test shall return.
pub(crate) fn post_file(address: SocketAddr, target: &str, path: &str) -> Option<Answer> {
    let found = Command::new("curl").arg("-V").output().map(drop).map_err(|_missing| "there is no curl".to_owned());
    real::found_or_skipped(found)?;
    let mut file = std::ffi::OsString::from("@");
    file.push(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "30", "-w", "\n%{http_code} %{content_type}", "--data-binary"])
        .arg(file)
        .arg(format!("http://{address}{target}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let (body, trailer) = printed.rsplit_once('\n').unwrap();
    let (status, content_type) = trailer.split_once(' ').unwrap();
    Some(Answer { status: status.parse().unwrap(), content_type: content_type.to_owned(), body: body.to_owned() })
}
