//! Config files, for settings that have no flag.

use std::io::Write;

use tempfile::NamedTempFile;

/// A file with that text, gone when dropped.
pub(crate) fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Its path, as an argument.
pub(crate) fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}
