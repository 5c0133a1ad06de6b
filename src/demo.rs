//! The demo: a real trace over a bundled fleet, the real router as a child process, simulated
//! workers, and an independent audit of everything that the router wrote.

pub mod attempt;
pub mod audit;
pub mod draw;
pub mod fleet;
pub mod ledger;
pub mod outage;
pub mod quantile;
pub mod tasks;
pub mod topics;
pub mod trace;
