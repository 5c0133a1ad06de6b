//! Pointsman sets the track for AI tasks. The modules stand in the order in which data passes.

pub mod config;

pub mod clock;

pub mod model;

pub mod codec;

pub mod lane;

pub mod stream;

pub mod telemetry;

pub mod http;

pub mod demo;

pub mod cli;
