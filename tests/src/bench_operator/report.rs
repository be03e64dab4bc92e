//! The lines that are printed in the end: ours beside each peer's.

use std::collections::BTreeMap;

use super::{
    Settings,
    figures::{Figures, Line},
};

/// Children that are deleted and edited, as the API calls them.
const CHILDREN: [&str; 4] = ["configmaps", "services", "poddisruptionbudgets", "statefulsets"];

/// Figures by the names of the subjects.
pub struct Report<'a> {
    settings: &'a Settings,
    of: &'a BTreeMap<&'static str, Figures>,
}

impl<'a> Report<'a> {
    /// What was measured.
    pub fn new(settings: &'a Settings, of: &'a BTreeMap<&'static str, Figures>) -> Self {
        Self { settings, of }
    }

    /// Prints everything: one line for each measurement and peer.
    pub fn print(&self) {
        let start = self.of("bistro", "start.seconds");
        if start.is_some() {
            Line::default().number("seconds", start, 2).print("operator.start");
        }
        for peer in self.of.keys().copied().filter(|name| !["bistro", "floor"].contains(name)) {
            self.create(peer);
            self.restart(peer);
            self.idle(peer);
            self.handover(peer);
            self.drift(peer);
        }
    }

    fn of(&self, subject: &str, figure: &str) -> Option<f64> {
        self.of.get(subject)?.median(figure)
    }

    fn ours(&self, line: Line, key: &str, figure: &str, decimals: usize) -> Line {
        line.number(key, self.of("bistro", figure), decimals)
    }

    fn line(&self) -> Line {
        let Settings { count, namespaces, .. } = self.settings;
        Line::default().word("n", &count.to_string()).word("namespaces", &namespaces.to_string())
    }

    fn create(&self, peer: &str) {
        let mut line = self.line();
        for (key, figure, decimals) in [
            ("seconds", "create.seconds", 2),
            ("per_second", "create.per_second", 1),
            ("writes_per_resource", "create.writes", 2),
            ("events_per_resource", "create.events", 2),
            ("conflicts", "create.conflicts", 0),
            ("rss_mib", "create.rss_mib", 1),
            ("peak_mib", "create.peak_mib", 1),
            ("cpu_s", "create.cpu_s", 2),
        ] {
            line = self.ours(line, key, figure, decimals);
        }
        line.number("floor_seconds", self.of("floor", "create.seconds"), 2)
            .word("peer", peer)
            .number("peer_seconds", self.of(peer, "create.seconds"), 2)
            .number("peer_rss_mib", self.of(peer, "create.rss_mib"), 1)
            .number("peer_cpu_s", self.of(peer, "create.cpu_s"), 2)
            .number("peer_writes_per_resource", self.of(peer, "create.writes"), 2)
            .number("peer_events_per_resource", self.of(peer, "create.events"), 2)
            .print("operator.create");
    }

    fn both(&self, peer: &str, figures: &[(&str, &str, usize)]) -> Line {
        let line =
            figures.iter().fold(self.line(), |line, (key, figure, decimals)| self.ours(line, key, figure, *decimals));
        figures.iter().fold(line.word("peer", peer), |line, (key, figure, decimals)| {
            line.number(&format!("peer_{key}"), self.of(peer, figure), *decimals)
        })
    }

    fn restart(&self, peer: &str) {
        let figures = [
            ("seconds", "restart.seconds", 2),
            ("writes", "restart.writes", 0),
            ("rss_mib", "restart.rss_mib", 1),
            ("peak_mib", "restart.peak_mib", 1),
            ("cpu_s", "restart.cpu_s", 2),
            ("stop_seconds", "restart.stop_seconds", 2),
        ];
        self.both(peer, &figures).print("operator.restart");
    }

    fn idle(&self, peer: &str) {
        if !self.settings.does("idle") {
            return;
        }
        let figures = [
            ("writes", "idle.writes", 0),
            ("events", "idle.events", 0),
            ("cpu_percent", "idle.cpu_percent", 3),
            ("rss_mib", "idle.rss_mib", 1),
        ];
        let seconds = self.settings.idle.as_secs().to_string();
        self.both(peer, &figures).word("idle_seconds", &seconds).print("operator.idle");
    }

    fn handover(&self, peer: &str) {
        if !self.settings.does("handover") {
            return;
        }
        for (ending, signal) in [("clean", "TERM"), ("killed", "KILL")] {
            let (seconds, taken) = (format!("handover.{signal}.seconds"), format!("handover.{signal}.taken"));
            let figures = [("seconds", seconds.as_str(), 2), ("taken_seconds", taken.as_str(), 2)];
            self.both(peer, &figures).word("leader", ending).print("operator.handover");
        }
    }

    fn drift(&self, peer: &str) {
        for (child, change) in CHILDREN.iter().flat_map(|child| [(child, "deleted"), (child, "edited")]) {
            let figure = format!("drift.{child}.{change}");
            let (ours, theirs) = (self.of.get("bistro"), self.of.get(peer));
            let largest = |of: Option<&Figures>| of.and_then(|of| of.largest(&figure));
            if [ours, theirs].into_iter().all(|of| largest(of).is_none()) {
                continue;
            }
            self.line()
                .word("child", child)
                .word("change", change)
                .number("median_ms", self.of("bistro", &figure), 1)
                .number("max_ms", largest(ours), 1)
                .word("peer", peer)
                .number("peer_median_ms", self.of(peer, &figure), 1)
                .number("peer_max_ms", largest(theirs), 1)
                .print("operator.drift");
        }
    }
}
