//! Waiting for a condition, with a bound: what tests do in place of sleeping.

use std::time::{Duration, Instant};

/// Between two looks. Short against everything that a broker does, long against one look.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until `look` finds something, and returns that.
///
/// # Panics
/// After `limit`, naming `what` was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    #[expect(clippy::disallowed_methods, reason = "a test's patience is real time")]
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        #[expect(clippy::disallowed_methods, reason = "a test's patience is real time")]
        let waited = started.elapsed();
        assert!(waited < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// As [`eventually`], for a condition that has no value.
///
/// # Panics
/// After `limit`, naming `what` was waited for.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    eventually(what, limit, || condition().then_some(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_found_after_some_looks() {
        let mut looks = 0;
        let found = eventually("a third look", Duration::from_secs(10), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "in vain: what never comes")]
    fn gives_up_after_the_limit() {
        until("what never comes", Duration::from_millis(30), || false);
    }
}
