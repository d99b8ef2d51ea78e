//! Time: the time of day as text, as RFC 867 has it, over a connection and over a datagram.
//!
//! ```text
//! cargo run --release --bin time -- serve --bind 127.0.0.1:3700 --bind udp:127.0.0.1:3700
//! nc 127.0.0.1 3700
//! cargo run --release --bin time -- connect udp:127.0.0.1:3700
//! ```
//!
//! Each of the two handlers is one line. They show UDP beside TCP, and functions as handlers.
//!
//! Limits: the time is UTC. Every datagram is answered to the address that it names as its sender, which may be
//! forged. The answer is short, some forty bytes, but two of these servers can be made to answer each other for ever: use
//! UDP in networks whose members are known.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use common::Endpoint;
use common::client::{ClientTls, ask, broke, connect, open, show};
use common::{Failure, Program, ServeOptions, ServeTls};
use socketserver::handler::MakeHandler;
use socketserver::tls::Tls;
use socketserver::{DatagramRequest, HandlerResult, StreamRequest, datagram_fn, stream_fn};

fn tell(request: &mut StreamRequest) -> HandlerResult {
    writeln!(request, "{}", now())?;
    Ok(())
}

fn answer(request: &mut DatagramRequest) -> HandlerResult {
    writeln!(request, "{}", now())?;
    Ok(())
}

/// Tells the time.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until Ctrl-C
    #[command(mut_arg("bind", common::datagrams_too::<TimeServer>))]
    Serve {
        #[command(flatten)]
        options: ServeOptions,
        #[command(flatten)]
        tls: ServeTls,
    },
    /// Ask for the time
    Connect {
        /// The server's address
        #[arg(value_name = "ADDR", default_value = TimeServer::DEFAULT_BIND)]
        address: Endpoint,
        #[command(flatten)]
        tls: ClientTls,
    },
    /// Ask a running server, or change it
    Control(common::ControlOptions),
}

struct TimeServer {
    tls: Option<Tls>,
}

impl Program for TimeServer {
    const DEFAULT_BIND: &'static str = "127.0.0.1:3700";

    fn exposure(&self) -> String {
        "anyone there may ask for the time".to_owned()
    }

    fn stream(&self) -> impl MakeHandler<StreamRequest> {
        stream_fn(tell)
    }

    fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>> {
        Some(datagram_fn(answer))
    }

    fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }
}

fn main() -> ExitCode {
    common::exit(match Cli::parse().command {
        Command::Control(options) => common::control(&options),
        Command::Serve { options, tls } => {
            tls.load().and_then(|tls| common::serve(&TimeServer { tls }, &options))
        }
        Command::Connect { address, tls } => run_client(&address, &tls),
    })
}

/// How many bytes of an answer are kept: enough for every form of a time, and a bound on the memory that a wrong server can
/// fill.
const LONGEST: u64 = 4_096;

fn run_client(endpoint: &Endpoint, tls: &ClientTls) -> Result<(), Failure> {
    if endpoint.is_datagram() && !tls.tls {
        return show(&ask(&connect(endpoint)?, endpoint, b"")?);
    }
    let connection = open(endpoint, tls)?;
    let mut text = Vec::new();
    let whole = (&connection).take(LONGEST).read_to_end(&mut text);
    // A wrong server may send more. The rest is read and not kept, so that a connection that breaks is reported as broken.
    let rest = whole.and_then(|_| io::copy(&mut &connection, &mut io::sink()));
    if rest.map_err(|error| broke(endpoint, &error))? > 0 {
        let why = format!("{endpoint} sends more than a time; is the address right?");
        return Err(Failure::Other(why));
    }
    if text.is_empty() {
        // A server that waits for a TLS handshake in vain ends the connection like this.
        let advice = if tls.tls { "" } else { "; if it speaks TLS, give --tls" };
        let why = format!("{endpoint} has ended the connection without a word{advice}");
        return Err(Failure::Other(why));
    }
    show(&text)
}

/// The time as RFC 867 suggests it: `Sunday, November 22, 2026 13:37:00-UTC`.
fn now() -> String {
    // A clock that is set before 1970 gives 1970.
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(seconds)
}

fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] =
        ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [(&str, u64); 12] = [
        ("January", 31),
        ("February", 28),
        ("March", 31),
        ("April", 30),
        ("May", 31),
        ("June", 30),
        ("July", 31),
        ("August", 31),
        ("September", 30),
        ("October", 31),
        ("November", 30),
        ("December", 31),
    ];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    let length = |month: usize| MONTHS[month].1 + u64::from(month == 1 && is_leap(year));
    while day >= length(month) {
        day -= length(month);
        month += 1;
    }
    format!(
        "{}, {} {}, {year} {:02}:{:02}:{:02}-UTC",
        DAYS[usize::try_from(days % 7).unwrap_or(0)],
        MONTHS[month].0,
        day + 1,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "Thursday, January 1, 1970 00:00:00-UTC");
        assert_eq!(date(951_782_399), "Monday, February 28, 2000 23:59:59-UTC");
        assert_eq!(date(951_782_400), "Tuesday, February 29, 2000 00:00:00-UTC");
        assert_eq!(date(1_795_354_620), "Sunday, November 22, 2026 13:37:00-UTC");
    }
}
