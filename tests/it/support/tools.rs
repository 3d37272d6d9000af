//! Programs that tests run and that may be missing, and the files of the repository.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The path of a program that is in `PATH`.
pub(crate) fn in_path(program: &str) -> Result<PathBuf, String> {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if found.status.success() {
        return Ok(PathBuf::from(String::from_utf8_lossy(&found.stdout).trim()));
    }
    Err(format!("there is no {program}"))
}

/// The path of a program that `make tools` installs, or else one that is in `PATH`.
pub(crate) fn in_venv(program: &str) -> Result<PathBuf, String> {
    let installed = repository("target/venv/bin").join(program);
    if installed.is_file() {
        Ok(installed)
    } else {
        in_path(program).map_err(|missing| format!("{missing} (make tools)"))
    }
}

/// What a command prints on stdout.
///
/// # Panics
/// When it fails.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// What a command prints, stderr last, whether or not it fails.
pub(crate) fn both(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Every file below a folder, sorted.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

/// The Helm that `make tools` builds, or else the one in `PATH`.
pub(crate) fn helm() -> Result<PathBuf, String> {
    let folders = fs::read_dir(repository("target")).into_iter().flatten().flatten();
    let built = folders.map(|folder| folder.path().join("helm")).find(|helm| helm.is_file());
    built.map_or_else(|| in_path("helm").map_err(|missing| format!("{missing} (make tools)")), Ok)
}

/// The number in a variable of the environment, with which a `make` target makes a test longer; `default` without it.
pub(crate) fn number_of(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}
