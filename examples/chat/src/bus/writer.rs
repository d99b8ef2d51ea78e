//! The writer: appends the lines of this server to the stream, and announces this server to the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{RedisError, RedisResult};

use super::BEAT;
use super::claim::{Claim, Holder};
use super::link::{Link, Report, Side, name_is_taken, refused};
use super::queue::Queue;
use super::store::{Batch, Beat, Beaten, ByServer, Store};
use crate::name::fold;
use crate::room::Room;

/// The most lines and bytes of one write: a thousand lines in a round trip take a few milliseconds of Redis's time.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;
/// How many times longer the stream may be than it should be, for servers that are slow or cut off.
const LONGER: usize = 10;
/// How often the numbers of heard lines are announced.
const HEARD: Duration = Duration::from_millis(200);
/// How often a server that stops, and waits for the other servers, announces these numbers.
const STOPPING: Duration = Duration::from_millis(50);

pub struct Writer {
    link: Link,
    queue: Arc<Queue>,
    room: Room,
    /// About how many entries the stream keeps.
    length: usize,
    claim: Claim,
    beats: u64,
    /// The members that were announced last; `None` until an announcement has succeeded over this connection. `version` is
    /// the number of the last line before these members were announced.
    members: Option<String>,
    version: u64,
}

impl Writer {
    pub fn new(link: &Link, queue: &Arc<Queue>, room: &Room, length: usize) -> Self {
        let (link, queue, room) = (link.clone(), Arc::clone(queue), room.clone());
        let claim = Claim::default();
        Self { link, queue, room, length, claim, beats: 0, members: None, version: 0 }
    }

    pub fn run(mut self) {
        let link = self.link.clone();
        link.keep(Side::Writer, |store, report| self.write(store, report));
    }

    /// Writes until a failure, or until all lines of the closed queue have arrived.
    fn write(&mut self, store: &mut Store, report: &Report<'_>) -> RedisResult<()> {
        // Redis may have lost the members.
        self.members = None;
        while let Some(why) = self.beat(store)? {
            report(Err(&why));
            if self.queue.is_closing() {
                return Ok(());
            }
            self.queue.pause(BEAT);
        }
        let (mut beat, mut heard) = (Instant::now(), Instant::now());
        loop {
            let is_closing = self.queue.is_closing();
            let pause = if is_closing { STOPPING } else { HEARD };
            if beat.elapsed() >= BEAT || (is_closing && beat.elapsed() >= STOPPING) {
                self.link.check_runs()?;
                if let Some(why) = self.beat(store)? {
                    return Err(why);
                }
                (beat, heard) = (Instant::now(), Instant::now());
            }
            // A Redis that accepts announcements and no lines (its memory is full, say) counts as lost.
            if self.queue.is_waiting() {
                self.append(store)?;
                report(Ok(()));
                continue;
            }
            report(Ok(()));
            if self.queue.is_done() {
                store.leave(self.queue.server(), &fold(self.queue.tag()))?;
                self.queue.leave();
                return Ok(());
            }
            let is_due = heard.elapsed() >= pause;
            let text = if is_due { self.queue.new_heard(&store.run) } else { None };
            if let Some(text) = text {
                let others = store.heard(self.queue.server(), &text)?;
                self.answered(None, &others)?;
                heard = Instant::now();
            }
            self.queue
                .wait_for_work(beat + if is_closing { STOPPING } else { BEAT }, heard + pause);
        }
    }

    /// Appends lines.
    fn append(&self, store: &mut Store) -> RedisResult<()> {
        let mut batch = Batch::default();
        let base = self.queue.waiting(|line| {
            let said = store.clock.at(line.said);
            batch.push(line.number, said, line.what.to_fields(self.queue.tag()));
            batch.lines < BATCH && batch.bytes < BATCH_BYTES
        });
        let cap = self.length.saturating_mul(LONGER);
        let (last, heard) = store.append(self.queue.server(), base, cap, &batch)?;
        self.answered(Some(last), &heard)
    }

    /// Announces this server and its members. Returns why that is not possible, if another server has this one's name.
    fn beat(&mut self, store: &mut Store) -> RedisResult<Option<RedisError>> {
        // News of later changes have larger numbers.
        let last = self.queue.lock().ledger.lines.last();
        let members = self.room.names().iter().map(|(id, name)| format!(" {id}:{name}")).collect();
        // The members of a server that stops leave without news, because the news of its end implies that they leave.
        let has_changed = !self.queue.is_closing() && self.members.as_ref() != Some(&members);
        if has_changed {
            self.version = last;
        }
        self.beats += 1;
        let tag = self.queue.tag();
        let uptime = self.queue.uptime().as_millis();
        let shown = format!("{} {} {uptime} {tag}", self.beats, self.version);
        let listed = format!("{}{members}", self.version);
        let heard = self.queue.heard(&store.run);
        let mut beat = Beat {
            server: self.queue.server(),
            name: &fold(tag),
            shown: &shown,
            members: if has_changed { &listed } else { "" },
            heard: &heard,
            length: self.length,
            instead: ("", ""),
        };
        let mut answer = store.beat(&beat)?;
        if matches!(answer, Beaten::Unlisted) {
            beat.members = &listed;
            answer = store.beat(&beat)?;
        }
        if let Beaten::Taken(holder, announcement, age) = &answer {
            let now = Instant::now();
            if self.claim.watch(holder, announcement, *age, now) == Holder::Gone {
                answer = store.beat(&Beat { instead: (holder, announcement), ..beat })?;
            }
        }
        while matches!(answer, Beaten::Announced(..)) && store.clock.is_rough() {
            answer = store.beat(&beat)?;
        }
        match answer {
            Beaten::Announced(last, heard) => {
                self.claim.is_ours();
                self.members = Some(members);
                self.answered(Some(last), &heard).map(|()| None)
            }
            Beaten::Unlisted => {
                Err(refused("it does not keep the members of this server".to_owned()))
            }
            Beaten::Taken(..) => Ok(Some(name_is_taken(tag))),
        }
    }

    fn answered(&self, last: Option<u64>, heard: &ByServer) -> RedisResult<()> {
        let told = self.queue.answered(last, heard);
        let told =
            told.ok_or_else(|| refused("it has lines that this server has not said".to_owned()));
        self.link.tell(&told?);
        Ok(())
    }
}
