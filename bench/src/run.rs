//! A run: it measures every server under every load for some rounds, and writes the medians as tables and plots.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;

use crate::figures::{Figure, Figures, median};
use crate::gates::compared;
use crate::load::{Load, Plan};
use crate::process::{Process, Trouble};
use crate::servers::{SERVERS, Server, TWO_WORKERS};
use crate::{interrupt, plot, report, sys, usage};

#[derive(Debug, Args)]
pub struct Options {
    /// Loads by name (pingpong-64) or by family (pingpong). Default: all that the goals speak of
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    /// Servers by name, e.g. Threading,"std threads". Default: all
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// Only the pairs of the gates, each server of ours right before its peer. With many short rounds
    /// (--rounds 30 --seconds 0.5) the ratios are the most precise
    #[arg(long)]
    gates: bool,
    /// Rounds; the order of the servers rotates from one to the next
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds of each measurement, after a warm-up of a third of it
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Connections of pingpong, in place of 1,64,1000,10000
    #[arg(long, value_delimiter = ',')]
    connections: Vec<usize>,
    /// Leave servers and load on all processors, in place of one each
    #[arg(long)]
    pub unpinned: bool,
    /// A file for the tables, which are printed as well; the plots go to a folder `plots` next to it
    #[arg(long)]
    out: Option<PathBuf>,
}

/// How long a process may take from its first closed connection to its end.
const DYING: Duration = Duration::from_millis(200);

/// The measurements of one server in one load, by round.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<u32, Figures>);

impl Samples {
    /// The median over the rounds.
    pub fn median(&self, figure: Figure) -> Option<f64> {
        median(self.values(figure))
    }

    /// The values of this figure, one of each round.
    pub fn values(&self, figure: Figure) -> Vec<f64> {
        self.0.values().filter_map(|figures| figures.get(&figure).copied()).collect()
    }

    /// The ratios of this figure to that of `base`, one of each round, in which both servers ran one soon after the
    /// other.
    pub fn ratios(&self, base: &Self, figure: Figure) -> Vec<f64> {
        let ratio = |(round, figures): (&u32, &Figures)| {
            let base = base.0.get(round)?.get(&figure)?;
            Some(figures.get(&figure)? / base).filter(|ratio| ratio.is_finite())
        };
        self.0.iter().filter_map(ratio).collect()
    }
}

/// All results of a run.
#[derive(Debug, Default)]
pub struct Results {
    pub loads: Vec<Load>,
    samples: BTreeMap<(String, &'static str), Samples>,
    /// Measurements without a figure, and why; each once.
    pub troubles: Vec<(Load, &'static str, Trouble)>,
}

impl Results {
    /// The measurements of a server in a load.
    pub fn of(&self, load: Load, server: &str) -> Option<&Samples> {
        let server = SERVERS.iter().find(|known| known.name == server)?.name;
        self.samples.get(&(load.to_string(), server))
    }

    fn add(&mut self, load: Load, server: &'static str, round: u32, figures: Figures) {
        self.samples.entry((load.to_string(), server)).or_default().0.insert(round, figures);
    }
}

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if cfg!(debug_assertions) {
        return Err("figures of a debug build say nothing: cargo run --release -p bench".into());
    }
    check_built()?;
    let (loads, servers) = (options.loads()?, options.servers()?);
    let machine = report::machine();
    let bench = Bench::new(options)?;
    interrupt::listen()?;
    let others = usage::Others::begin();
    let mut results = Results::default();
    let mut stopped = Ok(());
    for load in loads {
        results.loads.push(load);
        let servers = in_pairs(load, &servers, options.gates);
        stopped = bench.measure(load, servers, &mut results);
        if stopped.is_err() {
            break;
        }
    }
    // An incomplete report is worth showing, too.
    let machine = format!("{machine}; other programs used {:.2} of a processor", others.share());
    let text = report::write(options, &machine, &results);
    print!("{text}");
    if let Some(out) = &options.out
        && stopped.is_ok()
    {
        save(out, &text, &results)?;
    }
    Ok(stopped?)
}

/// The servers for a load. First those that its gates compare, each of ours right before its peer: the less time
/// between the two, the more precise the ratio. Then the others, unless only the gates count.
fn in_pairs(
    load: Load,
    servers: &[&'static Server],
    gates_only: bool,
) -> impl Iterator<Item = &'static Server> {
    let compared = compared(load);
    let place = |server: &Server| compared.iter().position(|&name| name == server.name);
    let able = servers.iter().copied().filter(|server| server.can(load));
    let (mut pairs, others): (Vec<_>, Vec<_>) = able.partition(|server| place(server).is_some());
    pairs.sort_by_key(|server| place(server));
    pairs.into_iter().chain(others.into_iter().filter(move |_| !gates_only))
}

/// Fails if our own servers are not built. This program does not build them, so that no compiler runs during a
/// measurement.
fn check_built() -> Result<(), Box<dyn Error>> {
    let echo = std::env::current_exe()?.with_file_name("echo");
    if echo.is_file() {
        return Ok(());
    }
    Err("there is no release build of ours: cargo build --release --bin echo".into())
}

impl Options {
    fn loads(&self) -> Result<Vec<Load>, String> {
        let mut loads = Vec::new();
        let families: Vec<_> = Load::ALL.iter().map(|load| load.family()).collect();
        let all = [
            "pingpong",
            "churn",
            "udp",
            "upload",
            "store",
            "idle",
            "chat",
            "http",
            "tls-pingpong",
            "tls-handshakes",
            "tls-resumed",
        ];
        let all = all.map(String::from);
        if self.gates && self.loads.is_empty() {
            loads.extend(Load::ALL.iter().filter(|&&load| !compared(load).is_empty()));
            return Ok(loads);
        }
        let named = if self.loads.is_empty() { &all[..] } else { &self.loads };
        for name in named {
            if name == "pingpong" && !self.connections.is_empty() {
                loads.extend(self.connections.iter().map(|&count| Load::Pingpong(count.max(1))));
            } else if families.contains(&name.as_str()) {
                loads.extend(Load::ALL.iter().filter(|load| load.family() == name));
            } else {
                loads.push(name.parse()?);
            }
        }
        Ok(loads)
    }

