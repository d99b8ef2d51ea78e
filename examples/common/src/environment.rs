//! The variables of the environment.

use std::env;
use std::ffi::OsString;

/// The value of a variable. A variable that is set and empty counts as unset, as in a shell's `${NAME:-default}`: unit
/// files and scripts take a variable back in this way.
pub fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
