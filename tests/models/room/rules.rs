//! The rules of the protocol, each of which can be taken away, and how far the search goes.

/// The behaviour of the servers and the scripts. With all of these rules the promise holds; without any one of them the
/// search finds how it breaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The append script: a number that is not above the last one is skipped.
    pub(super) skips_what_is_there: bool,
    /// The append script: a number that does not follow the last one, nor is the oldest kept one, ends the batch.
    pub(super) stops_at_a_hole: bool,
    /// The numbers are written in the same step as the lines, and are lost with them.
    pub(super) numbers_with_lines: bool,
    /// A writer forgets a line when it is acknowledged, not when it is appended.
    pub(super) keeps_until_acknowledged: bool,
    /// A writer that finds Redis's last number lower than its own writes again.
    pub(super) rewinds: bool,
    /// A reader shows a number once.
    pub(super) skips_known_numbers: bool,
    /// A reader counts the numbers that it did not see, and says which in its acknowledgement.
    pub(super) tells_gaps: bool,
    /// A reader also counts the numbers before the first one that it sees of a server.
    pub(super) tells_first_gap: bool,
    /// A reader that has read all entries compares its numbers with those of Redis.
    pub(super) compares_numbers: bool,
    /// If the numbers differ, the reader reads the whole stream once more before it says that lines are missing.
    pub(super) searches: bool,
    /// A reader begins again at the stream's beginning if it finds a new run of Redis.
    pub(super) reads_again_after_new_run: bool,
    /// A reader also begins again if the last entry of the stream is before its place.
    pub(super) reads_again_when_ahead: bool,
    /// A reader does not show what was said before its start.
    pub(super) skips_old_lines: bool,
    /// To find old lines, a reader compares times, instead of taking all numbers of the first connection for old ones.
    pub(super) old_by_time: bool,
    /// A line has the time at which it was said, and not its age when it was sent.
    pub(super) tells_when_it_was_said: bool,
    /// The room's time never goes back, whatever clock Redis has.
    pub(super) room_clock: bool,
    /// If a server is gone, the authors of lines that it has not acknowledged are warned.
    pub(super) tells_when_gone: bool,
    /// If a line is not acknowledged in time, its author is warned.
    pub(super) tells_when_late: bool,
    /// At an orderly stop, the authors of lines that are not acknowledged are warned.
    pub(super) tells_at_stop: bool,
    /// Acknowledgements name the identifier of the server's start, not its name.
    pub(super) counts_per_start: bool,
    /// Lines that were said since a server's start wait for it, even if it is heard of only later.
    pub(super) waits_for_late_comers: bool,
    /// A server is waited for from its first announcement on, and not only when it says what it has heard.
    pub(super) waits_from_first_beat: bool,
    /// A line keeps its author as long as it is kept, because a server that is heard of later may report it as missing.
    pub(super) remembers_authors: bool,
    /// Trimming leaves what a live server has not read.
    pub(super) trims_behind_readers: bool,
}

impl Rules {
    pub(super) const ALL: Self = Self {
        skips_what_is_there: true,
        stops_at_a_hole: true,
        numbers_with_lines: true,
        keeps_until_acknowledged: true,
        rewinds: true,
        skips_known_numbers: true,
        tells_gaps: true,
        tells_first_gap: true,
        compares_numbers: true,
        searches: true,
        reads_again_after_new_run: true,
        reads_again_when_ahead: true,
        skips_old_lines: true,
        old_by_time: true,
        tells_when_it_was_said: true,
        room_clock: true,
        tells_when_gone: true,
        tells_when_late: true,
        tells_at_stop: true,
        counts_per_start: true,
        waits_for_late_comers: true,
        waits_from_first_beat: true,
        remembers_authors: true,
        trims_behind_readers: true,
    };
}

/// How much may happen in one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Lines, at most `LINES`.
    pub(super) lines: u8,
    /// Faults in all, each of a kind in `kinds`.
    pub(super) faults: u8,
    pub(super) kinds: &'static [Fault],
    /// How often the data of Redis may be saved: a fault brings back the last save.
    pub(super) saves: u8,
    /// How many servers may start after the first two, in place of one that has ended.
    pub(super) restarts: u8,
    /// Whether the second server starts at some time, and not at the beginning.
    pub(super) second_starts_late: bool,
    /// Whether the stream is trimmed at any time.
    pub(super) trims: bool,
    /// Whether authors are warned of a late line at any moment, and not only when nothing else goes on.
    pub(super) impatient: bool,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A batch is appended, and the answer is lost.
    AnswerLost,
    /// A batch is on its way, and arrives later or never; its writer has given it up.
    Delayed,
    /// Redis ends, and starts with what was saved last; a replica that lags takes over.
    TailLost,
    /// As `TailLost`, and the clock of the new Redis is behind.
    ClockBehind,
    /// All data are deleted.
    Flushed,
    /// The stream is deleted.
    StreamDeleted,
    /// The stream is cut at its hard limit, whether it was read or not.
    HardCap,
    /// A server is cut off.
    CutOff,
    /// A server is killed.
    Killed,
    /// A server ends in order.
    Stopped,
}
