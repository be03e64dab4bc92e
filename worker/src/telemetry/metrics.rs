//! The numbers on `/metrics`, in Prometheus' text format.
//!
//! Labels are bounded by the subnet's size: never a window, a key or an address.

use bistro_api::{NodeStatus, status::Scored};
use prometheus::{
    Encoder, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

/// All metrics of a worker. Clones count into the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Which node this is.
    node_info: IntGaugeVec,
    /// Whether chain and bucket answered last time.
    reachable: IntGaugeVec,
    /// Latest finalised block.
    pub block: IntGauge,
    /// Window of that block.
    pub window: IntGauge,
    /// Seconds of the last pass through each phase.
    pub phase_seconds: GaugeVec,
    /// Loss of the base on the held-out pages, nats per token.
    pub loss: Gauge,
    /// Loss that each strategy of an averager reached on its check pages, nats per token.
    pub averaging_loss: GaugeVec,
    /// Tokens trained on.
    pub tokens: IntCounter,
    /// Optimizer steps.
    pub steps: IntCounter,
    /// Bytes sent to the bucket.
    pub upload_bytes: IntCounter,
    /// Bytes received from the bucket.
    pub download_bytes: IntCounter,
    /// Judged artifacts by verdict.
    pub artifacts: IntCounterVec,
    /// Latest raw score of each miner.
    pub score: GaugeVec,
    /// Moving average of each miner's scores.
    pub score_average: GaugeVec,
    /// Share of this validator's weights of each miner.
    pub weight: GaugeVec,
    /// Window of this validator's latest weights on the chain; without a value until the chain was asked.
    weights_window: IntGaugeVec,
    /// Difference of the latest recomputed score from the record of each other validator.
    pub record_difference: GaugeVec,
    /// Records of each other validator that cannot be recomputed.
    pub record_faults: IntCounterVec,
    /// Merges that a validator did again, by what came of it.
    pub merges: IntCounterVec,
    /// Share of the chain's incentive of this node.
    pub incentive: Gauge,
    /// Windows between the clock and the base.
    pub windows_behind: IntGauge,
    /// Windows that the base of each miner's latest work was behind, where it was.
    pub miner_windows_behind: GaugeVec,
    /// Bucket requests by operation and outcome.
    pub bucket_requests: IntCounterVec,
    /// Chain requests by method and outcome.
    pub chain_requests: IntCounterVec,
}

/// Labels of a metric about one miner: its number on the subnet and its SS58 hotkey.
#[derive(Clone, Copy, Debug)]
pub struct MetricMiner<'a> {
    /// Its number on the subnet.
    pub uid: u16,
    /// Its SS58 hotkey.
    pub hotkey: &'a str,
}

