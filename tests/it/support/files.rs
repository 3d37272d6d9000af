//! Files that a test writes for callbridge to read.

use std::fs;

use tempfile::TempDir;

/// A temporary folder, removed when dropped.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    /// Creates the folder.
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::with_prefix_in("files-", env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    /// Writes a file, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}
