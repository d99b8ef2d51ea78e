//! What signals do to commands: what they do by default, and not what the starter of the server has made of them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::FORBIDDEN;
use signal_hook::flag;

/// Has all signals do in a program what they do by default, also those that the starter of the server has had ignored:
/// `nohup` SIGHUP, a script SIGINT and SIGQUIT in what it runs in the background, so that Ctrl-C could not end a
/// command. For a process that has nothing to do with signals itself but to start that program: there they have no
/// effect from here on. (That none is blocked in it is std's doing. Elsewhere than on Linux nobody says which are ignored.)
pub fn default_in_programs() {
    let ignored = ignored().unwrap_or(0);
    for signal in (1..64).filter(|signal| ignored >> (signal - 1) & 1 == 1) {
        // A handler is gone with the exec, and with it that the signal was ignored. One that cannot have any
        // stays as it is, as those that the C library needs for itself.
        if !FORBIDDEN.contains(&signal) {
            let _ = flag::register(signal, Arc::new(AtomicBool::new(false)));
        }
    }
}

/// The signals that this process ignores, a bit for each.
fn ignored() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}
