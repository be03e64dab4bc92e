//! Randomness that everybody can recompute: one seed per purpose, out of facts that all nodes share.

use codec::Encode;

/// 32 bytes that key a permutation or a generator.
pub type Seed = [u8; 32];

/// `blake3 derive_key` with context `bistro/v1/<purpose>` over the SCALE encoding of `parts`.
///
/// The purpose separates domains: two uses of the same facts never share a seed.
pub fn seed(purpose: &str, parts: &impl Encode) -> Seed {
    blake3::derive_key(&format!("bistro/v1/{purpose}"), &parts.encode())
}

/// Seed of the order in which pages are handed out in a window.
pub fn pages(netuid: u16, run: u32, window: u64, start: &[u8; 32]) -> Seed {
    seed("pages", &(netuid, run, window, start))
}

/// Seed of the pages that pay; nobody knows it while training.
pub fn test_pages(netuid: u16, run: u32, window: u64, end: &[u8; 32]) -> Seed {
    seed("test", &(netuid, run, window, end))
}

/// Seed of the entries of one tensor that a miner must publish.
pub fn slice(netuid: u16, run: u32, window: u64, reveal: &[u8; 32], tensor: &str) -> Seed {
    seed("slice", &(netuid, run, window, reveal, tensor))
}

/// Seed of a validator's draw of miners.
pub fn draw(end: &[u8; 32], validator: &[u8; 32]) -> Seed {
    seed("draw", &(end, validator))
}

/// Seed that orders a newcomer among the others of its window.
pub fn newcomer(reveal: &[u8; 32], hotkey: &[u8; 32]) -> Seed {
    seed("newcomer", &(reveal, hotkey))
}

/// Seed of the one accepted miner whose work a validator recomputes.
pub fn audit(end: &[u8; 32], validator: &[u8; 32]) -> Seed {
    seed("audit", &(end, validator))
}

/// Seed of the record of another validator that a validator recomputes.
pub fn cross_check(end: &[u8; 32], validator: &[u8; 32]) -> Seed {
    seed("cross-check", &(end, validator))
}

/// Seed of one tensor's initial values.
pub fn init(seed_number: u64, tensor: &str) -> Seed {
    seed("init", &(seed_number, tensor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_and_parts_separate() {
        let h = [7; 32];
        let seeds =
            [pages(1, 1, 0, &h), test_pages(1, 1, 0, &h), pages(1, 1, 1, &h), pages(1, 2, 0, &h), pages(2, 1, 0, &h)];
        for (i, a) in seeds.iter().enumerate() {
            assert!(seeds[i + 1..].iter().all(|b| a != b));
        }
    }
}
