//! The instructions of AMX. The compiler has none of them yet: they are assembly.

use std::{
    arch::{asm, x86_64::*},
    sync::OnceLock,
};

/// Rows of a tile, and entries of a register.
pub const SIDE: usize = 16;
/// Tiles of a step: three parts of two times 16 lines.
pub const TILES: usize = 6;

/// Operand of one instruction.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Tile(pub [u32; SIDE * SIDE]);

/// Whether this machine has the instructions, and its system lets this process use them.
pub fn answers() -> bool {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    *ANSWERS.get_or_init(|| has_instructions() && is_permitted())
}

fn has_instructions() -> bool {
    /// AMX-BF16 and AMX-TILE, of EDX of leaf 7.
    const TILES: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES == TILES
}

/// Asks the system for the 8 KiB that it must save of each thread.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: the call changes nothing but what this process may use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Loads two tiles of a.
macro_rules! left {
    ($first:literal, $second:literal) => {
        concat!("tileloadd tmm4, [{a} + {line} + ", $first, "]\ntileloadd tmm5, [{a} + {line} + ", $second, "]")
    };
}

/// Loads two tiles of b.
macro_rules! right {
    ($first:literal, $second:literal) => {
        concat!("tileloadd tmm6, [{b} + {line} + ", $first, "]\ntileloadd tmm7, [{b} + {line} + ", $second, "]")
    };
}

/// Adds the products of these tiles.
macro_rules! multiply {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// `c = a b`, or `c += a b`, of 32 rows and columns: of the six products the smallest come first.
///
/// # Safety
/// The tiles of this thread are configured, and 32 rows and columns of c are there.
pub unsafe fn sums(c: *mut f32, row_stride: usize, left: &[Tile], right: &[Tile], accumulate: bool) {
    assert!(left.len() == right.len() && left.len().is_multiple_of(TILES) && !left.is_empty());
    // SAFETY: reads the steps' tiles, reads and writes c; nothing else uses tiles.
    unsafe {
        asm!(
            "test {accumulate}, {accumulate}",
            "jz 2f",
            "tileloadd tmm0, [{c} + {stride}]",
            "tileloadd tmm1, [{c} + {stride} + 64]",
            "tileloadd tmm2, [{below} + {stride}]",
            "tileloadd tmm3, [{below} + {stride} + 64]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            left!("0", "1024"),
            right!("4096", "5120"),
            multiply!(), // a1 b3
            right!("2048", "3072"),
            multiply!(), // a1 b2
            left!("2048", "3072"),
            multiply!(), // a2 b2
            right!("0", "1024"),
            multiply!(), // a2 b1
            left!("4096", "5120"),
            multiply!(), // a3 b1
            left!("0", "1024"),
            multiply!(), // a1 b1
            "add {a}, 6144",
            "add {b}, 6144",
            "dec {steps}",
            "jnz 3b",
            "tilestored [{c} + {stride}], tmm0",
            "tilestored [{c} + {stride} + 64], tmm1",
            "tilestored [{below} + {stride}], tmm2",
            "tilestored [{below} + {stride} + 64], tmm3",
            c = in(reg) c,
            below = in(reg) c.wrapping_add(SIDE * row_stride),
            stride = in(reg) 4 * row_stride,
            line = in(reg) 64_usize,
            accumulate = in(reg) usize::from(accumulate),
            a = inout(reg) left.as_ptr() => _,
            b = inout(reg) right.as_ptr() => _,
            steps = inout(reg) left.len() / TILES => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// This thread's tiles have 16 rows of 64 bytes, as long as this lives.
pub struct Configured;

impl Configured {
    pub fn new() -> Self {
        #[repr(C, align(64))]
        struct Shape {
            palette: u8,
            start: u8,
            reserved: [u8; 14],
            bytes: [u16; 16],
            rows: [u8; 16],
        }
        static SHAPE: Shape = Shape {
            palette: 1,
            start: 0,
            reserved: [0; 14],
            bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
            rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        // SAFETY: reads 64 bytes; whoever calls has asked whether the machine has tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPE, options(nostack, readonly)) };
        Self
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: an empty state, which costs the system nothing to save.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
