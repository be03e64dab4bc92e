//! Benchmarks of the protocol; its rules are tested beside their code.

mod bench;
