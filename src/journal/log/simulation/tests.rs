//! The log keeps its promises in thousands of histories, and the histories find each fault that is built in.

use std::env;

use super::history::History;
use crate::journal::log::mutant::Mutant;

const HISTORIES: u64 = 2_000;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.replace('_', "").parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// The violation of a seed, told with everything that led to it.
fn violation(seed: u64, mutant: Option<Mutant>) -> Option<String> {
    let history = History::of(seed);
    let violation = history.check(mutant).err()?;
    let shrunk = history.clone().shrunk(mutant);
    let shrunk_violation = shrunk.check(mutant).err();
    Some(format!(
        "seed {seed}: {violation}\n\nall of it:\n{history}\nmade shorter:\n{shrunk}{}\n",
        shrunk_violation.unwrap_or_default()
    ))
}
