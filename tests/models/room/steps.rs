//! All that can happen.

use std::fmt;

use super::Room;
use super::rules::Fault;
use super::search::Model;
use super::state::{Batch, IDS, Id, LINES, Set, Stage, State, View, other_place};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Arrives,
    IsLost,
    BatchIsDelayed,
}

#[derive(Clone, Copy)]
pub(super) enum Step {
    Say(Id),
    Connect(Id),
    Beat(Id),
    Append(Id, Answer),
    DelayedArrives,
    Read(Id),
    GiveUp(usize),
    Forget(usize),
    Stale(Id),
    Trim,
    Save,
    TailLost { clock_behind: bool },
    Flushed,
    StreamDeleted,
    HardCap,
    CutOff(Id),
    Mend(Id),
    Kill(Id),
    Stop(Id),
    Start(Id),
}

pub(super) const NAMES: [&str; IDS] = ["A", "A'", "B", "B'"];

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Say(id) => write!(out, "a member of {} says a line", NAMES[id]),
            Self::Connect(id) => write!(out, "{} connects to Redis", NAMES[id]),
            Self::Beat(id) => write!(out, "{} announces itself and looks", NAMES[id]),
            Self::Append(id, Answer::Arrives) => write!(out, "{} appends", NAMES[id]),
            Self::Append(id, Answer::IsLost) => {
                write!(out, "{} appends, and does not get the answer", NAMES[id])
            }
            Self::Append(id, Answer::BatchIsDelayed) => {
                write!(
                    out,
                    "{} sends a batch, which is delayed, and its connection ends",
                    NAMES[id]
                )
            }
            Self::DelayedArrives => write!(out, "the delayed batch arrives"),
            Self::Read(id) => write!(out, "{} reads an entry", NAMES[id]),
            Self::GiveUp(line) => write!(out, "line {} has waited too long", line + 1),
            Self::Forget(line) => write!(out, "line {} is not kept any more", line + 1),
            Self::Stale(id) => write!(out, "nothing is heard of {} for 10 s", NAMES[id]),
            Self::Trim => write!(out, "the stream is trimmed"),
            Self::Save => write!(out, "Redis saves its data"),
            Self::TailLost { clock_behind: false } => {
                write!(out, "Redis starts with what it saved")
            }
            Self::TailLost { clock_behind: true } => {
                write!(out, "Redis starts with what it saved, and its clock is behind")
            }
            Self::Flushed => write!(out, "all data of Redis are deleted"),
            Self::StreamDeleted => write!(out, "the stream is deleted"),
            Self::HardCap => write!(out, "the hard limit takes the first entry"),
            Self::CutOff(id) => write!(out, "{} is cut off", NAMES[id]),
            Self::Mend(id) => write!(out, "{} is no longer cut off", NAMES[id]),
            Self::Kill(id) => write!(out, "{} is killed", NAMES[id]),
            Self::Stop(id) => write!(out, "{} ends in order", NAMES[id]),
            Self::Start(id) => write!(out, "{} starts", NAMES[id]),
        }
    }
}

impl Model for Room {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        State::new(&self.bounds)
    }

    fn steps(&self, state: &State) -> Vec<(Step, State)> {
        let mut all = Vec::new();
        if state.trouble.is_some() {
            return all;
        }
        let add = |all: &mut Vec<_>, step: Step| {
            let mut next = *state;
            if self.take(step, &mut next) {
                next.forget_what_cannot_matter();
                if next != *state {
                    all.push((step, next));
                }
            }
        };
        self.without_patience().for_each(|step| add(&mut all, step));
        if self.bounds.impatient || all.is_empty() {
            (0..LINES).map(Step::GiveUp).for_each(|step| add(&mut all, step));
        }
        self.possible(state, |step| add(&mut all, step));
        all
    }

    fn goes_on(&self, step: &Step) -> bool {
        matches!(
            step,
            Step::Connect(_)
                | Step::DelayedArrives
                | Step::Beat(_)
                | Step::Append(_, Answer::Arrives)
                | Step::Read(_)
                | Step::Stale(_)
                | Step::GiveUp(_)
        )
    }

    fn check(&self, state: &State, is_end: bool) -> Result<(), String> {
        if let Some(trouble) = state.trouble {
            return Err(format!("{trouble:?}"));
        }
        if !is_end {
            return Ok(());
        }
        for (number, line) in state.lines().iter().enumerate() {
            let author = &state.servers[usize::from(line.author)];
            // A killed server's members see their connections end.
            if line.told || !(author.is_up || author.stopped) {
                continue;
            }
            for reader in other_place(line.author.into()) {
                let there = state.servers[reader].is_up && state.servers[reader].start < line.said;
                let is_lost = state.disturbed || !state.servers[reader].connected;
                let is_back = author.connected
                    && author.views[reader] == View::Live
                    && line.stage != Stage::Forgotten;
                let unknown = line.unknown.has(reader)
                    || line.stage != Stage::Forgotten && author.views[reader] == View::Unknown;
                let excused = line.gone.has(reader) && !is_back || unknown && is_lost;
                if there && !excused && !line.shown.has(reader) {
                    let (line, reader) = (number + 1, NAMES[reader]);
                    return Err(format!("line {line} was not shown at {reader}, and nobody knows"));
                }
            }
        }
        Ok(())
    }
}

