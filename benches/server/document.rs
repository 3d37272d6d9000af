//! The documents that hold figures: each table stands between two comments, and a run that is published puts its own there.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

/// A file of the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Puts `text` between `<!-- mark -->` and `<!-- /mark -->`.
///
/// # Errors
///
/// The document cannot be read or written, or does not have both.
pub(crate) fn insert(name: &str, mark: &str, text: &str) -> io::Result<()> {
    let document = fs::read_to_string(path(name))?;
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let without = || io::Error::other(format!("{name} has no {}", begin.trim_end()));
    let (before, rest) = document.split_once(&begin).ok_or_else(without)?;
    let (_old, after) = rest.split_once(&end).ok_or_else(without)?;
    fs::write(path(name), format!("{before}{begin}\n{}\n{end}{after}", text.trim_end().to_owned() + "\n"))
}
