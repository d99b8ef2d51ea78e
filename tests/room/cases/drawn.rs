//! Rounds of random faults in which the promise once was not kept. `room --seed N` plays such a round.

use room::rounds;

use crate::Case;

pub const CASES: &[Case] = &[
    // Redis lost the members' names, and a server that started later never saw them.
    Case("round_25", || play(25)),
    // A request waited in the kernel, and its lines seemed to be said after the start of a server.
    Case("round_37", || play(37)),
    Case("round_77", || play(77)),
    // A server stood still, and took lines late that its members had said before.
    Case("round_1042", || play(1042)),
];

fn play(seed: u64) {
    match rounds::play(seed) {
        Ok(tally) => println!("{tally}"),
        Err(report) => panic!("{report}"),
    }
}
