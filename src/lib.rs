//! Pointsman sets the track for AI tasks. The modules stand in the order in which data passes.

pub mod config;

pub mod model;

pub mod codec;

pub mod lane;

pub mod stream;

pub mod demo;
