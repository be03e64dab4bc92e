//! How much memory each thread holds, counted in the allocator.

#![allow(unsafe_code)] // An allocator is unsafe by its nature; this one hands every call on to the system's.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes that the thread took and did not give back; negative where it frees what others took.
    static HELD: Cell<i64> = const { Cell::new(0) };
    /// The most since it was last asked.
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

/// Runs `part` and gives the most bytes that this thread held meanwhile beyond what it held before.
pub fn peak_of<T>(part: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = part();
    (result, usize::try_from(PEAK.get() - before).unwrap_or_default())
}

fn count(bytes: i64) {
    // A thread that ends may free after its counters are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call is the system allocator's with the same arguments; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // While it moves, both are held.
        count(size as i64);
        let moved = unsafe { System.realloc(pointer, layout, size) };
        count(-(if moved.is_null() { size } else { layout.size() } as i64));
        moved
    }
}
