//! The pages `/status` and `/status.json`: the figures of this server, for its operator's browser and programs.

use std::fmt::{Display, Write};

use clap::ValueEnum;
use common::status::{NEAR, PHASES, ServerStatus, Status as Figures, Use, word};
use socketserver::StreamRequest;

use crate::answer::{Answer, Clock, Connection, HTML, escape};
use crate::files::{Answered, NO_SNIFFING, POLICY};
use crate::protocol::{Head, Method, Status};

/// The clients that get the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Readers {
    /// Clients of this machine
    Local,
    /// All clients
    All,
}

/// Seconds between two loads of the page, without `?every=`.
const EVERY: u32 = 2;

/// The longest time between two loads, in seconds: an hour.
const LONGEST: u32 = 3_600;

/// Answers a request for one of the pages. Returns `None` if the request is for something else, or if the client may not
/// read the pages: it then gets the same answer as if there were no such pages.
pub fn answer(
    readers: Readers,
    request: &StreamRequest,
    head: &Head<'_>,
    (out, clock): (&mut Vec<u8>, &Clock),
    connection: Connection,
) -> Option<Answered> {
    let (path, query) = head.target.split_once('?').unwrap_or((head.target, ""));
    let is_page = path == "/status";
    if !is_page && path != "/status.json" {
        return None;
    }
    let may_read = readers == Readers::All || request.client_address().is_local();
    if !may_read {
        return None;
    }
    let figures = Figures::now();
    let (kind, body) = if is_page {
        (HTML, page(&figures, every(query)))
    } else {
        ("application/json", json(&figures))
    };
    Answer::new(out, clock, Status::Ok, connection)
        .field("Cache-Control", "no-store")
        .field(NO_SNIFFING.0, NO_SNIFFING.1)
        .field(POLICY.0, POLICY.1)
        .body(kind, body.as_bytes(), head.method == Method::Head);
    Some(Answered { status: Status::Ok, bytes: body.len() as u64 })
}

/// The seconds of `?every=SECONDS`; zero is never.
fn every(query: &str) -> u32 {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("every="));
    value.and_then(|value| value.parse().ok()).unwrap_or(EVERY).min(LONGEST)
}

const STYLE: &str = include_str!("status.css");

fn page(figures: &Figures, every: u32) -> String {
    let program = escape(&figures.program);
    let refresh = match every {
        0 => String::new(),
        every => format!("<meta http-equiv=\"refresh\" content=\"{every}\">\n"),
    };
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n{refresh}\
         <title>{program}: status</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{program}</h1>\n\
         <p class=\"about\">process {}{} &middot; up {} &middot; log {} &middot; {}</p>\n",
        figures.process,
        if figures.took_over { ", which has taken another one's place" } else { "" },
        time(figures.uptime.as_secs_f64()),
        figures.level,
        links(every),
    );
    for server in &figures.servers {
        // Writing to memory cannot fail.
        let _ = section(server, &mut html);
    }
    html + "</main>\n</body>\n</html>\n"
}

fn links(every: u32) -> String {
    let refresh = match every {
        0 => "<a href=\"/status\">refresh by itself</a>".to_owned(),
        _ => "<a href=\"/status?every=0\">stand still</a>".to_owned(),
    };
    refresh + " &middot; <a href=\"/status.json\">JSON</a>"
}

fn section(server: &ServerStatus, html: &mut String) -> std::fmt::Result {
    let ServerStatus { address, state, live, rates, figures, .. } = server;
    let address = escape(&address.to_string());
    writeln!(html, "<section>\n<h2>{address} <span class=\"{state}\">{state}</span></h2>")?;
    writeln!(html, "<ol class=\"phases\">")?;
    for phase in PHASES {
        let is_now = if phase == server.phase { " aria-current=\"step\"" } else { "" };
        writeln!(html, "<li{is_now}>{phase}</li>")?;
    }
    writeln!(html, "</ol>\n<dl class=\"big\">")?;
    let rate = |rate: f64| format!("{rate:.1}");
    for (name, value) in [
        ("live", live.to_string()),
        ("accepted / s", rate(rates.accepted)),
        ("ended / s", rate(rates.ended)),
        ("failed / s", rate(rates.failed)),
        ("busy workers", figures.busy.used.to_string()),
        ("waiting for one", figures.queued.used.to_string()),
    ] {
        writeln!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>")?;
    }
    writeln!(html, "</dl>\n<h3>Activities</h3>\n<dl>")?;
    for (activity, count) in &server.activities {
        pair(html, word(*activity), count)?;
    }
    writeln!(html, "</dl>\n<h3>Limits</h3>\n<table class=\"uses\">")?;
    for used in &server.uses {
        write_use(used, html)?;
    }
    writeln!(html, "</table>\n<h3>Counts</h3>\n<dl>")?;
    let counts = server.counts.by_name().into_iter().chain(server.drops());
    for (name, count) in counts.filter(|(name, count)| *count > 0 || *name == "accepted") {
        pair(html, name.replace('_', " "), count)?;
    }
    writeln!(html, "</dl>\n<h3>Slowest</h3>")?;
    slowest(server, html)?;
    writeln!(html, "</section>")
}

fn pair(html: &mut String, name: impl Display, value: impl Display) -> std::fmt::Result {
    writeln!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>")
}

