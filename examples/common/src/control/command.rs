//! The commands: each is one line, and has one answer. Nothing here waits for a peer.

use std::cell::RefCell;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::Duration;

use socketserver::monitor::{Fill, RunPhase, ServerEvent};
use socketserver::{BaseServer, Limits, ServerContext};

use super::{HELP, Servers};
use crate::log::{self, Level};
use crate::status::{self, Status, clean, row};
use crate::values;

/// Obeys the commands of a program's operators.
pub(crate) struct Operator {
    servers: Servers,
}

/// The answer to a command: the whole text, whose last line begins with `ok` or `error`; and the next step.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) then: Then,
}

/// The next step of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It waits for the next command.
    Next,
    /// It sends the answer to `status` at this interval, until a line comes.
    Watch(Duration),
    /// It ends.
    End,
}

impl From<Result<String, String>> for Answer {
    /// Makes the answer from its lines, of which the last one is the text after `ok`, or from the reason of a failure.
    fn from(result: Result<String, String>) -> Self {
        let text = match result {
            Ok(lines) => {
                let (before, last) = lines.rsplit_once('\n').unwrap_or(("", &lines));
                let before = if before.is_empty() { String::new() } else { format!("{before}\n") };
                format!("{before}ok {last}").trim_end().to_owned() + "\n"
            }
            Err(why) => format!("error {}\n", clean(&why)),
        };
        Self { text, then: Then::Next }
    }
}

impl Operator {
    pub(crate) fn new(servers: Servers) -> Self {
        Self { servers }
    }

