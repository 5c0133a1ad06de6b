//! Pointsman sets the track for AI tasks. The modules stand in the order in which data passes.

pub mod cli;

pub mod clock;

pub mod config;

pub mod model;

pub mod codec;

pub mod registry;

pub mod routing;

pub mod lane;

pub mod stream;

pub mod telemetry;

pub mod http;
