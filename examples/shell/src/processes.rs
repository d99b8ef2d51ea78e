//! The processes of this machine, as Linux lists them. Elsewhere the lists are empty.

use std::fs;

use rustix::process::Pid;

/// The fields of `/proc/PID/stat` that are used here.
struct Stat {
    state: char,
    parent: u32,
    session: u32,
}

impl Stat {
    fn read(text: &str) -> Option<Self> {
        // The name, in parentheses, may have any characters. The state, the parent, the process group and the session
        // follow it.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        Some(Self {
            state: fields.next()?.parse().ok()?,
            parent: fields.next()?.parse().ok()?,
            session: fields.nth(1)?.parse().ok()?,
        })
    }
}

/// The children of a process, zombies included.
pub fn of_parent(parent: u32) -> Vec<Pid> {
    find(|stat| stat.parent == parent)
}

/// The processes of a session, without zombies.
pub fn of_session(session: u32) -> Vec<Pid> {
    find(|stat| stat.session == session && !matches!(stat.state, 'Z' | 'X'))
}

fn find(wanted: impl Fn(&Stat) -> bool) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let found = entries.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = Stat::read(&fs::read_to_string(entry.path().join("stat")).ok()?)?;
        if wanted(&stat) { Pid::from_raw(pid) } else { None }
    });
    found.collect()
}
