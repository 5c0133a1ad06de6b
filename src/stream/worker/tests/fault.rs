//! Panics on purpose, at chosen records, inside the guarded calls.

use std::cell::RefCell;

use crate::codec::RawRecord;
use crate::lane::Lane;
use crate::model::Topic;

thread_local! {
    static OFFERED: RefCell<Option<(Topic, i64, u32)>> = const { RefCell::new(None) };
    static PREPARES: RefCell<u32> = const { RefCell::new(0) };
}

/// The core panics the next `times` times that this record is offered.
pub fn panic_when_offered(topic: Topic, offset: i64, times: u32) {
    OFFERED.set(Some((topic, offset, times)));
}

/// The core panics the next `times` times that a batch is prepared.
pub fn panic_when_preparing(times: u32) {
    PREPARES.set(times);
}

pub fn offered(record: &RawRecord<'_>) {
    OFFERED.with_borrow_mut(|armed| {
        if let Some((topic, offset, times)) = armed
            && *topic == record.topic
            && *offset == record.offset
            && *times > 0
        {
            *times -= 1;
            panic!("on purpose: {topic:?} {offset}");
        }
    });
}

pub fn prepares(_lane: &Lane) {
    PREPARES.with_borrow_mut(|times| {
        if *times > 0 {
            *times -= 1;
            panic!("on purpose: preparing");
        }
    });
}
