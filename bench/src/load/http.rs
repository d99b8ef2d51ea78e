//! HTTP requests by wrk, a load generator that has to be installed.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::{self, Command};
use std::time::Duration;

use super::Plan;
use super::session::{rates, unexpected};
use crate::figures::{Figure, Figures};
use crate::process::Process;
use crate::{interrupt, sys, usage};

/// Whether wrk is installed.
pub fn is_there() -> bool {
    Command::new("wrk").arg("--version").output().is_ok()
}

/// The script that makes wrk send several requests at once.
const PIPELINE: &str = "
init = function(args)
  local all = {}
  for i = 1, tonumber(args[1]) do all[i] = wrk.format() end
  text = table.concat(all)
end
request = function() return text end
";

pub fn measure(
    process: &Process,
    connections: usize,
    window: usize,
    plan: Plan,
) -> io::Result<Figures> {
    let mut script = sys::memory_file()?;
    script.write_all(PIPELINE.as_bytes())?;
    let script = format!("/proc/{}/fd/{}", process::id(), script.as_raw_fd());
    let wrk = |seconds: u64| {
        let mut command = Command::new("wrk");
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--latency"]);
        if window > 1 {
            command.args(["-s", &script]);
        }
        command.args([&format!("http://{}/", process.address()), "--", &window.to_string()]);
        command.output()
    };
    wrk(plan.warm_up.as_secs().max(1))?;
    interrupt::check()?;
    let cpu = usage::cpu(process.group());
    let output = wrk(plan.time.as_secs().max(1))?;
    let cpu = usage::cpu(process.group()).saturating_sub(cpu);
    interrupt::check()?;
    read(&String::from_utf8_lossy(&output.stdout), cpu)
}

/// Parses the output of wrk. Connection errors and answers other than 200 invalidate it.
fn read(text: &str, cpu: Duration) -> io::Result<Figures> {
    let after = |word: &str| text.lines().find_map(|line| line.trim().strip_prefix(word));
    if let Some(line) = after("Socket errors:").or_else(|| after("Non-2xx or 3xx responses:")) {
        return Err(unexpected(&format!("wrk counted errors: {line}")));
    }
    let total = text.lines().find_map(|line| {
        let (requests, time) = line.trim().split_once(" requests in ")?;
        let time = micros(time.split(',').next()?)? / 1e6;
        Some((requests.parse::<u64>().ok()?, Duration::from_secs_f64(time)))
    });
    let (requests, time) = total.ok_or_else(|| unexpected("wrk gave no figures"))?;
    let mut figures = rates(requests, time, cpu);
    for (figure, word) in [(Figure::P50, "50%"), (Figure::P99, "99%")] {
        figures.extend(after(word).and_then(micros).map(|time| (figure, time)));
    }
    Ok(figures)
}

/// A time as wrk writes it, in microseconds.
fn micros(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
    let factor = match &text[digits.len()..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read() {
        let text = "Running 3s test\n  Latency Distribution\n     50%    0.29ms\n     99%  812.00us\n  \
                    600 requests in 3.00s, 1MB read\nRequests/sec:    200.00\n";
        let figures = read(text, Duration::from_micros(1_200)).unwrap();
        let expected = [(Figure::Rate, 200.0), (Figure::Cpu, 2.0), (Figure::P50, 290.0)];
        for (figure, value) in expected {
            assert!((figures[&figure] - value).abs() < 1e-6, "{figures:?}");
        }
        assert!(read(&format!("{text}  Socket errors: connect 1\n"), Duration::ZERO).is_err());
        assert!(read("", Duration::ZERO).is_err());
    }
}
