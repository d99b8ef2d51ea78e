//! Gives commands the default of each signal, even if the server was started with some of them ignored.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::FORBIDDEN;
use signal_hook::flag;

/// Restores the default of all signals in the program that this process is about to start. Ignored signals are
/// inherited: `nohup` ignores SIGHUP, and a script ignores SIGINT and SIGQUIT in its background jobs, so that Ctrl-C
/// could not end a command. In this process the signals have no effect from here on. (Blocked signals are inherited,
/// too; the library unblocks SIGCHLD, for which the supervisor waits. Only Linux can tell which signals are ignored.)
pub fn default_in_programs() {
    let ignored = ignored().unwrap_or(0);
    for signal in (1..64).filter(|signal| ignored >> (signal - 1) & 1 == 1) {
        // `exec` resets a signal with a handler to its default. Signals that cannot have one, such as those of the C
        // library, stay as they are.
        if !FORBIDDEN.contains(&signal) {
            let _ = flag::register(signal, Arc::new(AtomicBool::new(false)));
        }
    }
}

/// The ignored signals of this process, a bit for each.
fn ignored() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}
