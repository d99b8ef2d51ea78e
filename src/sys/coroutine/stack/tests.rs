//! Slabs: guards, reuse, memory and mappings. Two tests run in a process of their own, in which no other test maps memory.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::coroutine::guard::page_size;
use crate::sys::coroutine::switch::{Coroutine, SwitchEnd};

impl StackSlab {
    /// A slab with guards of this kind, whatever the kernel has.
    fn with_guards(stack_bytes: usize, guards: GuardKind) -> Self {
        Self { guards: Some(guards), ..Self::new(stack_bytes) }
    }
}

/// Both kinds, or the classic one on a kernel that has no other.
fn kinds() -> Vec<GuardKind> {
    let light = StackChunk::has_light_guards().unwrap().then_some(GuardKind::Light);
    light.into_iter().chain([GuardKind::Classic]).collect()
}

/// Runs a function on a stack, to its end.
fn run_on(stack: SlabStack, body: impl FnOnce() + 'static) -> SlabStack {
    match Coroutine::new(stack, "a test", body).resume() {
        SwitchEnd::Ended(stack) => stack,
        SwitchEnd::Suspended => panic!("it does not suspend itself"),
    }
}

/// Uses about this many bytes of stack.
#[inline(never)]
fn use_stack(bytes: usize) -> usize {
    let block = std::hint::black_box([1_u8; 1_024]);
    let rest = if bytes > 2_048 { use_stack(bytes - 1_024) } else { 0 };
    rest + usize::from(block[bytes % 1_024])
}

/// Whether a write to an address faults: the kernel is asked to write there, which answers EFAULT.
fn faults(at: usize) -> bool {
    let (reader, writer) = pipe();
    let written = b"x";
    // SAFETY: the pointer is to a live byte.
    assert_eq!(unsafe { libc::write(writer, written.as_ptr().cast(), 1) }, 1);
    // SAFETY: the address is one of a stack that this test has taken, and on which nothing runs; or of its guard, which the
    // kernel refuses to write to.
    let got = unsafe { libc::read(reader, std::ptr::with_exposed_provenance_mut(at), 1) };
    let fault = got == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT);
    // SAFETY: this function has opened both.
    unsafe {
        libc::close(reader);
        libc::close(writer);
    }
    assert!(fault || got == 1);
    fault
}

fn pipe() -> (libc::c_int, libc::c_int) {
    let mut ends = [0; 2];
    // SAFETY: the pointer is to two live numbers.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    (ends[0], ends[1])
}

/// How many pages of a stack are in memory.
fn pages_in_memory(stack: &SlabStack) -> usize {
    let extent = stack.extent();
    let mut found = vec![0_u8; extent.stack_bytes() / page_size()];
    let start = std::ptr::with_exposed_provenance_mut(extent.guard.end);
    // SAFETY: the range is that of a mapped stack, and there is a byte for each of its pages.
    let result = unsafe { libc::mincore(start, extent.stack_bytes(), found.as_mut_ptr()) };
    assert_eq!(result, 0);
    found.iter().filter(|page| **page & 1 == 1).count()
}

/// Counts the mappings of this process that lie within the chunks of a slab.
fn mappings(slab: &StackSlab) -> usize {
    let first = |line: &str| usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    let last = |line: &str| {
        usize::from_str_radix(line[line.find('-').unwrap() + 1..].split(' ').next().unwrap(), 16)
            .unwrap()
    };
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let overlaps = |line: &&str| {
        slab.chunks.iter().any(|chunk| {
            let (start, end) = (chunk.guard(0).start, chunk.top(chunk.count() - 1));
            first(line) < end && last(line) > start
        })
    };
    maps.lines().filter(overlaps).count()
}

#[test]
fn every_stack_has_its_guard_and_its_size() {
    for kind in kinds() {
        for bytes in [0, 1, SMALLEST_STACK, 65_537, DEFAULT_STACK_BYTES, 1 << 20] {
            let mut slab = StackSlab::with_guards(bytes, kind);
            let stacks: Vec<_> = (0..40).map(|_| slab.take().unwrap()).collect();
            for stack in &stacks {
                let Extent { guard, top } = stack.extent();
                assert_eq!(
                    top - guard.end,
                    bytes.max(SMALLEST_STACK).next_multiple_of(page_size())
                );
                assert!(faults(guard.start) && faults(guard.end - 1), "{kind:?} {bytes}");
                assert!(!faults(guard.end) && !faults(top - 1), "{kind:?} {bytes}");
                assert_eq!((stack.limit().get(), stack.base().get()), (guard.start, top));
                assert_eq!(top % corosensei::stack::STACK_ALIGNMENT, 0);
            }
            // No two stacks share memory.
            let mut extents: Vec<_> = stacks.iter().map(SlabStack::extent).collect();
            extents.sort_by_key(|extent| extent.top);
            assert!(extents.windows(2).all(|pair| pair[0].top <= pair[1].guard.start));
        }
    }
}

