//! The schemas of the contract, by topic, with their fingerprints.
//!
//! A fingerprint is written into every record (Avro single-object encoding), so it is a constant
//! here and not computed: a schema cannot change unnoticed. It covers names, types and order, not
//! documentation and defaults.

use crate::model::Topic;

/// A schema as `schemas/*.avsc` has it.
#[derive(Debug, Clone, Copy)]
pub struct TopicSchema {
    /// The schema's file in `schemas/`, without its extension.
    pub name: &'static str,
    pub text: &'static str,
    /// CRC-64-AVRO of the parsing canonical form.
    pub fingerprint: u64,
}

macro_rules! schema {
    ($name:literal, $fingerprint:literal) => {
        TopicSchema {
            name: $name,
            text: include_str!(concat!("../../schemas/", $name, ".avsc")),
            fingerprint: $fingerprint,
        }
    };
}

const TASK: TopicSchema = schema!("task", 0xe082_c96e_3ba9_4757);
const TASK_RESULT: TopicSchema = schema!("task_result", 0x95af_d833_9950_cf66);
const LANE_INBOX: TopicSchema = schema!("lane_inbox", 0xea6d_369a_43a8_dd96);
const HEALTH_EVENT: TopicSchema = schema!("health_event", 0x579e_275b_551f_3a57);
const FLEET_ENTRY: TopicSchema = schema!("fleet_entry", 0x17e5_85db_c2c6_caab);
const ROUTE_DECISION: TopicSchema = schema!("route_decision", 0x1446_f78b_253c_8bc2);
const ALLOCATION_EVENT: TopicSchema = schema!("allocation_event", 0x4c55_5b0d_26f5_bf7b);
const BALANCE_EVENT: TopicSchema = schema!("balance_event", 0xf62f_1a9e_9250_9df5);
const LOAD_SNAPSHOT: TopicSchema = schema!("load_snapshot", 0xeafa_78c0_ad5d_6a2a);
const JOURNAL: TopicSchema = schema!("journal", 0x64c3_54d5_cd6d_4234);
const OPERATOR_ACTION: TopicSchema = schema!("operator_action", 0xd28a_378c_21c6_8360);

/// The schemas of `snapshots`, whose codec comes with the snapshots.
pub const SNAPSHOT_MANIFEST: TopicSchema = schema!("snapshot_manifest", 0xb88d_1a1d_2b99_976f);
pub const SNAPSHOT_CHUNK: TopicSchema = schema!("snapshot_chunk", 0x80c1_a139_a7fd_0dad);

/// The schema of a topic's values; `None` for dead letters, which are whatever came, and
/// for snapshots, which are bytes of ours.
pub const fn of(topic: Topic) -> Option<&'static TopicSchema> {
    match topic {
        Topic::Tasks => Some(&TASK),
        Topic::TaskResults => Some(&TASK_RESULT),
        Topic::LaneInbox => Some(&LANE_INBOX),
        Topic::HealthEvents => Some(&HEALTH_EVENT),
        Topic::Fleet => Some(&FLEET_ENTRY),
        Topic::RouteDecisions => Some(&ROUTE_DECISION),
        Topic::AllocationEvents => Some(&ALLOCATION_EVENT),
        Topic::BalanceEvents => Some(&BALANCE_EVENT),
        Topic::LoadSnapshots => Some(&LOAD_SNAPSHOT),
        Topic::Journal => Some(&JOURNAL),
        Topic::OperatorActions => Some(&OPERATOR_ACTION),
        Topic::Snapshots
        | Topic::TasksDlq
        | Topic::TaskResultsDlq
        | Topic::LaneInboxDlq
        | Topic::HealthEventsDlq
        | Topic::FleetDlq => None,
    }
}
