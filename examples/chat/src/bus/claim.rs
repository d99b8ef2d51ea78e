//! The name of this server, which no other server of the room may have at the same time. Redis knows which server has it.
//!
//! ```text
//! free ----------------------------------------------> ours
//! another server has it, and beats ------------------> not ours: refused at start, left out of the room later
//! another server has it, without a beat for 10 s ----> ours: it was killed
//! ```

use std::time::{Duration, Instant};

use super::GONE;

/// How long a server with an old announcement is watched: if it lived, it would announce itself again in this time.
const WATCHED: Duration = Duration::from_secs(3);

/// A watch over the server that has the name.
#[derive(Debug, Default)]
pub struct Claim {
    /// The server's identifier, its last announcement, and since when the announcement has not changed.
    holder: Option<(String, String, Instant)>,
}

/// The state of the server that has the name, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The holder has announced itself while it was watched.
    Beats,
    /// The holder has not announced itself for this time.
    Silent(Duration),
    /// The holder is gone, and its name may be taken.
    Gone,
}

impl Claim {
    /// Notes that another server has the name, and returns what is known of that server. Its announcement has the age
    /// `age` by Redis's clock, which may have been set since then.
    pub fn watch(
        &mut self,
        holder: &str,
        announcement: &str,
        age: Duration,
        now: Instant,
    ) -> Holder {
        match &self.holder {
            Some((known, last, since)) if known == holder && last == announcement => {
                match now.duration_since(*since) {
                    silent if silent > GONE || (silent > WATCHED && age > GONE) => Holder::Gone,
                    silent => Holder::Silent(silent),
                }
            }
            known => {
                let beats = known.as_ref().is_some_and(|(known, ..)| known == holder);
                self.holder = Some((holder.to_owned(), announcement.to_owned(), now));
                if beats { Holder::Beats } else { Holder::Silent(Duration::ZERO) }
            }
        }
    }

    /// Notes that the name is this server's.
    pub fn is_ours(&mut self) {
        self.holder = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_from_a_server_that_does_not_beat() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut claim = Claim::default();
        assert_eq!(claim.watch("a", "1", Duration::ZERO, start), Holder::Silent(Duration::ZERO));
        assert_eq!(
            claim.watch("a", "1", Duration::ZERO, after(9)),
            Holder::Silent(Duration::from_secs(9))
        );
        assert_eq!(claim.watch("a", "2", Duration::ZERO, after(10)), Holder::Beats);
        assert_eq!(
            claim.watch("a", "2", Duration::ZERO, after(19)),
            Holder::Silent(Duration::from_secs(9))
        );
        // Another server has taken the name.
        assert_eq!(
            claim.watch("b", "1", Duration::ZERO, after(20)),
            Holder::Silent(Duration::ZERO)
        );
        assert_eq!(claim.watch("b", "1", Duration::ZERO, after(31)), Holder::Gone);
        // The announcement of c was old when it was first seen.
        assert_eq!(claim.watch("c", "1", GONE * 2, after(32)), Holder::Silent(Duration::ZERO));
        assert_eq!(claim.watch("c", "1", GONE * 2, after(36)), Holder::Gone);
        claim.is_ours();
        assert_eq!(
            claim.watch("b", "1", Duration::ZERO, after(37)),
            Holder::Silent(Duration::ZERO)
        );
    }
}
