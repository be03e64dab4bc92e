//! Loops compiled for what the machine can do, chosen when they run.
//!
//! The only module with `unsafe`: a function that is compiled for more than the baseline may be called only where the
//! machine was asked for it, and the macro asks.

/// Compiles a function for AVX-512, AVX2 and the baseline of the target, and picks at run time.
///
/// Everything that it calls in its loops must be `#[inline(always)]`, or stays baseline code. Results do not
/// depend on the choice: Rust neither reorders floating-point sums nor fuses products with them. A body that fuses them
/// itself does so where the constant `FUSED` says that the machine can, and only where the product is exact.
macro_rules! simd {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        #[allow(unsafe_code)]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body<const FUSED: bool>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,fma,bmi1,bmi2,lzcnt,popcnt")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    body::<true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    body::<true>($($argument),*)
                }
                match $crate::simd::level() {
                    // SAFETY: the machine was asked for these very features.
                    $crate::simd::Level::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::simd::Level::Baseline => (),
                }
            }
            body::<false>($($argument),*)
        }
    };
}
pub(crate) use simd;

/// Asks memory for what lies `ahead` entries behind the first of `row`, which need not be there.
#[allow(unsafe_code)]
#[inline(always)]
pub(crate) fn prefetch(row: &[f32], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: it reads nothing, and a wrong address is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(row.as_ptr().wrapping_add(ahead).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row, ahead);
}

/// What the machine can do.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Neither of the others.
    Baseline,
    /// AVX2, and with it fused products and instructions on single bits.
    Avx2,
    /// F, VL, DQ and BW, and the same with them.
    Avx512,
}

/// Asks the machine; the answer is remembered by the library.
#[cfg(target_arch = "x86_64")]
pub(crate) fn level() -> Level {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw");
    let others = is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    let level = match (avx512 && others, is_x86_feature_detected!("avx2") && others) {
        (true, _) => Level::Avx512,
        (false, true) => Level::Avx2,
        (false, false) => Level::Baseline,
    };
    #[cfg(test)]
    let level = level.min(tests::most());
    level
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::{process::Command, sync::OnceLock};

    use super::Level;

    /// Variable of a process of tests that is to do without the best that this machine has.
    const MOST: &str = "BISTRO_TEST_LEVEL";

    /// What this process of tests may use.
    pub fn most() -> Level {
        static ALLOWED: OnceLock<Level> = OnceLock::new();
        *ALLOWED.get_or_init(|| match std::env::var(MOST).as_deref() {
            Ok("avx2") => Level::Avx2,
            Ok("baseline") => Level::Baseline,
            _ => Level::Avx512,
        })
    }

    /// One binary serves every processor, and nodes with different ones must agree: golden vectors of all kernels here.
    #[test]
    fn machines_with_fewer_instructions_compute_the_same() {
        for level in ["avx2", "baseline"] {
            let mut again = Command::new(std::env::current_exe().expect("this program"));
            let ended =
                again.args(["kernels::tests::", "topk::"]).env(MOST, level).output().expect("this program starts");
            let said = String::from_utf8_lossy(&ended.stdout);
            let passed = said.contains("bytes_and_decoded_bits_are_pinned ... ok");
            assert!(ended.status.success() && passed, "{level}: {said}\n{}", String::from_utf8_lossy(&ended.stderr));
        }
    }
}
