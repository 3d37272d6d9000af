//! Blocklist files, as the command line reads them.

use std::path::Path;

use crate::decide::rules::Rules;
use crate::follow::file;
use crate::follow::file::FileError;

use super::CliError;

/// The rules of a file, or all its invalid lines.
pub(super) fn read(path: &Path) -> Result<Rules, CliError> {
    let name = path.display();
    file::read::<Rules>(path).map_err(|error| match error {
        FileError::Invalid(bad_lines) => CliError::File(format!("{name}: {bad_lines}")),
        error @ (FileError::Unreadable(_) | FileError::NotRegular | FileError::TooLarge(_)) => {
            CliError::File(format!("{name}: {error}"))
        }
    })
}
