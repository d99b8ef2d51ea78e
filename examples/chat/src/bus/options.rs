//! The options of the bus: [`BusArguments`] on the command line, and [`BusOptions`], their values.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use common::Failure;
use common::client::ClientTls;

use super::access::{ADDRESS_VARIABLE, BusAddress};
use crate::name::{check_name, normal};

/// The bus, as the command line describes it.
#[derive(Args)]
pub struct BusArguments {
    /// Share the room with other servers, through a Redis that all of them reach: redis://HOST:PORT/ROOM,
    /// rediss://HOST:PORT/ROOM for TLS, redis+unix:///PATH/ROOM for a Unix socket, or
    /// redis+sentinel://HOST:PORT,HOST:PORT/MASTER/ROOM (rediss+sentinel:// for TLS) for the master that Sentinels know.
    /// With USER@ before the host the server logs in as a user of Redis's ACL, and the number of a database may stand
    /// before /ROOM. Without this option and --bus-file the address is the value of CHAT_BUS in the environment
    #[arg(long, value_name = "redis://HOST:PORT/ROOM")]
    pub(super) bus: Option<String>,
    /// A file that has the address of the bus in it, which may be redis://USER:PASSWORD@HOST:PORT/ROOM. It is read again at
    /// each connection
    #[arg(long, value_name = "FILE", conflicts_with = "bus")]
    pub(super) bus_file: Option<PathBuf>,
    /// A file whose first line is the password for the bus; without this option the password is the value of
    /// CHAT_BUS_PASSWORD in the environment. The file is read again at each connection, so that the password can be
    /// changed without a restart. All users of this machine can see a password in --bus
    #[arg(long, value_name = "FILE")]
    pub(super) bus_password_file: Option<PathBuf>,
    /// The user that logs in to the Sentinels, if their ACL names one
    #[arg(long, value_name = "USER", requires = "bus_sentinel_password_file")]
    pub(super) bus_sentinel_user: Option<String>,
    /// A file whose first line is the password of the Sentinels, if they ask for one
    #[arg(long, value_name = "FILE")]
    pub(super) bus_sentinel_password_file: Option<PathBuf>,
    /// A file with the certificates to trust where the bus has TLS, in PEM: those of authorities, or Redis's own. Without
    /// this option the authorities of this system are trusted. This file and those of the next options are read again at
    /// each connection
    #[arg(long, value_name = "FILE")]
    bus_ca: Option<PathBuf>,
    /// The name that certificates of the bus must have [default: the host of the address, or the one that the Sentinels
    /// name]
    #[arg(long, value_name = "NAME")]
    bus_tls_name: Option<String>,
    /// A file with this server's certificate for the bus and those of its issuers, in PEM. Redis asks for it unless its
    /// tls-auth-clients is no
    #[arg(long, value_name = "FILE", requires = "bus_tls_key")]
    bus_tls_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "bus_tls_cert")]
    bus_tls_key: Option<PathBuf>,
    /// The name of this server in the room: its members are NAME@SERVER [default: four random digits]
    #[arg(long, value_name = "SERVER", value_parser = server_name)]
    server: Option<String>,
    /// How long a line may take to reach the other servers before its author is told, in seconds: at least 2
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = bus_wait)]
    bus_wait: Duration,
    /// About how many lines Redis keeps for servers that are cut off or slow. At 200 lines a second 10,000 are 50
    /// seconds; each takes about 200 bytes of Redis's memory besides its text. All servers of a room should have the same
    /// number
    #[arg(long, value_name = "LINES", default_value = "10000", value_parser = common::count)]
    bus_length: usize,
    /// How many lines of this server may wait for the others; more are refused at once. At 200 lines a second 10,000 are
    /// 50 seconds; each takes about 300 bytes of this server's memory besides its text of at most 8 KiB
    #[arg(long, value_name = "LINES", default_value = "10000", value_parser = common::count)]
    bus_queue: usize,
}

/// A bus that this server joins.
#[derive(Clone)]
pub struct BusOptions {
    pub address: BusAddress,
    /// The name of this server; `None` for a random one.
    pub server: Option<String>,
    /// How long a line may take to reach the others before its author is told.
    pub wait: Duration,
    /// About how many entries the stream keeps.
    pub length: usize,
    /// How many entries of this server may wait for Redis and for the other servers.
    pub queue: usize,
}

impl BusArguments {
    /// The bus to the other servers of the room, if there is one.
    pub fn read(&self) -> Result<Option<BusOptions>, Failure> {
        let address = BusAddress::given(self)?;
        if let (None, Some((option, does))) = (&address, self.for_a_bus()) {
            let why = format!("{option} {does}: give --bus, --bus-file or {ADDRESS_VARIABLE}");
            return Err(Failure::Usage(why));
        }
        let &Self { ref server, bus_wait: wait, bus_length: length, bus_queue: queue, .. } = self;
        Ok(address.map(|address| BusOptions {
            address,
            server: server.clone(),
            wait,
            length,
            queue,
        }))
    }

    /// An option that has no effect without a bus, and its meaning.
    fn for_a_bus(&self) -> Option<(&'static str, &'static str)> {
        let opens = "opens the Redis of a bus";
        [
            (self.server.is_some(), "--server", "names this one to other servers"),
            (self.bus_password_file.is_some(), "--bus-password-file", opens),
            (self.bus_sentinel_password_file.is_some(), "--bus-sentinel-password-file", opens),
            (self.bus_tls_cert.is_some(), "--bus-tls-cert", opens),
            (self.bus_ca.is_some(), "--bus-ca", "is for the TLS of a bus"),
            (self.bus_tls_name.is_some(), "--bus-tls-name", "is for the TLS of a bus"),
        ]
        .into_iter()
        .find_map(|(is_given, option, does)| is_given.then_some((option, does)))
    }

    /// The options of TLS, which are those of a client. The address says whether TLS is used.
    pub(super) fn tls(&self) -> ClientTls {
        ClientTls {
            tls: true,
            ca: self.bus_ca.clone(),
            tls_name: self.bus_tls_name.clone(),
            tls_cert: self.bus_tls_cert.clone(),
            tls_key: self.bus_tls_key.clone(),
        }
    }
}

/// Reads the time of `--bus-wait`. Other servers acknowledge a line within a second or so. With less than twice that time
/// authors would be warned of lines that all servers have.
fn bus_wait(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_secs(2);
    match common::seconds(text)? {
        wait if wait < LEAST => Err(format!(
            "it must be at least {} s: other servers take up to a second to say that they have a line",
            LEAST.as_secs()
        )),
        wait => Ok(wait),
    }
}

fn server_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| normal(text))
}