impl Room {
    /// The steps that are taken without any fault, but for lost patience.
    fn without_patience(&self) -> impl Iterator<Item = Step> {
        let each = |step: fn(Id) -> Step| (0..IDS).map(step);
        each(Step::Connect)
            .chain([Step::DelayedArrives])
            .chain(each(Step::Beat))
            .chain(each(|id| Step::Append(id, Answer::Arrives)))
            .chain(each(Step::Read))
            .chain(each(Step::Stale))
    }

    /// The other steps that may be taken.
    fn possible(&self, state: &State, mut add: impl FnMut(Step)) {
        let mut each = |step: fn(Id) -> Step| (0..IDS).map(step).for_each(&mut add);
        each(Step::Say);
        each(Step::Start);
        each(Step::Mend);
        (0..LINES).map(Step::Forget).for_each(&mut add);
        let mut each = |step: fn(Id) -> Step| (0..IDS).map(step).for_each(&mut add);
        if state.faults > 0 {
            for kind in self.bounds.kinds {
                match kind {
                    Fault::AnswerLost => each(|id| Step::Append(id, Answer::IsLost)),
                    Fault::Delayed => each(|id| Step::Append(id, Answer::BatchIsDelayed)),
                    Fault::CutOff => each(Step::CutOff),
                    Fault::Killed => each(Step::Kill),
                    Fault::Stopped => each(Step::Stop),
                    _ => {}
                }
            }
        }
        if self.bounds.trims {
            add(Step::Trim);
        }
        if state.faults > 0 {
            add(Step::Save);
            for kind in self.bounds.kinds {
                match kind {
                    Fault::TailLost => add(Step::TailLost { clock_behind: false }),
                    Fault::ClockBehind => add(Step::TailLost { clock_behind: true }),
                    Fault::Flushed => add(Step::Flushed),
                    Fault::StreamDeleted => add(Step::StreamDeleted),
                    Fault::HardCap => add(Step::HardCap),
                    _ => {}
                }
            }
        }
    }

    /// Takes a step. Returns false if it is not possible.
    fn take(&self, step: Step, state: &mut State) -> bool {
        match step {
            Step::Say(id) => self.say(state, id),
            Step::Connect(id) => self.connect(state, id),
            Step::Beat(id) => self.beat(state, id),
            Step::Append(id, answer) => self.append(state, id, answer),
            Step::DelayedArrives => match state.delayed.take() {
                Some(batch) => {
                    self.append_script(state, batch);
                    true
                }
                None => false,
            },
            Step::Read(id) => self.read(state, id),
            Step::GiveUp(line) => self.give_up(state, line),
            Step::Forget(line) => forget(state, line),
            Step::Stale(id) => stale(state, id),
            Step::Trim => self.trim(state),
            Step::Save => {
                let allowed = state.saves > 0;
                state.saves = state.saves.saturating_sub(1);
                state.saved = state.data;
                allowed
            }
            Step::Mend(id) => std::mem::take(&mut state.servers[id].cut_off),
            Step::Start(id) => self.start_server(state, id),
            fault => {
                state.faults -= 1;
                self.fail(state, fault)
            }
        }
    }

