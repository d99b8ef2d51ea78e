//! Machines and the switch between them: network namespaces, which are gone at the end, also after a panic.

use std::collections::HashMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::link::{Link, Weather};
use crate::tap;

/// The network of one case. It is separate from those of all other cases, of this process and of others.
#[derive(Debug)]
pub struct Network {
    /// `room-PID-NUMBER`; its namespaces are called `room-PID-NUMBER-HOST`.
    prefix: String,
    hosts: Mutex<HashMap<String, u8>>,
    folder: tempfile::TempDir,
}

/// Where `ip netns exec` finds the files of each namespace: in a folder with the namespace's name.
const FILES: &str = "/etc/netns";

/// Runs `ip` with these words.
fn ip(words: &str) -> Result<String, String> {
    let output = Command::new("ip").args(words.split(' ')).output().expect("ip runs");
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

#[track_caller]
fn must(words: &str) {
    ip(words).unwrap_or_else(|error| panic!("{error}"));
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Network {
    /// A switch without machines.
    pub fn new() -> Self {
        static SWEPT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            prefix: format!("room-{}-{count}", std::process::id()),
            hosts: Mutex::default(),
            folder: tempfile::Builder::new().prefix("room").tempdir().expect("a scratch folder"),
        };
        let switch = network.namespace("switch");
        must(&format!("netns add {switch}"));
        must(&format!("-n {switch} link add name sw0 type bridge"));
        must(&format!("-n {switch} link set sw0 up"));
        network
    }

    /// The namespace of a machine.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A folder for what the machines write.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The internet address of a machine, with this port.
    pub fn address(&self, host: &str, port: u16) -> SocketAddr {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let last = hosts.get(host).unwrap_or_else(|| panic!("no machine is called {host}"));
        SocketAddr::from(([10, 77, 0, *last], port))
    }

    fn add(&self, host: &str, last: u8) -> (String, String) {
        let namespace = self.namespace(host);
        must(&format!("netns add {namespace}"));
        must(&format!("-n {namespace} link set lo up"));
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(host.into(), last);
        (namespace, self.namespace("switch"))
    }

    fn connect(&self, host: &str, last: u8) {
        let (namespace, switch) = (self.namespace(host), self.namespace("switch"));
        must(&format!("-n {switch} link set v{host} master sw0 up"));
        must(&format!("-n {namespace} addr add 10.77.0.{last}/24 dev e0"));
        must(&format!("-n {namespace} link set e0 up"));
    }

    /// A machine with the address 10.77.0.`last`.
    pub fn host(&self, host: &str, last: u8) {
        let (namespace, switch) = self.add(host, last);
        must(&format!("-n {switch} link add v{host} type veth peer name e0 netns {namespace}"));
        self.connect(host, last);
    }

    /// A machine behind a link with this weather. The link has to live as long as the machine is used.
    pub fn host_behind(&self, host: &str, last: u8, weather: Weather) -> Link {
        self.add(host, last);
        let open = |at: &str, name: String| -> OwnedFd {
            let tap = self.inside(at, || tap::open(&name));
            tap.unwrap_or_else(|error| panic!("a tap at {at}: {error}"))
        };
        let (here, there) = (open("switch", format!("v{host}")), open(host, "e0".into()));
        self.connect(host, last);
        Link::between(here, there, weather, u64::from(last))
    }

    /// Takes a machine off the switch. Connections are not refused; there is silence.
    pub fn cut(&self, host: &str) {
        must(&format!("-n {} link set v{host} nomaster", self.namespace("switch")));
    }

    /// Puts a machine on the switch again, if it is not there.
    pub fn mend(&self, host: &str) {
        must(&format!("-n {} link set v{host} master sw0", self.namespace("switch")));
    }

    /// Pulls a machine's cable, which its system notices.
    pub fn unplug(&self, host: &str) {
        must(&format!("-n {} link set v{host} down", self.namespace("switch")));
    }

    /// Undoes [`unplug`](Self::unplug).
    pub fn plug_in(&self, host: &str) {
        must(&format!("-n {} link set v{host} up", self.namespace("switch")));
    }

    /// Makes a machine discard all that it sends to another one. All other connections stay as they are.
    pub fn block(&self, host: &str, other: &str) {
        let address = self.address(other, 0).ip();
        must(&format!("-n {} route add blackhole {address}/32", self.namespace(host)));
    }

    /// Undoes [`block`](Self::block).
    pub fn unblock(&self, host: &str, other: &str) {
        let address = self.address(other, 0).ip();
        must(&format!("-n {} route del blackhole {address}/32", self.namespace(host)));
    }

    /// Gives the address of `from` to `to`, and takes it from `from`.
    pub fn move_address(&self, from: &str, to: &str) {
        let address = self.address(from, 0).ip();
        must(&format!("-n {} addr del {address}/24 dev e0", self.namespace(from)));
        must(&format!("-n {} addr add {address}/24 dev e0", self.namespace(to)));
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        for host in hosts.keys() {
            // The machines then ask again which machine has the address.
            must(&format!("-n {} neigh flush all", self.namespace(host)));
        }
    }

    /// Makes processes that are started on a machine from now on ask for names at this address, and wait long for an
    /// answer: two and a half minutes. They read the `resolv.conf` that `ip netns exec` puts in the place of this
    /// system's.
    pub fn resolve_by(&self, host: &str, names: IpAddr) {
        let folder = Path::new(FILES).join(self.namespace(host));
        let write = |file: &str, text: &str| {
            std::fs::create_dir_all(&folder).expect("root may make a folder there");
            std::fs::write(folder.join(file), text).expect("a file in it");
        };
        write("resolv.conf", &format!("nameserver {names}\noptions timeout:30 attempts:5\n"));
        // This system's own `nsswitch.conf` may name other services first, which are asked over sockets of their own.
        if Path::new("/etc/nsswitch.conf").exists() {
            write("nsswitch.conf", "hosts: files dns\n");
        }
    }

    /// Whether this machine has lately tried to reach the address 10.77.0.`last`.
    pub fn has_tried(&self, host: &str, last: u8) -> bool {
        let known = ip(&format!("-n {} neigh show", self.namespace(host))).unwrap_or_default();
        known.lines().any(|line| line.starts_with(&format!("10.77.0.{last} ")))
    }

    /// A command that runs on this machine.
    pub fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command
    }

    /// Runs a function in a thread that is on this machine: its sockets stay there.
    pub fn inside<R: Send>(&self, host: &str, run: impl FnOnce() -> R + Send) -> R {
        let path = Path::new("/run/netns").join(self.namespace(host));
        let inside = move || {
            let namespace = File::open(path).expect("the namespace is there");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may go into a namespace");
            run()
        };
        let joined = thread::scope(|scope| scope.spawn(inside).join());
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in namespaces() {
            if namespace.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with('-')) {
                remove(&namespace);
            }
        }
    }
}

/// All namespaces of this harness, also those of its other processes.
fn namespaces() -> Vec<String> {
    let listed = ip("netns list").unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.starts_with("room-")).map(str::to_owned).collect()
}

/// Removes a namespace, with the processes that are still in it.
fn remove(namespace: &str) {
    for process in ip(&format!("netns pids {namespace}")).unwrap_or_default().lines() {
        let process = process.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        let killed =
            process.map(|id| rustix::process::kill_process(id, rustix::process::Signal::KILL));
        // The process may have ended by now.
        let _ = killed;
    }
    // Two processes may sweep at the same time.
    let _ = ip(&format!("netns del {namespace}"));
    let _ = std::fs::remove_dir_all(Path::new(FILES).join(namespace));
}

/// Removes the namespaces that killed harnesses have left.
fn sweep() {
    for namespace in namespaces() {
        let process = namespace.split('-').nth(1).unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            remove(&namespace);
        }
    }
}
