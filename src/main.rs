#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "as in lib.rs")]

fn main() {}
