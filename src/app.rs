//! Placeholder: builds everything, then starts.

use crate::config::Config;

pub(crate) fn serve(_config: Config) -> Result<(), String> {
    Err("this version does not serve yet".to_owned())
}
