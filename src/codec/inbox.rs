//! Avro forms of what lanes send each other: the order of the calls is the order of the fields in
//! `schemas/lane_inbox.avsc`.

use crate::model::event::{InboxBody, InboxMessage, InboxRecord, NotOneContent};
use crate::model::rights::{Advice, Counted, LimitName, LimitRecord, RightsTransfer};
use crate::model::task::Priority;

use super::binary::{Reader, put_long, put_option, put_str, put_unsigned};
use super::error::DecodeError;
use super::inputs::{put_task_result, put_time, read_task_result, read_time};

pub(super) fn put_lane_inbox(out: &mut Vec<u8>, message: &InboxMessage) {
    let (mut result, mut rights, mut advice) = (None, None, None);
    match &message.body {
        InboxBody::Result(content) => result = Some(content),
        InboxBody::Rights(content) => rights = Some(content),
        InboxBody::Advice(content) => advice = Some(content),
    }
    put_unsigned(out, message.from_lane);
    put_unsigned(out, message.to_lane);
    put_option(out, result, put_task_result);
    put_option(out, rights, |out, transfer| {
        put_limit(out, &transfer.limit);
        put_unsigned(out, transfer.rights);
        put_time(out, transfer.given_at_ms);
    });
    put_option(out, advice, |out, advice| {
        put_limit(out, &advice.limit);
        put_unsigned(out, advice.to_lane);
        put_unsigned(out, advice.rights);
        put_option(out, advice.owed_to, |out, priority| put_long(out, priority as i64));
    });
}

pub(super) fn read_lane_inbox(reader: &mut Reader<'_>) -> Result<InboxMessage, DecodeError> {
    let record = InboxRecord {
        from_lane: reader.u32("from_lane")?,
        to_lane: reader.u32("to_lane")?,
        result: reader.option("result", |reader, _| read_task_result(reader))?,
        rights: reader.option("rights", |reader, _| {
            Ok(RightsTransfer {
                limit: read_limit(reader)?,
                rights: reader.u32("rights.rights")?,
                given_at_ms: read_time(reader, "rights.given_at_ms")?,
            })
        })?,
        advice: reader.option("advice", |reader, _| {
            Ok(Advice {
                limit: read_limit(reader)?,
                to_lane: reader.u32("advice.to_lane")?,
                rights: reader.u32("advice.rights")?,
                owed_to: reader.option("advice.owed_to", |reader, field| {
                    reader.symbol(field, &Priority::ALL)
                })?,
            })
        })?,
    };
    InboxMessage::try_from(record).map_err(|error: NotOneContent| DecodeError::Avro {
        field: "result",
        problem: error.to_string(),
    })
}

fn put_limit(out: &mut Vec<u8>, limit: &LimitName) {
    let LimitRecord { owner, incarnation, dimension, window_s } = limit.clone().into();
    put_str(out, &owner);
    put_long(out, incarnation);
    put_long(out, dimension as i64);
    put_unsigned(out, window_s);
}

fn read_limit(reader: &mut Reader<'_>) -> Result<LimitName, DecodeError> {
    let record = LimitRecord {
        owner: reader.string("limit.owner")?,
        incarnation: reader.long("limit.incarnation")?,
        dimension: reader.symbol("limit.dimension", &Counted::ALL)?,
        window_s: reader.u32("limit.window_s")?,
    };
    Ok(record.into())
}
