//! Whole outputs, compared: with `apache-avro` as the second opinion, with each other's formats,
//! and with bytes that mean nothing.

mod evolution;
mod hostile;
mod round_trip;
mod samples;
mod schemas;