    fn servers(&self) -> Result<Vec<&'static Server>, String> {
        if self.servers.is_empty() {
            let fits = |server: &&Server| self.unpinned || server.name != TWO_WORKERS;
            return Ok(SERVERS.iter().filter(fits).collect());
        }
        let find = |name: &String| {
            let known = SERVERS.iter().find(|server| server.name.eq_ignore_ascii_case(name));
            known.ok_or_else(|| {
                let names: Vec<_> = SERVERS.iter().map(|server| server.name).collect();
                format!("there is no server '{name}'; there are: {}", names.join(", "))
            })
        };
        self.servers.iter().map(find).collect()
    }
}

/// Settings of all measurements.
struct Bench {
    plan: Plan,
    rounds: u32,
    /// The processor of the servers.
    processor: Option<usize>,
    descriptors: usize,
}

impl Bench {
    /// Pins this process to its processor, and keeps another for the servers.
    fn new(options: &Options) -> Result<Self, Box<dyn Error>> {
        let time = Duration::try_from_secs_f64(options.seconds)?;
        let mut processor = None;
        if !options.unpinned {
            let [server, load, ..] = sys::processors()?[..] else {
                return Err("there is one processor only: measure with --unpinned".into());
            };
            sys::pin(load)?;
            processor = Some(server);
        }
        let plan = Plan { warm_up: time / 3, time };
        let descriptors = sys::raise_descriptors()?;
        Ok(Self { plan, rounds: options.rounds, processor, descriptors })
    }

    /// Measures all servers in one load. Fails only if a signal stops the run.
    fn measure(
        &self,
        load: Load,
        servers: impl Iterator<Item = &'static Server>,
        to: &mut Results,
    ) -> io::Result<()> {
        // The program itself needs some descriptors, and so does a server.
        if load.at_once() + 100 > self.descriptors {
            let why = format!("only {} descriptors are allowed", self.descriptors);
            to.troubles.push((load, "all", Trouble::Skipped(why)));
            return Ok(());
        }
        let mut servers: Vec<_> = servers.collect();
        for round in 1..=self.rounds {
            let mut next = Vec::new();
            for server in servers {
                eprint!("{load}, round {round} of {}, {}: ", self.rounds, server.name);
                let result = self.measure_one(load, server);
                interrupt::check()?;
                match result {
                    Ok(figures) => {
                        eprintln!("{}", report::short(load, &figures));
                        to.add(load, server.name, round, figures);
                        next.push(server);
                    }
                    Err(trouble) => {
                        eprintln!("{}", report::trouble(&trouble));
                        to.troubles.push((load, server.name, trouble));
                    }
                }
            }
            // A server that could not do the load is not tried again. The first server goes last in the next round.
            servers = next;
            if !servers.is_empty() {
                servers.rotate_left(1);
            }
        }
        Ok(())
    }

    fn measure_one(&self, load: Load, server: &Server) -> Result<Figures, Trouble> {
        let mut process = Process::start(server.command(load)?, self.processor)?;
        let result = load.measure(&process, self.plan);
        if result.is_err() {
            // A dying process closes its connections first: the error may be the beginning of its end.
            thread::sleep(DYING);
        }
        let death = process.death();
        match (result, death) {
            (Ok(figures), None) => Ok(figures),
            (_, Some(death)) => Err(Trouble::Failed(death)),
            (Err(error), None) => Err(Trouble::Failed(error.to_string())),
        }
    }
}

/// Writes the tables and the plots.
fn save(out: &Path, text: &str, results: &Results) -> io::Result<()> {
    let plots = out.with_file_name("plots");
    fs::create_dir_all(&plots)?;
    fs::write(out, text)?;
    for &load in &results.loads {
        if let Some(picture) = plot::draw(load, results) {
            fs::write(plots.join(format!("{load}.svg")), picture)?;
        }
    }
    if let Some(picture) = plot::draw_overview(results) {
        fs::write(plots.join("overview.svg"), picture)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gate_compares_is_measured_one_right_after_the_other() {
        let names = |load, gates_only| {
            let all: Vec<_> = SERVERS.iter().collect();
            in_pairs(load, &all, gates_only).map(|server| server.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Load::Udp(16, 16), true), ["Inline", "mmsg", "Green"]);
        let churn = names(Load::Churn(64), false);
        let place = |name| churn.iter().position(|&other| other == name).unwrap();
        for (ours, peer) in [("Inline", "epoll"), ("Pool", "pool of 4"), ("Forking", "bare fork")] {
            assert_eq!(place(ours) + 1, place(peer), "{churn:?}");
        }
        assert_eq!(churn.len(), SERVERS.iter().filter(|it| it.can(Load::Churn(64))).count());
        assert_eq!(names(Load::Churn(1), true), [""; 0]);
    }
}
