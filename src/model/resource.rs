//! The fleet: resources that serve tasks, and the tenants that send them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, NAME_BYTES_MAX, check_name, check_number};

/// What a rate limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    Requests,
    Tokens,
}

impl Dimension {
    pub const fn name(self) -> &'static str {
        match self {
            Dimension::Requests => "requests",
            Dimension::Tokens => "tokens",
        }
    }
}

/// At most `amount` of `dimension` in every sliding window of `window_s` seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub dimension: Dimension,
    pub amount: u64,
    /// 1 to 86,400.
    pub window_s: u32,
}

/// Prices in US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenPrices {
    pub input: f64,
    pub output: f64,
}

/// What is known of a resource's speed before any result has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Speed {
    pub time_to_first_token_ms: f64,
    pub prefill_tokens_per_s: f64,
    pub decode_tokens_per_s: f64,
}

impl Default for Speed {
    fn default() -> Self {
        Speed {
            time_to_first_token_ms: 500.0,
            prefill_tokens_per_s: 5_000.0,
            decode_tokens_per_s: 50.0,
        }
    }
}

/// One deployment of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceSpec {
    /// Unique in the fleet.
    pub id: String,
    pub model: String,
    pub provider: String,
    pub region: String,
    /// What fails together; `provider/region` where the fleet says nothing.
    #[serde(default)]
    pub failure_domain: String,
    /// Which `routes.{pool}` topic, where the decision topic is a template.
    #[serde(default = "default_name")]
    pub pool: String,
    #[serde(default)]
    pub usd_per_million_tokens: TokenPrices,
    /// Tokens, input and output together.
    pub context_window: u32,
    pub max_output_tokens: u32,
    /// Concurrent requests; at least 1.
    pub slots: u32,
    #[serde(default)]
    pub limits: Vec<Limit>,
    #[serde(default)]
    pub speed: Speed,
    /// Prior quality per task class, in [0, 1]; `default` stands for every class not named.
    #[serde(default)]
    pub quality: BTreeMap<String, f64>,
    #[serde(default = "default_modalities")]
    pub modalities: Vec<String>,
    /// Tenants that may use the resource; empty: all.
    #[serde(default)]
    pub tenants: Vec<String>,
}

/// The tenant that stands for all of them together: its limits and its budget bind every task, beside
/// those of the task's own tenant. No task names it.
pub const EVERYONE: &str = "*";

/// A tenant's share and limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {
    pub id: String,
    /// Share inside a priority, relative to the other tenants'.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// Over all lanes.
    #[serde(default)]
    pub limits: Vec<Limit>,
    /// Requests at once, per lane; refilled at the rate of the first requests limit.
    #[serde(default)]
    pub burst: Option<u32>,
    #[serde(default)]
    pub usd_per_hour: Option<f64>,
    /// Share of each resource's limits that is kept for this tenant, in [0, 1].
    #[serde(default)]
    pub reserved_share: f64,
}

/// A fleet file: TOML or JSON with the same keys.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetFile {
    #[serde(default, rename = "resource")]
    pub resources: Vec<ResourceSpec>,
    #[serde(default, rename = "tenant")]
    pub tenants: Vec<TenantSpec>,
}

/// One record of the `fleet` topic: key `<resource id>` or `tenant:<id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "resources are the usual entry, and few")]
pub enum FleetEntry {
    Resource(ResourceSpec),
    ResourceRemoved(String),
    Tenant(TenantSpec),
    TenantRemoved(String),
}

/// The prefix of a tenant's key in the `fleet` topic.
pub const TENANT_KEY_PREFIX: &str = "tenant:";

fn default_name() -> String {
    "default".to_owned()
}

fn default_modalities() -> Vec<String> {
    vec!["text".to_owned()]
}

const fn default_weight() -> f64 {
    1.0
}

/// Limits of one resource or tenant; more would be a mistake in the file.
pub const LIMITS_MAX: usize = 8;
/// The longest window of a limit, a day: it is kept in memory.
pub const WINDOW_S_MAX: u32 = 86_400;
/// Bound of the number of resources: indices are `u16`, and 10,000 is the largest measured fleet.
pub const RESOURCES_MAX: usize = 20_000;

impl ResourceSpec {
    /// What fails together with this resource.
    pub fn domain(&self) -> String {
        if self.failure_domain.is_empty() {
            format!("{}/{}", self.provider, self.region)
        } else {
            self.failure_domain.clone()
        }
    }

    /// Prior quality for a task class, in [0, 1]; `None` where the resource cannot serve it.
    pub fn quality_prior(&self, class: &str) -> Option<f64> {
        self.quality.get(class).or_else(|| self.quality.get("default")).copied()
    }

