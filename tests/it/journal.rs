//! The journal as an operator meets it.