impl MetricMiner<'_> {
    /// Sets one of [`Metrics::score`], [`Metrics::score_average`] and [`Metrics::weight`].
    pub fn set(&self, gauge: &GaugeVec, value: f64) {
        gauge.with_label_values(&[self.uid.to_string().as_str(), self.hotkey]).set(value);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero, and the process's own (memory, open files, CPU seconds).
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            node_info: known(IntGaugeVec::new(
                Opts::new(
                    "bistro_node_info",
                    "Always 1: uid and hotkey of this node, to join with its other metrics. No uid: not registered.",
                ),
                &["uid", "hotkey"],
            )),
            reachable: known(IntGaugeVec::new(
                Opts::new(
                    "bistro_reachable",
                    "1 while the service (chain or bucket) answers, even with a refusal; 0 since a request went unanswered.",
                ),
                &["service"],
            )),
            block: known(IntGauge::new(
                "bistro_block",
                "Latest finalised block that this node saw. It stands still when the chain or the connection does.",
            )),
            window: known(IntGauge::new(
                "bistro_window",
                "Window of the latest finalised block: everything happens once per window.",
            )),
            phase_seconds: known(GaugeVec::new(
                Opts::new(
                    "bistro_phase_seconds",
                    "Seconds that the last pass through each phase took. Compare with the phase's blocks x block time: \
                     above 80% the window is too short for this machine or this network.",
                ),
                &["phase"],
            )),
            loss: known(Gauge::new(
                "bistro_loss",
                "Loss of this node's base on the held-out pages in nats per token; 0 until it was measured. An untrained \
                 model starts near ln(vocabulary).",
            )),
            averaging_loss: known(GaugeVec::new(
                Opts::new(
                    "bistro_averaging_loss",
                    "Loss of the new base in nats per token, on held-out pages that it was not tuned on, for each strategy \
                     of an averager of lossReduction that was measured: the run's, and others to compare or to fall back on.",
                ),
                &["strategy"],
            )),
            tokens: known(IntCounter::new(
                "bistro_tokens_total",
                "Tokens that this node trained on; its rate is the speed.",
            )),
            steps: known(IntCounter::new("bistro_steps_total", "Optimizer steps that this node took.")),
            upload_bytes: known(IntCounter::new("bistro_upload_bytes_total", "Bytes of objects sent to the bucket.")),
            download_bytes: known(IntCounter::new(
                "bistro_download_bytes_total",
                "Bytes of objects received from the bucket.",
            )),
            artifacts: known(IntCounterVec::new(
                Opts::new(
                    "bistro_artifacts_total",
                    "Verdicts on artifacts: a miner counts those on its own work, a validator or averager those that it \
                     gave. Everything but accepted names the one reason why the work did not count.",
                ),
                &["verdict"],
            )),
            score: known(per_miner(
                "bistro_score",
                "Latest raw score of each miner that this validator evaluated, in the mechanism's own unit.",
            )),
            score_average: known(per_miner(
                "bistro_score_average",
                "Moving average of each miner's normalised scores; 1 is a typical miner, 0 one that earns nothing.",
            )),
            weight: known(per_miner(
                "bistro_weight",
                "Share of this validator's weights that each miner gets, 0 to 1.",
            )),
            weights_window: known(IntGaugeVec::new(
                Opts::new(
                    "bistro_weights_window",
                    "Window of the block in which the chain last took weights of this validator, or registered it.",
                ),
                &[],
            )),
            record_difference: known(GaugeVec::new(
                Opts::new(
                    "bistro_record_difference",
                    "Difference between a raw score in the latest record of another validator and the one that this \
                     validator computes: 0 on the same kind of machine.",
                ),
                &["hotkey"],
            )),
            record_faults: known(IntCounterVec::new(
                Opts::new(
                    "bistro_record_faults_total",
                    "Records of another validator that do not follow from themselves or from the chain: made up, copied \
                     or of another agreement.",
                ),
                &["hotkey"],
            )),
            merges: known(IntCounterVec::new(
                Opts::new(
                    "bistro_merges_total",
                    "Windows whose admitted work this validator merged again, by outcome: same; different, after which it \
                     stops; unknown, where it does not have the work or finds fault with it.",
                ),
                &["outcome"],
            )),
            incentive: known(Gauge::new(
                "bistro_incentive",
                "Share of the subnet's incentive that the chain pays to this node, 0 to 1.",
            )),
            windows_behind: known(IntGauge::new(
                "bistro_windows_behind",
                "Windows between the chain's clock and the base that this node holds: 0 or 1 when it keeps up.",
            )),
            miner_windows_behind: known(per_miner(
                "bistro_miner_windows_behind",
                "Windows that the base of the latest work of each miner was behind; only of those that were.",
            )),
            bucket_requests: known(IntCounterVec::new(
                Opts::new(
                    "bistro_bucket_requests_total",
                    "Requests to the bucket. Outcome: ok, absent, exists, too-large, denied, unreachable or error.",
                ),
                &["op", "outcome"],
            )),
            chain_requests: known(IntCounterVec::new(
                Opts::new(
                    "bistro_chain_requests_total",
                    "Requests to the chain by JSON-RPC method. Outcome: ok, refused (the node answered with an error) or \
                     unreachable.",
                ),
                &["method", "outcome"],
            )),
            registry,
        };
        metrics.register();
        metrics
    }

    /// Shows a validator's whole view of the miners, and forgets the miners that are no longer in it.
    pub fn scored(&self, scores: &[Scored]) {
        // Only who is behind has a value.
        self.miner_windows_behind.reset();
        for gauge in [&self.score, &self.score_average, &self.weight] {
            keep_only(gauge, scores);
        }
        for Scored { uid, hotkey, raw, average, weight, verdict: _, behind } in scores {
            let miner = MetricMiner { uid: *uid, hotkey };
            if let Some(raw) = raw {
                miner.set(&self.score, *raw);
            }
            miner.set(&self.score_average, *average);
            miner.set(&self.weight, *weight);
            if let Some(behind) = behind {
                miner.set(&self.miner_windows_behind, *behind as f64);
            }
        }
    }

    /// Counts a comparison with another validator's record: the difference, or `None` where it cannot be recomputed.
    pub fn cross_checked(&self, hotkey: &str, difference: Option<f64>) {
        match difference {
            Some(difference) => self.record_difference.with_label_values(&[hotkey]).set(difference),
            None => self.record_faults.with_label_values(&[hotkey]).inc(),
        }
    }

    /// Shows the window in which the chain last took weights of this validator.
    pub fn weights_set_in(&self, window: u64) {
        self.weights_window.with_label_values::<&str>(&[]).set(as_gauge(window));
    }

    /// The text of `/metrics`, with what the status knows and no loop needs to count twice.
    pub fn render(&self, status: &NodeStatus) -> String {
        if let Some(block) = status.block {
            self.block.set(as_gauge(block));
        }
        if let Some(window) = status.window {
            self.window.set(as_gauge(window));
            if let Some(base) = status.base_window {
                self.windows_behind.set(as_gauge(window.saturating_sub(base)));
            }
        }
        if let Some(incentive) = status.incentive {
            self.incentive.set(incentive);
        }
        for (service, state) in [("chain", &status.chain), ("bucket", &status.bucket)] {
            // Neither 0 nor 1 before the first request.
            if state.since.is_some() {
                self.reachable.with_label_values(&[service]).set(i64::from(state.reachable));
            }
        }
        let uid = status.uid.map_or_else(String::new, |uid| uid.to_string());
        // A node has one identity at a time.
        self.node_info.reset();
        self.node_info.with_label_values(&[uid.as_str(), status.hotkey.as_deref().unwrap_or_default()]).set(1);
        let mut text = Vec::new();
        // Writing to memory fails for malformed metrics only, and those were refused when they were registered.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn register(&self) {
        let Self {
            registry: _,
            node_info,
            reachable,
            block,
            window,
            phase_seconds,
            loss,
            averaging_loss,
            tokens,
            steps,
            upload_bytes,
            download_bytes,
            artifacts,
            score,
            score_average,
            weight,
            weights_window,
            record_difference,
            record_faults,
            merges,
            incentive,
            windows_behind,
            miner_windows_behind,
            bucket_requests,
            chain_requests,
        } = self;
        self.add(node_info);
        self.add(reachable);
        self.add(block);
        self.add(window);
        self.add(phase_seconds);
        self.add(loss);
        self.add(averaging_loss);
        self.add(tokens);
        self.add(steps);
        self.add(upload_bytes);
        self.add(download_bytes);
        self.add(artifacts);
        self.add(score);
        self.add(score_average);
        self.add(weight);
        self.add(weights_window);
        self.add(record_difference);
        self.add(record_faults);
        self.add(merges);
        self.add(incentive);
        self.add(windows_behind);
        self.add(miner_windows_behind);
        self.add(bucket_requests);
        self.add(chain_requests);
        #[cfg(target_os = "linux")]
        known(self.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self())));
    }

    fn add<C: Collector + Clone + 'static>(&self, collector: &C) {
        known(self.registry.register(Box::new(collector.clone())));
    }
}

/// Removes the miners that are gone, so that a uid that changed hands is not shown twice.
fn keep_only(gauge: &GaugeVec, scores: &[Scored]) {
    for family in gauge.collect() {
        for metric in family.get_metric() {
            let label = |name: &str| metric.get_label().iter().find(|l| l.name() == name).map_or("", |l| l.value());
            let (uid, hotkey) = (label("uid"), label("hotkey"));
            if !scores.iter().any(|s| s.hotkey == hotkey && s.uid.to_string() == uid) {
                // It was there a moment ago; who removed it meanwhile wanted the same.
                let _ = gauge.remove_label_values(&[uid, hotkey]);
            }
        }
    }
}

fn per_miner(name: &str, help: &str) -> prometheus::Result<GaugeVec> {
    GaugeVec::new(Opts::new(name, help), &["uid", "hotkey"])
}

/// Names and labels stand in this file and are unique: any test that makes a `Metrics` would find a mistake.
fn known<T>(made: prometheus::Result<T>) -> T {
    made.expect("metric names and labels are well formed and unique")
}

fn as_gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