    /// Checks every bound and returns all violations.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |result: Result<(), Invalid>| found.extend(result.err());
        for (field, name) in [
            ("id", &self.id),
            ("model", &self.model),
            ("provider", &self.provider),
            ("region", &self.region),
            ("pool", &self.pool),
        ] {
            check(check_name(field, name, NAME_BYTES_MAX));
        }
        if self.id.starts_with(TENANT_KEY_PREFIX) {
            check(Err(Invalid::new("id", &self.id, "a name that does not start with `tenant:`")));
        }
        let prices = self.usd_per_million_tokens;
        check(check_number("usd_per_million_tokens.input", prices.input, 0.0, f64::MAX));
        check(check_number("usd_per_million_tokens.output", prices.output, 0.0, f64::MAX));
        for (field, count) in [
            ("context_window", self.context_window),
            ("max_output_tokens", self.max_output_tokens),
            ("slots", self.slots),
        ] {
            if count == 0 {
                check(Err(Invalid::new(field, 0, "at least 1")));
            }
        }
        check_limits(&self.limits, &mut check);
        let speed = self.speed;
        check(check_number(
            "speed.time_to_first_token_ms",
            speed.time_to_first_token_ms,
            0.0,
            f64::MAX,
        ));
        for (field, rate) in [
            ("speed.prefill_tokens_per_s", speed.prefill_tokens_per_s),
            ("speed.decode_tokens_per_s", speed.decode_tokens_per_s),
        ] {
            check(check_number(field, rate, 0.001, f64::MAX));
        }
        for (class, quality) in &self.quality {
            check(check_number(&format!("quality.{class}"), *quality, 0.0, 1.0));
        }
        found
    }
}

impl TenantSpec {
    /// Checks every bound and returns all violations.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |result: Result<(), Invalid>| found.extend(result.err());
        check(check_name("id", &self.id, NAME_BYTES_MAX));
        check(check_number("weight", self.weight, 0.001, 1_000_000.0));
        check_limits(&self.limits, &mut check);
        if self.burst == Some(0) {
            check(Err(Invalid::new("burst", 0, "at least 1")));
        }
        let rated = self.limits.iter().any(|limit| limit.dimension == Dimension::Requests);
        if self.burst.is_some() && !rated {
            check(Err(Invalid::new(
                "burst",
                "a burst without a limit of requests",
                "a burst together with a limit of dimension `requests`, whose rate refills it",
            )));
        }
        if let Some(budget) = self.usd_per_hour {
            check(check_number("usd_per_hour", budget, 0.000_001, 1e9));
        }
        check(check_number("reserved_share", self.reserved_share, 0.0, 1.0));
        if self.id == EVERYONE {
            let allowed = "limits and usd_per_hour alone: `*` stands for all tenants together";
            for (field, is_set) in [
                ("weight", self.weight != default_weight()),
                ("burst", self.burst.is_some()),
                ("reserved_share", self.reserved_share > 0.0),
            ] {
                if is_set {
                    check(Err(Invalid::new(field, "a value for tenant `*`", allowed)));
                }
            }
        }
        found
    }
}

fn check_limits(limits: &[Limit], check: &mut impl FnMut(Result<(), Invalid>)) {
    if limits.len() > LIMITS_MAX {
        let given = format!("{} limits", limits.len());
        check(Err(Invalid::new("limits", given, &format!("at most {LIMITS_MAX}"))));
    }
    for (place, limit) in limits.iter().enumerate() {
        let is_same =
            |other: &Limit| other.dimension == limit.dimension && other.window_s == limit.window_s;
        if limits[..place].iter().any(is_same) {
            let given = format!("two of {} in {} s", limit.dimension.name(), limit.window_s);
            check(Err(Invalid::new("limits", given, "one of each dimension and window")));
        }
        if limit.amount == 0 || limit.amount > 1_000_000_000_000 {
            check(Err(Invalid::new("limits.amount", limit.amount, "1 to 1,000,000,000,000")));
        }
        if limit.window_s == 0 || limit.window_s > WINDOW_S_MAX {
            check(Err(Invalid::new("limits.window_s", limit.window_s, "1 to 86,400")));
        }
    }
}

impl FleetFile {
    /// Every violation, with the entry that has it.
    pub fn validate(&self) -> Vec<(String, Invalid)> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for (number, resource) in self.resources.iter().enumerate() {
            let entry = format!("resource {} `{}`", number + 1, resource.id);
            found.extend(resource.validate().into_iter().map(|error| (entry.clone(), error)));
            if !seen.insert(resource.id.as_str()) {
                found.push((entry, Invalid::new("id", &resource.id, "an id used only once")));
            }
        }
        let mut seen = BTreeSet::new();
        let mut share = 0.0;
        for (number, tenant) in self.tenants.iter().enumerate() {
            let entry = format!("tenant {} `{}`", number + 1, tenant.id);
            found.extend(tenant.validate().into_iter().map(|error| (entry.clone(), error)));
            if !seen.insert(tenant.id.as_str()) {
                found.push((entry, Invalid::new("id", &tenant.id, "an id used only once")));
            }
            share += tenant.reserved_share;
        }
        if share > 1.0 {
            let error = Invalid::new("reserved_share", share, "shares that sum to at most 1");
            found.push(("all tenants".to_owned(), error));
        }
        if self.resources.len() > RESOURCES_MAX {
            let allowed = format!("at most {RESOURCES_MAX} resources");
            let error = Invalid::new("resource", self.resources.len(), &allowed);
            found.push(("the fleet".to_owned(), error));
        }
        found
    }
}
