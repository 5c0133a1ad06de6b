//! The audit finds what is planted, and nothing where nothing is.

mod planted;
mod scale;
