//! Vector registers that make a thread switch slow.
//!
//! The kernel saves a thread's registers when the thread leaves the processor, and loads them when it comes back. It
//! skips registers that are empty. The C library copies and compares memory through the widest registers, and leaves data
//! in AVX-512's zmm16 to zmm31: a kilobyte that every later switch of the thread writes and reads. In a ping-pong among
//! a thousand threads this costs about 3 %: `bench/WHERE-THE-TIME-GOES.md` has the measurement.
//!
//! [`empty`] is called where a thread is about to leave the processor: before a receive that may wait, and before a fork.
//! The kernel tracks by XINUSE whether a part of the state is empty, and XSAVEOPT and XSAVES skip such parts.

/// Empties zmm16 to zmm31, which hold no value across a call. It takes a few nanoseconds, and does nothing on a processor
/// without these registers.
#[cfg(target_arch = "x86_64")]
pub(super) fn empty() {
    if std::arch::is_x86_feature_detected!("avx512vl") {
        // SAFETY: the processor knows the instructions, and the compiler is told that the registers change, as they
        // may in any call of C.
        unsafe {
            std::arch::asm!(
                "vpxorq xmm16, xmm16, xmm16",
                "vpxorq xmm17, xmm17, xmm17",
                "vpxorq xmm18, xmm18, xmm18",
                "vpxorq xmm19, xmm19, xmm19",
                "vpxorq xmm20, xmm20, xmm20",
                "vpxorq xmm21, xmm21, xmm21",
                "vpxorq xmm22, xmm22, xmm22",
                "vpxorq xmm23, xmm23, xmm23",
                "vpxorq xmm24, xmm24, xmm24",
                "vpxorq xmm25, xmm25, xmm25",
                "vpxorq xmm26, xmm26, xmm26",
                "vpxorq xmm27, xmm27, xmm27",
                "vpxorq xmm28, xmm28, xmm28",
                "vpxorq xmm29, xmm29, xmm29",
                "vpxorq xmm30, xmm30, xmm30",
                "vpxorq xmm31, xmm31, xmm31",
                clobber_abi("C"),
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}

/// Does nothing: other processors have no such registers.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn empty() {}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::empty;

    #[test]
    fn nothing_is_left_in_the_upper_registers() {
        if !std::arch::is_x86_feature_detected!("avx512vl") {
            println!("skipped: the processor has no such registers");
            return;
        }
        let (first, last): (u64, u64);
        // SAFETY: the processor knows the instructions, and the compiler is told what changes.
        unsafe {
            std::arch::asm!(
                "vpternlogd xmm16, xmm16, xmm16, 0xff",
                "vpternlogd xmm31, xmm31, xmm31, 0xff",
                clobber_abi("C"),
            );
            empty();
            std::arch::asm!(
                "vmovq {first}, xmm16",
                "vmovq {last}, xmm31",
                first = out(reg) first,
                last = out(reg) last,
            );
        }
        assert_eq!((first, last), (0, 0));
    }
}
