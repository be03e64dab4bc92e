//! What the tests across crates share.
//!
//! [`arena`] plays a subnet without bucket and chain: honest miners and watched cheats; [`cheat`] says what each cheat
//! publishes, [`judge`] scores them as a validator does; [`league`] is the same where there is no common base; [`measures`]
//! are the figures that an honest implementation must reach; [`text`] is what they train on. [`decoders`] are all of
//! ours, and [`mutate`] makes what they are tried with. [`process`] runs nodes as processes; [`proxy`] and [`shim`] put faults
//! between them and chain, bucket, clock and disk. [`cluster`] is a real Kubernetes,
//! [`operator`] the operator as a process, and [`front`] puts faults between the two; [`monitoring`] is what the chart gives
//! to Prometheus and Grafana. [`beside`] asks programs that are measured together.

pub mod arena;
pub mod bench_operator;
pub mod beside;
pub mod cheat;
pub mod cluster;
pub mod decoders;
pub mod front;
pub mod judge;
pub mod league;
pub mod measures;
pub mod monitoring;
pub mod mutate;
pub mod operator;
pub mod plot;
pub mod process;
pub mod proxy;
pub mod runs;
pub mod shim;
pub mod target;
pub mod text;