    fn fail(&self, state: &mut State, fault: Step) -> bool {
        match fault {
            Step::TailLost { clock_behind } => {
                let last = state.data.last;
                state.data = state.saved;
                if !self.rules.numbers_with_lines {
                    state.data.last = last;
                }
                state.run += 1;
                state.clock_behind = clock_behind;
                state.delayed = None;
                state.servers.iter_mut().for_each(|server| server.connected = false);
                state.disturbed = true;
                true
            }
            Step::Flushed => {
                state.data = Default::default();
                state.disturbed = true;
                true
            }
            Step::StreamDeleted => {
                punch(state, |_| true, |_, _| false);
                state.data.delete_stream();
                true
            }
            Step::HardCap => {
                let Some(first) = state.data.stream().first().copied() else { return false };
                punch(state, |id| id == first.id, |_, _| false);
                state.data.retain(|entry| entry.id != first.id);
                true
            }
            Step::CutOff(id) => {
                let server = &mut state.servers[id];
                server.connected = false;
                server.is_up && !std::mem::replace(&mut server.cut_off, true)
            }
            Step::Kill(id) => end(state, id, false),
            Step::Stop(id) => {
                if self.rules.tells_at_stop {
                    // The authors of lines that have arrived everywhere are not warned.
                    for line in state.lines_of(id) {
                        line.told |= line.stage == Stage::Queued || !line.expects.is_empty();
                    }
                }
                if state.servers[id].connected && state.servers[id].joined {
                    state.data.announced[id] = Default::default();
                    state.stale.add(id);
                }
                end(state, id, true)
            }
            _ => unreachable!("no fault"),
        }
    }

    fn start_server(&self, state: &mut State, id: Id) -> bool {
        let first = &state.servers[id & !1];
        if id % 2 == 0 {
            // A first start may be late.
            let allowed = first.start == 0;
            state.start(id);
            return allowed;
        }
        let allowed =
            first.start > 0 && !first.is_up && state.servers[id].start == 0 && state.restarts > 0;
        if allowed {
            state.restarts -= 1;
            state.start(id);
        }
        allowed
    }

    fn say(&self, state: &mut State, id: Id) -> bool {
        let (said, server) = (usize::from(state.said), state.servers[id]);
        if said == usize::from(self.bounds.lines) || !server.is_up {
            return false;
        }
        // Both places are alike, so the first line may as well come from the first one.
        if said == 0 && id > 1 && !self.bounds.second_starts_late {
            return false;
        }
        state.now += 1;
        let number = 1 + u8::try_from(state.lines_of(id).count()).expect("few lines");
        let mut line = super::state::Line {
            author: u8::try_from(id).expect("few servers"),
            number,
            said: state.now,
            ..Default::default()
        };
        for other in other_place(id) {
            match server.views[other] {
                View::Live => line.expects.add(other),
                View::Gone => line.gone.add(other),
                View::Unknown | View::Seen => {}
            }
        }
        state.lines[said] = line;
        state.said += 1;
        true
    }

    /// Lets patience run out for a line, if it is the first of its author's lines that wait.
    fn give_up(&self, state: &mut State, line: usize) -> bool {
        if line >= state.said.into() || !self.rules.tells_when_late {
            return false;
        }
        let author = usize::from(state.lines[line].author);
        let waits = |line: &super::state::Line| match line.stage {
            Stage::Queued => true,
            Stage::Appended => !line.expects.is_empty(),
            Stage::Forgotten => false,
        };
        let first = state.lines_of(author).find(|line| waits(line)).map(|line| line.number);
        if first != Some(state.lines[line].number) {
            return false;
        }
        let server = &state.servers[author];
        let works = |id: Id| state.servers[id].is_up && state.servers[id].connected;
        let waited = state.lines[line];
        if !self.bounds.impatient
            && server.joined
            && works(author)
            && waited.expects.iter().all(works)
            && !waited.told
        {
            let line = u8::try_from(line).expect("few lines");
            state.trouble = Some(super::state::Trouble::GivenUpWithoutFault { line });
        }
        let views = server.views;
        state.lines[line].told = true;
        let number = state.lines[line].number;
        // The numbers that are kept have no hole.
        for line in state.lines_of(author).filter(|line| line.number <= number) {
            if line.stage != Stage::Forgotten {
                leave(line, views);
            }
        }
        true
    }

