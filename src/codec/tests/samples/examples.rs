//! One task, one decision, one resource, as they usually are.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::codec::outputs;
use crate::model::decision::{ChainLink, Reserved, RouteDecision, RouteMetrics};
use crate::model::resource::{Dimension, Limit, ResourceSpec, Speed, TokenPrices};
use crate::model::task::{Objective, Priority, Requirements, Task};
use crate::model::time::Timestamp;

pub fn task_example() -> Task {
    Task {
        task_id: "t-000001".to_owned(),
        tenant: "acme".to_owned(),
        class: "code-review".to_owned(),
        priority: Priority::Interactive,
        created_at_ms: Some(Timestamp::from_ms(1_700_158_623_979)),
        deadline_ms: Some(81_440),
        input_tokens: 374,
        max_output_tokens: 1_024,
        objective: Objective::Balanced,
        requirements: Requirements {
            min_quality: Some(0.6),
            max_cost_usd: Some(0.05),
            regions: vec!["eu".to_owned()],
            modalities: vec!["text".to_owned()],
            models: Vec::new(),
        },
        session: Some("s-17".to_owned()),
        features: Vec::new(),
        stages: Vec::new(),
        payload: Some(br#"{"messages":[]}"#.to_vec()),
    }
}

pub fn decision_example() -> RouteDecision<'static> {
    let link = |resource: &'static str| ChainLink {
        stage: 0,
        resource: Cow::Borrowed(resource),
        model: Cow::Borrowed("gpt-4o"),
    };
    RouteDecision {
        decision_id: Cow::Borrowed("3-1-1042-17"),
        task_id: Cow::Borrowed("t-000001"),
        attempt: 1,
        stage: 0,
        lane: 3,
        outcome: outputs::OUTCOMES[0],
        reason: None,
        tenant: Cow::Borrowed("acme"),
        class: Cow::Borrowed("code-review"),
        priority: Priority::Interactive,
        primary: vec![link("gpt-4o-eu")],
        fallbacks: vec![vec![link("gpt-4o-us")], vec![link("gpt-4o-asia")]],
        metrics: Some(RouteMetrics {
            quality: 0.81,
            cost_usd: 0.0112,
            latency_ms: 13_191.0,
            utility: 0.63,
            price: 0.0,
            propensity: 1.0,
        }),
        decided_at_ms: Timestamp::from_ms(1_700_158_624_000),
        start_by_at_ms: Some(Timestamp::from_ms(1_700_158_626_000)),
        lease_until_at_ms: Some(Timestamp::from_ms(1_700_158_678_764)),
        reserved: Some(Reserved { slots: 1, requests: 1, tokens: 1_398 }),
        input_tokens: 374,
        max_output_tokens: 1_024,
        health_offset: 12,
        refusals: Vec::new(),
        payload: Some(Cow::Borrowed(br#"{"messages":[]}"#)),
        fallbacks_apart: true,
        stages: 1,
    }
}

pub fn resource_example() -> ResourceSpec {
    ResourceSpec {
        id: "gpt-4o-eu".to_owned(),
        model: "gpt-4o".to_owned(),
        provider: "openai".to_owned(),
        region: "eu".to_owned(),
        failure_domain: "openai/eu".to_owned(),
        pool: "default".to_owned(),
        usd_per_million_tokens: TokenPrices { input: 2.5, output: 10.0 },
        context_window: 128_000,
        max_output_tokens: 16_384,
        slots: 40,
        limits: vec![
            Limit { dimension: Dimension::Requests, amount: 600, window_s: 60 },
            Limit { dimension: Dimension::Tokens, amount: 200_000, window_s: 60 },
        ],
        speed: Speed::default(),
        quality: BTreeMap::from([("default".to_owned(), 0.7), ("code-review".to_owned(), 0.81)]),
        modalities: vec!["text".to_owned()],
        tenants: Vec::new(),
    }
}
