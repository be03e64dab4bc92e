//! Ports for processes that are told where to listen.
//!
//! Who asks the system for any port, lets go of it and passes it on may find somebody else there: every listener and every
//! connection that leaves the choice to the system draws from the same range. Below that range nobody draws, so a port of
//! there stays free until the process that was told it has started.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Ports that are given out in turn.
const COUNT: u16 = 12 << 10;
/// Between them and the range of the system: Kubernetes' node ports, with the usual range.
const APART: u16 = 4 << 10;

/// Given out so far by this process.
static GIVEN: AtomicU16 = AtomicU16::new(0);

/// A port of loopback that nobody listens on, and that nobody gets who does not ask for it by number.
///
/// # Errors
/// Loopback has no free port at all.
pub fn free() -> io::Result<SocketAddr> {
    let first = drawn_from().and_then(|first| first.checked_sub(APART + COUNT)).filter(|first| *first >= 1024);
    if let Some(first) = first {
        for _ in 0..COUNT {
            let port = first + place(process::id(), GIVEN.fetch_add(1, Ordering::Relaxed));
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                return listener.local_addr();
            }
        }
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Processes that run at the same time begin far from each other.
fn place(process: u32, given: u16) -> u16 {
    let begin = process.wrapping_mul(0x9e37_79b9) >> 16;
    ((begin + u32::from(given)) % u32::from(COUNT)) as u16
}

/// First port that the system itself chooses from; `None` where that cannot be known.
fn drawn_from() -> Option<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    range.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_differ_and_are_nobodys_by_chance() {
        let ports: std::collections::BTreeSet<u16> = (0..100).map(|_| free().expect("a port").port()).collect();
        assert_eq!(ports.len(), 100);
        if let Some(first) = drawn_from().filter(|first| *first > APART + COUNT + 1024) {
            assert!(ports.iter().all(|port| *port < first), "{ports:?}");
        }
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let held: Vec<TcpListener> =
            (0..20).map(|_| TcpListener::bind(free().expect("a port")).expect("free")).collect();
        let next = free().expect("a port");
        assert!(held.iter().all(|listener| listener.local_addr().expect("bound") != next));
    }

    #[test]
    fn neighbours_do_not_share_their_first_hundred() {
        let first = |process| place(process, 0);
        for process in 1000..2000 {
            assert!(first(process).abs_diff(first(process + 1)) >= 100, "{process}");
        }
    }
}
