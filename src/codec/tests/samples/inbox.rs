//! What lanes send each other.

use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{name, task_result, time};
use crate::codec::inputs;
use crate::model::event::{InboxBody, InboxMessage};
use crate::model::rights::{Advice, LimitKind, LimitName, LimitOwner, RightsTransfer};
use crate::model::task::Priority;

pub fn lane_inbox() -> impl Strategy<Value = InboxMessage> {
    (any::<u32>(), any::<u32>(), inbox_body()).prop_map(|(from_lane, to_lane, body)| InboxMessage {
        from_lane,
        to_lane,
        body,
    })
}

fn limit_name() -> impl Strategy<Value = LimitName> {
    let owner =
        prop_oneof![name().prop_map(LimitOwner::Resource), name().prop_map(LimitOwner::Tenant)];
    let rate = (select(&inputs::DIMENSIONS[..]), any::<u32>())
        .prop_map(|(dimension, window_s)| LimitKind::Rate { dimension, window_s });
    let kind = prop_oneof![Just(LimitKind::Slots), Just(LimitKind::Budget), rate];
    (owner, any::<i64>(), kind).prop_map(|(owner, incarnation, kind)| LimitName {
        owner,
        incarnation,
        kind,
    })
}

fn inbox_body() -> impl Strategy<Value = InboxBody> {
    let rights = (limit_name(), any::<u32>(), time()).prop_map(|(limit, rights, given_at_ms)| {
        InboxBody::Rights(RightsTransfer { limit, rights, given_at_ms })
    });
    let owed_to = option::of(select(&Priority::ALL[..]));
    let advice = (limit_name(), any::<u32>(), any::<u32>(), owed_to).prop_map(
        |(limit, to_lane, rights, owed_to)| {
            InboxBody::Advice(Advice { limit, to_lane, rights, owed_to })
        },
    );
    prop_oneof![task_result().prop_map(InboxBody::Result), rights, advice]
}
