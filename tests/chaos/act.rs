//! What is done to the router and to the brokers, one after the other.

use std::time::Duration;

use serde::Serialize;

/// An instance, by its number.
pub type Number = usize;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Act {
    Wait(Duration),
    /// A first start, with these fail points.
    Join(Number, String),
    /// SIGKILL; it is started again with these fail points.
    Crash(Number, String),
    /// SIGTERM; it is started again.
    Restart(Number),
    /// SIGKILL, and it does not come back.
    Lose(Number),
    /// SIGTERM, and it does not come back.
    Leave(Number),
    /// SIGSTOP.
    Freeze(Number),
    /// SIGCONT.
    Thaw(Number),
    /// Until it has killed itself at a point, or for so long.
    AwaitFired(Number, Duration),
    /// Until it has stopped itself at a point, or for so long.
    AwaitFrozen(Number, Duration),
    KillNode(u32),
    StartNode(u32),
    PauseNode(u32),
    ResumeNode(u32),
}

impl Act {
    /// About how long it takes, so that there are tasks enough.
    pub fn expected(&self) -> Duration {
        match self {
            Act::Wait(time) => *time,
            Act::AwaitFired(..) | Act::AwaitFrozen(..) => Duration::from_secs(3),
            Act::StartNode(_) => Duration::from_secs(7),
            Act::Join(..)
            | Act::Crash(..)
            | Act::Restart(_)
            | Act::Lose(_)
            | Act::Leave(_)
            | Act::Freeze(_)
            | Act::Thaw(_)
            | Act::KillNode(_)
            | Act::PauseNode(_)
            | Act::ResumeNode(_) => Duration::ZERO,
        }
    }
}
