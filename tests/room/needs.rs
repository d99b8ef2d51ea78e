//! Whether this machine has what the harness needs, and the program that is tested.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::geteuid;

/// The reason why nothing can be run here.
#[derive(Clone, Debug)]
pub enum Missing {
    /// A package, which can be installed.
    Package(String),
    /// A right or a device, which this user or machine does not have.
    Right(String),
}

/// The first thing that is missing here, looked for once.
pub fn missing() -> Option<&'static Missing> {
    static MISSING: OnceLock<Option<Missing>> = OnceLock::new();
    MISSING.get_or_init(look).as_ref()
}

fn look() -> Option<Missing> {
    for (program, ask) in [("ip", "-V"), ("redis-server", "--version")] {
        if Command::new(program).arg(ask).output().is_err() {
            return Some(Missing::Package(format!("{program} is not installed")));
        }
    }
    if !geteuid().is_root() {
        return Some(Missing::Right("only root may make network namespaces".into()));
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some(Missing::Right("there is no /dev/net/tun".into()));
    }
    let probe = format!("room-{}-probe", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &probe]).output().expect("ip runs");
    let _ = Command::new("ip").args(["netns", "del", &probe]).output();
    if made.status.success() {
        return None;
    }
    let why = String::from_utf8_lossy(&made.stderr).trim().to_owned();
    Some(Missing::Right(format!("network namespaces cannot be made here: {why}")))
}

/// The program `chat`: built now, by the same Cargo and in the same profile as this harness, or the one that the variable
/// `CHAT` names.
///
/// # Panics
///
/// If it cannot be built.
pub fn chat() -> &'static Path {
    static CHAT: OnceLock<PathBuf> = OnceLock::new();
    CHAT.get_or_init(|| std::env::var_os("CHAT").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let this = std::env::current_exe().expect("this program has a path");
    // target/PROFILE/room, or target/PROFILE/deps/cases-HASH
    let mut folder = this.parent().expect("it is in a folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("deps is in a folder");
    }
    let target = folder.parent().expect("the profile has a folder in the target folder");
    let profile = folder.file_name().expect("the folder of a profile");
    let profile = if profile == "debug" { "dev".as_ref() } else { profile };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "chat", "--bin", "chat", "--profile"]);
    command.arg(profile).arg("--target-dir").arg(target);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let status = command.arg("--manifest-path").arg(manifest).status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?}: {status:?}"
    );
    folder.join("chat")
}
