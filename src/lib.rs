//! Pointsman sets the track for AI tasks. The modules stand in the order in which data passes.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic discards a lane: say what went wrong in the type instead"
)]

pub mod config;

pub mod clock;

pub mod draw;

pub mod failpoint;

pub mod planted;

pub mod model;

pub mod codec;

pub mod registry;

pub mod routing;

pub mod hindsight;

pub mod lane;

pub mod store;

pub mod stream;

pub mod broker;

pub mod telemetry;

pub mod http;

pub mod replay;

pub mod demo;

pub mod sim;

pub mod backtest;

pub mod cli;
