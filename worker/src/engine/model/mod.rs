//! Architectures: one file each, and the settings that describe them.

mod config;
mod hugging_face;
pub mod llama;
pub mod reference;

pub use config::{Config, ConfigError};
