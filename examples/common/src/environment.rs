//! The variables of the environment.

use std::env;
use std::ffi::OsString;

/// The value of a variable. One that is set and empty counts as unset, as in a shell's `${NAME:-default}`: that is how a
/// unit file or a line of a script takes a variable back.
pub fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
