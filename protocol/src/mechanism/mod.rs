//! Mechanisms: how work is published, how it moves the base, and what it is worth. One file each.

pub mod cosine;
