//! The commit path under faults that no real broker can be asked for: every request of a transaction is
//! lost, answered with every error that it can have, or cut off, before and after it took effect. The
//! client is the real one; the broker is the modelled one. After each case the independent audit reads
//! everything back.

mod cases;
mod site;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::{Case, cases};

/// Most of a case is waiting: for a time-out of the client, or for a session to end.
const AT_ONCE: usize = 6;

#[test]
fn whatever_happens_to_a_request_of_a_transaction_nothing_is_lost_or_doubled() {
    let cases = cases();
    assert!(cases.len() >= 200, "{} cases", cases.len());
    let next = AtomicUsize::new(0);
    let failed: Mutex<Vec<String>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(wrong) = run(case) {
                        failed.lock().unwrap().push(format!("{case}: {wrong}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn run(case: &Case) -> Result<(), String> {
    let mut site = site::Site::start()?;
    let rule = site.inject(case);
    site.run_router();
    site.publish_tasks(0..site::TASKS / 2);
    site.work_until(site::TASKS / 2)?;
    site.publish_tasks(site::TASKS / 2..site::TASKS);
    site.work_until(site::TASKS)?;
    if site.hits(rule) == 0 {
        return Err("the fault was never met".to_owned());
    }
    site.audit()
}