#[test]
fn the_whole_stack_can_be_used() {
    for kind in kinds() {
        let mut slab = StackSlab::with_guards(DEFAULT_STACK_BYTES, kind);
        let stack = slab.take().unwrap();
        // A quarter of the stack is for the blocks, the rest for the frames around them, which are larger without optimization.
        let stack = run_on(stack, || assert!(use_stack(DEFAULT_STACK_BYTES / 4) > 0));
        assert!(pages_in_memory(&stack) * page_size() >= DEFAULT_STACK_BYTES / 4);
        slab.give_back(stack);
    }
}

#[test]
fn the_last_stack_is_the_next() {
    let mut slab = StackSlab::new(SMALLEST_STACK);
    let (first, second) = (slab.take().unwrap(), slab.take().unwrap());
    let tops = [first.extent().top, second.extent().top];
    slab.give_back(first);
    slab.give_back(second);
    let again = [slab.take().unwrap(), slab.take().unwrap()];
    assert_eq!([again[0].extent().top, again[1].extent().top], [tops[1], tops[0]]);
    again.into_iter().for_each(|stack| slab.give_back(stack));
}

#[test]
fn after_a_peak_memory_goes_back_and_guards_stay() {
    for kind in kinds() {
        let count = 3 * WARM_STACKS;
        let mut slab = StackSlab::with_guards(SMALLEST_STACK, kind);
        let used = |stack| run_on(stack, || assert!(use_stack(2_048) > 0));
        let stacks: Vec<_> = (0..count).map(|_| slab.take().unwrap()).collect();
        let mut stacks: Vec<_> = stacks.into_iter().map(used).collect();
        assert!(stacks.iter().all(|stack| pages_in_memory(stack) > 0));
        // One stack stays in use and keeps its content.
        let kept = stacks.swap_remove(count / 2);
        for stack in stacks {
            slab.give_back(stack);
        }
        assert!(pages_in_memory(&kept) > 0);
        let stacks: Vec<_> = (1..count).map(|_| slab.take().unwrap()).collect();
        let warm = stacks.iter().filter(|stack| pages_in_memory(stack) > 0).count();
        assert!(
            (WARM_STACKS / 2..=WARM_STACKS + 2).contains(&warm),
            "{kind:?}: {warm} of {count} keep memory"
        );
        for stack in &stacks {
            let guard = stack.extent().guard;
            assert!(faults(guard.start) && faults(guard.end - 1), "{kind:?}: a guard is gone");
        }
        // The stacks still work.
        drop(stacks.into_iter().map(|stack| run_on(stack, || ())).collect::<Vec<_>>());
    }
}

#[test]
fn a_stack_that_is_lost_stays_mapped_and_the_others_do_not() {
    // This runs in a process of its own: another test could map something at the same place.
    if !is_child() {
        return in_child("a_stack_that_is_lost_stays_mapped_and_the_others_do_not");
    }
    for kind in kinds() {
        let mut slab = StackSlab::with_guards(SMALLEST_STACK, kind);
        let mut stacks: Vec<_> = (0..FIRST_CHUNK * 4).map(|_| slab.take().unwrap()).collect();
        assert_eq!(slab.chunks.len(), 3);
        let lost = stacks.swap_remove(0);
        let extent = lost.extent();
        drop(lost);
        let unmapped = stacks.last().unwrap().extent();
        stacks.into_iter().for_each(|stack| slab.give_back(stack));
        drop(slab);
        assert!(is_mapped(extent.top - 1), "{kind:?}");
        assert!(!is_mapped(unmapped.top - 1), "{kind:?}");
    }
}

/// Whether an address is part of a mapping.
fn is_mapped(at: usize) -> bool {
    let page = at / page_size() * page_size();
    let mut found = [0_u8];
    // SAFETY: nothing is read there; and there is a byte for the page.
    let result = unsafe {
        libc::mincore(std::ptr::with_exposed_provenance_mut(page), page_size(), found.as_mut_ptr())
    };
    result == 0
}

#[test]
fn a_stack_of_another_slab_is_left_alone() {
    let (mut one, mut other) = (StackSlab::new(SMALLEST_STACK), StackSlab::new(SMALLEST_STACK));
    let foreign = other.take().unwrap();
    let own = one.take().unwrap().extent();
    let at = foreign.extent();
    one.give_back(foreign);
    let tops: Vec<_> = (0..100).map(|_| one.take().unwrap().extent().top).collect();
    assert!(!tops.contains(&at.top) && !tops.contains(&own.top));
}