    /// Obeys a command.
    pub(crate) fn obey(&self, line: &[u8]) -> Answer {
        let line = String::from_utf8_lossy(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        let result = match words[..] {
            // Enter at a terminal sends an empty line.
            [] => Ok(String::new()),
            ["live"] => Ok(self.live(usize::MAX)),
            ["live", count] => values::rows(count)
                .map(|count| self.live(count))
                .map_err(|why| format!("cannot list {count:?}: {why}")),
            ["close", id] => self.close(id),
            ["limits"] => Ok(self.limits()),
            ["limit", name, value] => self.limit(name, value),
            ["counts"] => Ok(self.counts()),
            ["figures"] => Ok(self.figures()),
            ["status"] => Ok(Status::now().lines()),
            ["watch"] => return Self::watch("1"),
            ["watch", seconds] => return Self::watch(seconds),
            ["log"] => Ok(format!("the log is {}", log::level())),
            ["log", level] => set_log(level),
            ["reload"] => self.reload(),
            ["drain"] => self.drain(None),
            ["drain", seconds] => self.drain(Some(seconds)),
            ["stop"] => self.stop(),
            ["help"] => Ok(HELP.to_owned()),
            ["quit"] => return Answer { text: "ok\n".to_owned(), then: Then::End },
            [command, ..] => Err(misused(command)),
        };
        result.into()
    }

    /// The ID of a request, as the operator sees it. If there are several servers, the number of its server stands in
    /// front.
    fn id(&self, server: usize, request: u64) -> String {
        if self.servers.len() == 1 {
            request.to_string()
        } else {
            format!("{}:{request}", server + 1)
        }
    }

    fn live(&self, count: usize) -> String {
        let servers = self.servers.iter().enumerate();
        let mut live: Vec<_> = servers
            .flat_map(|(server, at)| {
                at.context().live().into_iter().map(move |found| (server, found))
            })
            .collect();
        let alive = live.len();
        live.sort_by_key(|(_, request)| std::cmp::Reverse(request.age));
        let mut text = "ID\tCLIENT\tAGE\tACTIVITY\tIN\tOUT\tHANDLER\n".to_owned();
        for (server, request) in live.iter().take(count) {
            text += &row(&self.id(*server, request.id), request);
            text.push('\n');
        }
        text + &format!("{alive} live")
    }

    fn close(&self, id: &str) -> Result<String, String> {
        let found = match id.split_once(':') {
            None if self.servers.len() == 1 => Some(("1", id)),
            None => None,
            parts => parts,
        };
        let number = |text: &str| text.parse::<u64>().ok();
        let found = found.and_then(|(server, request)| {
            let server = usize::try_from(number(server)?).ok()?.checked_sub(1)?;
            Some((self.servers.get(server)?, number(request)?))
        });
        let Some((server, request)) = found else {
            return Err(format!("there is no request {id:?}: write an ID as `live` shows it"));
        };
        if server.context().close_live(request) {
            return Ok(format!("request {id} is closed"));
        }
        Err(format!("request {id} is not closed: it has ended, or it is a datagram"))
    }

    /// A table with a column for each server.
    fn table<V: Display>(
        &self,
        head: &str,
        rows: impl Fn(&ServerContext) -> Vec<(&'static str, V)>,
    ) -> String {
        let columns: Vec<_> = self.servers.iter().map(|server| rows(server.context())).collect();
        let mut text = head.to_owned();
        // Writing to memory cannot fail.
        for server in &self.servers {
            let _ = write!(text, "\t{}", clean(&server.server_address().to_string()));
        }
        for (row, (name, _)) in columns.first().into_iter().flatten().enumerate() {
            let _ = write!(text, "\n{name}");
            for column in &columns {
                let _ = write!(text, "\t{}", column[row].1);
            }
        }
        text + "\n"
    }

    /// The limits of each server: those of datagrams and of streams may differ.
    fn limits(&self) -> String {
        let value = |limits: Limits, name| limits.get(name).unwrap_or_default();
        self.table("LIMIT", |server| {
            let limits = server.limits();
            Limits::NAMES.iter().map(|name| (*name, value(limits, name))).collect()
        })
    }

    fn limit(&self, name: &str, value: &str) -> Result<String, String> {
        // All servers have limits of the same names, so a limit is set for all of them or for none.
        for server in &self.servers {
            server.context().set_limit(name, value).map_err(|error| error.to_string())?;
        }
        let now = self.servers.first().and_then(|server| server.context().limits().get(name));
        Ok(format!("{name} is {} for new requests", now.unwrap_or_default()))
    }

    fn counts(&self) -> String {
        self.table("COUNT", |server| server.counts().by_name())
    }

    fn figures(&self) -> String {
        let known = |fill: Option<Fill>| fill.map_or("-".to_owned(), |fill| fill.to_string());
        let number = |number: Option<u64>| known(number.map(|number| Fill::new(number, None)));
        self.table("FIGURE", |server| {
            let figures = server.figures();
            vec![
                ("live", known(Some(figures.live))),
                ("busy workers", known(Some(figures.busy))),
                ("idle workers", number(figures.idle)),
                ("queued", known(Some(figures.queued))),
                ("accept queue", known(figures.accept_queue)),
                ("accept drops", number(figures.accept_drops)),
                ("receive buffer", known(figures.receive_buffer)),
                ("datagram drops", number(figures.datagram_drops)),
                ("descriptors", known(figures.descriptors)),
            ]
        })
    }

    fn watch(seconds: &str) -> Answer {
        let every = crate::seconds(seconds).ok().filter(|every| WATCH.contains(every));
        match every {
            Some(every) => {
                let first: Answer = Ok(Status::now().lines()).into();
                Answer { then: Then::Watch(every), ..first }
            }
            None => Err(format!("cannot watch every {seconds:?}: write seconds, from 0.1 to 3600"))
                .into(),
        }
    }

    fn reload(&self) -> Result<String, String> {
        let failures: Vec<String> = self
            .servers
            .iter()
            .filter_map(|server| {
                // The observers run on this thread, so a failure is in this thread's `RELOAD_FAILED`.
                server.reload();
                RELOAD_FAILED.take().map(|why| format!("{}: {why}", server.server_address()))
            })
            .collect();
        if failures.is_empty() {
            return Ok("it has read again what it reads at SIGHUP".to_owned());
        }
        Err(format!(
            "the reload failed, and the program goes on as before: {}",
            failures.join("; ")
        ))
    }

    fn is_stopping(&self) -> bool {
        self.servers.iter().any(|server| server.shutdown_handle().is_shutdown())
    }

    fn drain(&self, seconds: Option<&str>) -> Result<String, String> {
        if self.is_stopping() {
            return Err("it is already stopping: `stop` ends its requests at once".to_owned());
        }
        if let Some(seconds) = seconds {
            self.limit("drain", seconds)?;
        }
        // `retire` stops the server as SIGTERM does: if it has a lame duck, it goes on serving for that time.
        self.servers.iter().for_each(|server| server.shutdown_handle().retire());
        let limits = self.servers.first().map(|server| server.context().limits());
        let value = |name| limits.and_then(|limits| limits.get(name)).unwrap_or_default();
        let duck = match limits {
            Some(limits) if !limits.lame_duck.is_zero() => {
                format!("it serves for another {}, and then stops", value("lame_duck"))
            }
            _ => "it stops".to_owned(),
        };
        Ok(format!("{duck}; its requests may take {}", value("drain")))
    }

    fn stop(&self) -> Result<String, String> {
        // A server past `Ready` is being closed: the next phase, the lame duck, belongs to the close.
        let is_closing =
            |server: &Arc<dyn BaseServer>| server.context().run_phase() > RunPhase::Ready;
        let was_stopping = self.is_stopping() || self.servers.iter().any(is_closing);
        self.limit("drain", "0")?;
        self.servers.iter().for_each(|server| server.shutdown_handle().shutdown());
        if was_stopping {
            // A close that is under way keeps the deadline with which it began, whatever the limit is now. This call
            // moves the deadline to now.
            for server in &self.servers {
                server.server_close_within(Duration::ZERO);
            }
        }
        Ok("it stops at once".to_owned())
    }
}

thread_local! {
    /// The failure of the last reload that this thread has ordered.
    static RELOAD_FAILED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// An observer of the servers. It keeps the failure of a reload for the operator who has asked for the reload, and the
/// number of the successor for operators that watch.
pub(crate) fn observe(event: &ServerEvent<'_>) {
    match event {
        ServerEvent::Reloaded { error: Some(error), .. } => {
            RELOAD_FAILED.set(Some(error.to_string()));
        }
        ServerEvent::HandedOver { process, .. } => status::handed_over(*process),
        _ => {}
    }
}

/// The intervals that `watch` accepts: a tenth of a second costs nothing, and an hour is as good as never.
const WATCH: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3_600);

fn set_log(level: &str) -> Result<String, String> {
    let level = <Level as clap::ValueEnum>::from_str(level, true)
        .map_err(|_| format!("the log cannot be {level:?}: write quiet, normal or verbose"))?;
    log::set_level(level);
    Ok(format!("the log is {level}"))
}

/// The error for an unknown command, or for a command with the wrong words after it.
fn misused(command: &str) -> String {
    let usage = HELP.lines().find(|line| line.split_whitespace().next() == Some(command));
    match usage.and_then(|line| line.split("  ").next()) {
        Some(usage) => format!("write: {usage}"),
        None => format!("there is no command {command:?}; `help` lists them"),
    }
}
