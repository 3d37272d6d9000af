//! Where blocklists come from.

pub(crate) mod file;

pub(crate) mod files;