#[test]
fn sizes_that_cannot_be_are_refused_with_their_bounds() {
    for bytes in [
        0,
        1,
        SMALLEST_STACK - 1,
        LARGEST_STACK + 1,
        usize::MAX / 2 + 1,
        usize::MAX - 1,
        usize::MAX,
    ] {
        let error = check_stack_bytes(bytes).unwrap_err().to_string();
        assert_eq!(error, format!("a stack has between 65536 and {LARGEST_STACK} bytes"));
        // A slab refuses such a size as well, or rounds it up.
        let result = StackSlab::new(bytes).take();
        assert_eq!(result.is_ok(), bytes < SMALLEST_STACK, "{bytes}");
    }
    for bytes in [SMALLEST_STACK, SMALLEST_STACK + 1, 99_999, DEFAULT_STACK_BYTES, LARGEST_STACK] {
        check_stack_bytes(bytes).unwrap();
        let mut slab = StackSlab::new(bytes);
        let stack = run_on(slab.take().unwrap(), || ());
        assert!(stack.extent().stack_bytes() >= bytes);
    }
}

#[test]
fn a_hundred_thousand_stacks_are_few_mappings() {
    if !StackChunk::has_light_guards().unwrap() {
        return;
    }
    let mut slab = StackSlab::new(DEFAULT_STACK_BYTES);
    let began = Instant::now();
    let stacks: Vec<_> = (0..100_000).map(|_| slab.take().unwrap()).collect();
    let took = began.elapsed();
    let count = mappings(&slab);
    println!("100,000 stacks: {took:?}, {count} mappings");
    assert!(count <= 120, "{count} mappings for {} chunks", slab.chunks.len());
    for stack in stacks.iter().step_by(997) {
        let guard = stack.extent().guard;
        assert!(faults(guard.start) && faults(guard.end - 1) && !faults(guard.end));
    }
    assert!(took < Duration::from_secs(20), "{took:?}");
    stacks.into_iter().for_each(|stack| slab.give_back(stack));
}

/// Runs a test of this binary in a process of its own, where [`is_child`] is true.
fn in_child(test: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("sys::coroutine::stack::tests::{test}"), "--exact", "--nocapture"]);
    let output = command.env(CHILD, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const CHILD: &str = "SOCKETSERVER_STACKS_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// In a process of its own, because it uses up all mappings.
#[test]
fn classic_guards_end_with_an_error_that_names_the_setting() {
    if !is_child() {
        return in_child("classic_guards_end_with_an_error_that_names_the_setting");
    }
    let mut slab = StackSlab::with_guards(SMALLEST_STACK, GuardKind::Classic);
    let mut stacks = Vec::new();
    let error = loop {
        match slab.take() {
            Ok(stack) => stacks.push(stack),
            Err(error) => break error,
        }
        assert!(stacks.len() < 10_000_000);
    };
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    let text = error.to_string();
    assert!(text.contains("vm.max_map_count"), "{text}");
    assert!(text.contains(&format!("room for {} coroutines", stacks.len())), "{text}");
    // A stack that is given back is taken next, and the bound holds for all slabs together.
    slab.give_back(stacks.pop().unwrap());
    let mut other = StackSlab::with_guards(SMALLEST_STACK, GuardKind::Classic);
    assert!(other.take().is_err());
    let again = slab.take().unwrap();
    assert!(faults(again.extent().guard.start));
    // Mappings are left for other things, such as a thread.
    std::thread::spawn(|| ()).join().unwrap();
    // Unmapped guards no longer count.
    slab.give_back(again);
    stacks.into_iter().for_each(|stack| slab.give_back(stack));
    drop(slab);
    assert!(other.take().is_ok());
}

/// Writes and reads at both ends of each stack as a coroutine's frames do. Runs under Miri too.
#[test]
fn memory_goes_back_of_free_stacks_only() {
    const KEPT: usize = 3;
    let at = |address: usize| std::ptr::with_exposed_provenance_mut::<u64>(address);
    // The lowest word above the guard, and the first word of a new coroutine.
    let words = |stack: &SlabStack| [at(stack.extent().guard.end), at(stack.extent().top - 8)];
    let rounds = if cfg!(miri) { 3 } else { 200 };
    let mut slab = StackSlab { ledger: Ledger::new(KEPT), ..StackSlab::new(SMALLEST_STACK) };
    let mut live = Vec::new();
    for round in 0..rounds {
        for number in 0..FIRST_CHUNK + 4 {
            let (stack, mark) = (slab.take().unwrap(), (round * 1_000 + number) as u64 + 1);
            for word in words(&stack) {
                // SAFETY: it is a word of a stack that this test has taken, and on which nothing runs.
                unsafe { word.write(mark) };
            }
            live.push((stack, mark));
        }
        // Gives most of them back, in an order that is different in each round.
        for step in 0..FIRST_CHUNK + 2 {
            let (stack, mark) = live.swap_remove((step * 7 + round) % live.len());
            // SAFETY: as above.
            assert_eq!(words(&stack).map(|word| unsafe { word.read() }), [mark; 2]);
            slab.give_back(stack);
            for (stack, mark) in &live {
                // SAFETY: as above.
                assert_eq!(words(stack).map(|word| unsafe { word.read() }), [*mark; 2]);
            }
        }
    }
    live.into_iter().for_each(|(stack, _)| slab.give_back(stack));
}
