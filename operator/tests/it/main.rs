//! Tests of the operator from outside: its binary, its plans, its schema.

mod fake_worker;
mod input;
mod plans;
mod rules;
mod support;
mod terminal;
mod up;
