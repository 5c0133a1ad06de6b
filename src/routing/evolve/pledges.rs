//! Folding of what a lane owes: see [`super::super::sharing::Pledge`].

use super::super::fact::Reservation;
use super::super::rights::Scale;
use super::super::sharing::{Keeping, Pledge};
use super::super::state::State;
use crate::model::resource::{Dimension, FleetEntry};
use crate::model::rights::{LimitKind, LimitName, LimitOwner};

impl State {
    /// One pledge for each lane: a new one stands for what was left of the last.
    pub(super) fn pledge_rights(&mut self, limit: &LimitName, pledge: Pledge) {
        let pledges = self.sharing.pledges.entry(limit.clone()).or_default();
        pledges.retain(|one| one.to_lane != pledge.to_lane);
        pledges.push(pledge);
        pledges.sort_by_key(|one| one.priority);
        self.promise(limit);
    }

    pub(super) fn keep_room(&mut self, limit: &LimitName, keeping: Keeping) {
        self.sharing.keeping.insert(limit.clone(), keeping);
        self.promise(limit);
    }

    /// Rights are given. What is left of a pledge and worth no unit is no more.
    pub(super) fn fulfil(&mut self, limit: &LimitName, to_lane: u32, rights: u32, scale: Scale) {
        let Some(pledges) = self.sharing.pledges.get_mut(limit) else { return };
        let Some(pledge) = pledges.iter_mut().find(|one| one.to_lane == to_lane) else { return };
        pledge.rights = pledge.rights.saturating_sub(rights);
        pledges.retain(|one| scale.units(one.rights) > 0);
        self.promise(limit);
    }

    /// Those whose time is over at the time of the batch.
    pub(super) fn end_pledges(&mut self) {
        if self.sharing.pledges.is_empty() && self.sharing.keeping.is_empty() {
            return;
        }
        let now = self.batch_time;
        let mut ended: Vec<LimitName> = Vec::new();
        for (limit, pledges) in &mut self.sharing.pledges {
            let before = pledges.len();
            pledges.retain(|one| one.until > now);
            if pledges.len() < before {
                ended.push(limit.clone());
            }
        }
        let over = self.sharing.keeping.iter().filter(|(_, keeping)| keeping.until <= now);
        let over: Vec<LimitName> = over.map(|(limit, _)| limit.clone()).collect();
        self.sharing.keeping.retain(|_, keeping| keeping.until > now);
        for limit in ended.iter().chain(&over) {
            self.promise(limit);
        }
    }

    /// A task takes so much at once as room was kept for.
    pub(super) fn room_found(&mut self, reservation: &Reservation) {
        if self.sharing.keeping.is_empty() {
            return;
        }
        let id = self.fleet.at(reservation.resource).id.to_string();
        let owner = LimitOwner::Resource(id);
        let is_found = |(limit, keeping): (&LimitName, &Keeping)| {
            let is_tokens =
                matches!(limit.kind, LimitKind::Rate { dimension: Dimension::Tokens, .. });
            limit.owner == owner && is_tokens && reservation.tokens >= keeping.kept.size
        };
        let found = self.sharing.keeping.iter().filter(|one| is_found(*one));
        let found: Vec<LimitName> = found.map(|(limit, _)| limit.clone()).collect();
        for limit in found {
            self.sharing.keeping.remove(&limit);
            self.promise(&limit);
        }
    }

    /// A record of the fleet changes the limits that these were about.
    pub(super) fn break_pledges(&mut self, entry: &FleetEntry) {
        if self.sharing.pledges.is_empty() && self.sharing.keeping.is_empty() {
            return;
        }
        let owner = match entry {
            FleetEntry::Resource(spec) => LimitOwner::Resource(spec.id.clone()),
            FleetEntry::ResourceRemoved(id) => LimitOwner::Resource(id.clone()),
            FleetEntry::Tenant(spec) => LimitOwner::Tenant(spec.id.clone()),
            FleetEntry::TenantRemoved(id) => LimitOwner::Tenant(id.clone()),
        };
        let (pledges, keeping) = (&self.sharing.pledges, &self.sharing.keeping);
        let limits = pledges.keys().chain(keeping.keys());
        let broken: Vec<LimitName> = limits.filter(|limit| limit.owner == owner).cloned().collect();
        for limit in broken {
            self.sharing.pledges.remove(&limit);
            self.sharing.keeping.remove(&limit);
            self.promise(&limit);
        }
    }

    /// Counts again what is promised of a limit.
    fn promise(&mut self, limit: &LimitName) {
        let mut rights = [0_u32; 3];
        if let Some(pledges) = self.sharing.pledges.get(limit) {
            for pledge in pledges {
                let sum = &mut rights[pledge.priority as usize];
                *sum = sum.saturating_add(pledge.rights);
            }
            if pledges.is_empty() {
                self.sharing.pledges.remove(limit);
            }
        }
        let kept = self.sharing.keeping.get(limit).map(|keeping| keeping.kept);
        match &limit.owner {
            LimitOwner::Resource(id) => self.fleet.promise(id, limit.kind, rights, kept),
            LimitOwner::Tenant(id) => self.tenants.promise(id, limit.kind, rights, kept),
        }
        let is_any = !(self.sharing.pledges.is_empty() && self.sharing.keeping.is_empty());
        self.fleet.promises(is_any);
        if let Some(owner) = self.load_owner(&limit.owner) {
            self.sharing.untold.insert(owner);
        }
    }
}
