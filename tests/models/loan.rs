//! A closure that is lent to a coroutine of another thread.

use crate::check;
use crate::exclusive;
use crate::sys::coroutine::lent::{Loan, lend};
use crate::sys::coroutine::stack::{SlabStack, Then};
use crate::sys::coroutine::switch::Progress;

/// The loan ends at any moment of its borrowers: after that nothing of what was borrowed is used. It fails if the end does not
/// wait for a borrower that runs, if `resume` does not look at the state or does not tell of its end, and if `coroutine`
/// does not enter the borrower before it may run, or strikes out another.
#[test]
fn nothing_borrowed_is_used_after_the_loan() {
    check(3, || {
        let _end = exclusive::begin();
        let work = exclusive::used;
        let borrower = lend(&work, |loan: &Loan<()>| {
            let loan = loan.clone();
            loom::thread::spawn(move || {
                let one = || {
                    let stack = SlabStack::default().with(move || {
                        exclusive::used();
                        Then::Suspend
                    });
                    loan.coroutine(stack, |()| {})
                };
                let Some(mut first) = one() else { return };
                let second = one();
                while let Some(Progress::Suspended) = first.resume() {}
                // One that has ended is not resumed; one that was abandoned refuses each time.
                if let Some(mut second) = second {
                    while let Some(Progress::Suspended) = second.resume() {}
                }
            })
        });
        exclusive::used();
        borrower.join().expect("the borrower ends");
    });
}