    /// Trims as `XTRIM MINID` does, at the lowest place of the servers that are there.
    fn trim(&self, state: &mut State) -> bool {
        let there =
            (0..IDS).filter(|id| state.data.announced[*id].is_there && !state.stale.has(*id));
        let lowest = there.map(|id| state.data.announced[id].place).min();
        let lowest = match lowest {
            Some(_) if !self.rules.trims_behind_readers => u8::MAX,
            Some(lowest) => lowest,
            None => return false,
        };
        // The trimming must spare everything that a server which is there has not read.
        let is_there =
            |state: &State, id: Id| state.data.announced[id].is_there && !state.stale.has(id);
        punch(state, |id| id < lowest, is_there);
        state.data.retain(|entry| entry.id >= lowest);
        true
    }

    /// The writer's step.
    fn append(&self, state: &mut State, id: Id, answer: Answer) -> bool {
        if answer != Answer::Arrives {
            state.faults -= 1;
        }
        if !state.servers[id].connected || !state.servers[id].joined {
            return false;
        }
        let mut batch = Batch {
            from: u8::try_from(id).expect("few servers"),
            base: 0,
            numbers: Set::default(),
            sent: if self.rules.tells_when_it_was_said { 0 } else { state.now },
        };
        let mut kept = state.lines_of(id).filter(|line| line.stage != Stage::Forgotten).peekable();
        batch.base = kept.peek().map_or(0, |line| line.number);
        for line in kept.filter(|line| line.stage == Stage::Queued) {
            batch.numbers.add(line.number.into());
        }
        if batch.numbers.is_empty() {
            return false;
        }
        match answer {
            Answer::Arrives => {
                let last = self.append_script(state, batch);
                self.learn_last(state, id, last);
            }
            Answer::IsLost => {
                self.append_script(state, batch);
                state.servers[id].connected = false;
            }
            Answer::BatchIsDelayed => {
                let busy = state.delayed.replace(batch).is_some();
                state.servers[id].connected = false;
                return !busy;
            }
        }
        true
    }
}

fn stale(state: &mut State, id: Id) -> bool {
    let server = &state.servers[id];
    let matters = state.data.announced[id].is_there
        || state.servers.iter().any(|other| other.views[id] == View::Live);
    let silent = server.start > 0 && (!server.is_up || server.cut_off);
    let is_new = !state.stale.has(id);
    state.stale.add(id);
    silent && matters && is_new
}

/// Removes these entries from the stream, and keeps the numbers.
fn punch(state: &mut State, takes: impl Fn(u8) -> bool, spares: impl Fn(&State, Id) -> bool) {
    for entry in state.data.stream().to_vec().iter().filter(|entry| takes(entry.id)) {
        let line = state.lines[usize::from(entry.line)];
        let mut others = other_place(line.author.into()).into_iter();
        let is_needed =
            others.any(|id| state.servers[id].is_up && !line.shown.has(id) && !spares(state, id));
        state.lines[usize::from(entry.line)].hole |= is_needed;
        state.disturbed |= is_needed;
    }
}

/// Forgets the first kept line of an author, if it has arrived everywhere.
fn forget(state: &mut State, line: usize) -> bool {
    let author = usize::from(state.lines[line].author);
    let views = state.servers[author].views;
    let Some(first) = state.lines_of(author).find(|line| line.stage != Stage::Forgotten) else {
        return false;
    };
    let (number, may) = (first.number, first.stage == Stage::Appended && first.expects.is_empty());
    if line >= state.said.into() || state.lines[line].number != number || !may {
        return false;
    }
    leave(&mut state.lines[line], views);
    true
}

/// Notes that a line is not kept any more, and which servers were not known by then.
fn leave(line: &mut super::state::Line, views: [View; IDS]) {
    for other in other_place(line.author.into()) {
        if views[other] == View::Unknown {
            line.unknown.add(other);
        }
    }
    line.stage = Stage::Forgotten;
    line.expects = Set::default();
}

/// Ends a server.
fn end(state: &mut State, id: Id, stopped: bool) -> bool {
    if !state.servers[id].is_up {
        return false;
    }
    let views = state.servers[id].views;
    for line in state.lines_of(id).filter(|line| line.stage != Stage::Forgotten) {
        leave(line, views);
    }
    let start = state.servers[id].start;
    state.servers[id] = super::state::Server { start, stopped, ..Default::default() };
    true
}