fn write_use(used: &Use, html: &mut String) -> std::fmt::Result {
    let Use { limit, used: now, max, by } = used;
    let (part, name, by) = (used.part(), limit.replace('_', " "), escape(by));
    let class = if part >= NEAR { " class=\"near\"" } else { "" };
    writeln!(
        html,
        "<tr{class}><th scope=\"row\">{name}</th><td class=\"bar\"><meter min=\"0\" max=\"1\" high=\"{NEAR}\" \
         optimum=\"0\" value=\"{part:.3}\">{percent:.0} %</meter></td><td>{percent:.0} %</td>\
         <td>{now:.0} of {max:.0}</td><td class=\"by\">{by}</td></tr>",
        percent = part * 100.0
    )
}

fn slowest(server: &ServerStatus, html: &mut String) -> std::fmt::Result {
    if server.slowest.is_empty() {
        return writeln!(html, "<p>No request is alive.</p>");
    }
    writeln!(
        html,
        "<div class=\"wide\"><table class=\"slow\">\n<tr><th>ID</th><th>client</th><th>age</th>\
         <th>activity</th><th>in</th><th>out</th><th>handler</th></tr>"
    )?;
    for request in &server.slowest {
        writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            request.id,
            escape(&request.client_address.to_string()),
            time(request.age.as_secs_f64()),
            word(request.activity),
            request.bytes_in,
            request.bytes_out,
            escape(request.handler)
        )?;
    }
    writeln!(html, "</table></div>")
}

/// A time as a person reads it.
fn time(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// All figures as JSON. The names of times and amounts have the unit in them.
fn json(figures: &Figures) -> String {
    let mut json = format!(
        "{{\"program\":{},\"process\":{},\"took_over\":{},\"uptime_seconds\":{:.1},\"log\":\"{}\",\"servers\":[",
        text(&figures.program),
        figures.process,
        figures.took_over,
        figures.uptime.as_secs_f64(),
        figures.level
    );
    json += &joined(figures.servers.iter().map(server_json));
    json + "]}\n"
}

fn server_json(server: &ServerStatus) -> String {
    let ServerStatus { address, state, live, rates, figures, .. } = server;
    let count = |(name, count): (&str, u64)| format!("\"{name}\":{count}");
    let activity = |(activity, count): &(_, usize)| format!("\"{}\":{count}", word(*activity));
    let used = |used: &Use| {
        let Use { limit, used: now, max, by } = used;
        format!("{{\"name\":\"{limit}\",\"used\":{now:.1},\"max\":{max:.1},\"by\":{}}}", text(by))
    };
    let request = |request: &socketserver::monitor::LiveRequest| {
        format!(
            "{{\"id\":{},\"client\":{},\"age_seconds\":{:.3},\"activity\":\"{}\",\"bytes_in\":{},\
             \"bytes_out\":{},\"handler\":{}}}",
            request.id,
            text(&request.client_address.to_string()),
            request.age.as_secs_f64(),
            word(request.activity),
            request.bytes_in,
            request.bytes_out,
            text(request.handler)
        )
    };
    let workers = format!(
        "\"busy\":{},\"idle\":{},\"queued\":{}",
        figures.busy.used,
        figures.idle.map_or("null".to_owned(), |idle| idle.to_string()),
        figures.queued.used
    );
    format!(
        "{{\"address\":{},\"state\":\"{state}\",\"phase\":\"{}\",\"live\":{live},\"activities\":{{{}}},\
         \"per_second\":{{\"accepted\":{:.1},\"ended\":{:.1},\"failed\":{:.1},\"over_seconds\":{:.1}}},\
         \"workers\":{{{workers}}},\"counts\":{{{}}},\"limits\":[{}],\"slowest\":[{}]}}",
        text(&address.to_string()),
        server.phase,
        joined(server.activities.iter().map(activity)),
        rates.accepted,
        rates.ended,
        rates.failed,
        rates.over.as_secs_f64(),
        joined(server.counts.by_name().into_iter().chain(server.drops()).map(count)),
        joined(server.uses.iter().map(used)),
        joined(server.slowest.iter().map(request)),
    )
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

/// A text as a string of JSON. In addition to what JSON demands, `<` is escaped, so that no reader takes the text for HTML.
fn text(text: &str) -> String {
    let mut json = "\"".to_owned();
    for letter in text.chars() {
        match letter {
            '"' | '\\' => json.extend(['\\', letter]),
            '<' | '\u{2028}' | '\u{2029}' => {
                // Writing to memory cannot fail.
                let _ = write!(json, "\\u{:04x}", u32::from(letter));
            }
            letter if letter.is_control() => {
                let _ = write!(json, "\\u{:04x}", u32::from(letter));
            }
            letter => json.push(letter),
        }
    }
    json + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_clients_stay_text() {
        let evil = "\"\\</script>\n\u{1b}\u{2028}é";
        assert_eq!(text(evil), "\"\\\"\\\\\\u003c/script>\\u000a\\u001b\\u2028é\"");
    }

    #[test]
    fn the_time_between_two_loads_is_the_readers() {
        for (query, seconds) in [
            ("", 2),
            ("every=0", 0),
            ("a=b&every=5", 5),
            ("every=99999", 3_600),
            ("every=x", 2),
            ("every=-1", 2),
        ] {
            assert_eq!(every(query), seconds, "{query}");
        }
        let figures = Figures::now();
        assert!(page(&figures, 5).contains("content=\"5\""));
        assert!(!page(&figures, 0).contains("http-equiv"));
    }
}
