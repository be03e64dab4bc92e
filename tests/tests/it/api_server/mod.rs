//! Our resources before a real API server: what it accepts, what it refuses and with which words, what kubectl shows.

mod bounds;
mod definitions;
mod kubectl;
mod objects;
mod rules;
