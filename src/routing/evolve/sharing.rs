//! Folding of what lanes share: see [`super::super::sharing`].

use super::super::fact::{Lack, LoadOwner, Taken};
use super::super::rights::Scale;
use super::super::sharing::{Dry, Early, kinds_of};
use super::super::state::State;
use crate::model::resource::FleetEntry;
use crate::model::rights::{LimitKind, LimitName, LimitOwner, RightsTransfer};
use crate::planted::{Bug, planted};

impl State {
    pub(super) fn give_rights(&mut self, limit: &LimitName, to_lane: u32, rights: u32) {
        if planted(Bug::GiveKeeping) {
            return;
        }
        if let Some(stand) = self.stand(limit) {
            let scale = Scale { limit: stand.amount };
            self.fulfil(limit, to_lane, rights, scale);
            self.hold_rights(limit, stand.rights.saturating_sub(rights));
        }
    }

    /// There are more lanes now. One that was alone has said nothing of what it holds.
    pub(super) fn count_lanes(&mut self, lanes: u32) {
        if self.lanes == 1 {
            let resources = self.fleet.iter().filter(|(_, resource)| !resource.removed);
            let resources = resources.map(|(index, _)| LoadOwner::Resource(index));
            let tenants = self.tenants.iter().filter(|(_, tenant)| !tenant.removed);
            let tenants = tenants.map(|(index, _)| LoadOwner::Tenant(index));
            self.sharing.untold.extend(resources.chain(tenants));
        }
        self.lanes = lanes;
    }

    pub(super) fn take_rights(&mut self, transfer: &RightsTransfer, how: Taken) {
        let RightsTransfer { limit, rights, given_at_ms } = transfer;
        if how != Taken::Void {
            self.learn_name(limit);
        }
        match how {
            Taken::Held => {
                if let Some(stand) = self.stand(limit) {
                    let twice = if planted(Bug::TakeTwice) { *rights } else { 0 };
                    self.hold_rights(limit, stand.rights + rights + twice);
                }
            }
            Taken::Kept => {
                let usable_at = *given_at_ms;
                let early = self.sharing.early.entry(limit.clone()).or_default();
                match early.get_mut(1) {
                    Some(second) => {
                        second.rights += rights;
                        second.usable_at = second.usable_at.max(usable_at);
                    }
                    None => early.push(Early { rights: *rights, usable_at }),
                }
            }
            Taken::Void => {}
        }
    }

    /// A lane that was added takes the name of a limit from the first rights that it gets of it.
    fn learn_name(&mut self, limit: &LimitName) {
        if self.knows_later(limit) {
            match &limit.owner {
                LimitOwner::Resource(id) => self.fleet.rename(id, limit.kind, limit.incarnation),
                LimitOwner::Tenant(id) => self.tenants.rename(id, limit.kind, limit.incarnation),
            }
        }
    }

    /// What came early and can be used at the time of the batch.
    pub(super) fn ripen(&mut self) {
        if self.sharing.early.is_empty() {
            return;
        }
        let mut early = std::mem::take(&mut self.sharing.early);
        early.retain(|limit, early| {
            let Some(stand) = self.stand(limit) else { return true };
            let now = self.batch_time;
            let ripe = early.iter().filter(|early| early.usable_at <= now);
            let rights: u32 = ripe.map(|early| early.rights).sum();
            if rights > 0 {
                self.hold_rights(limit, stand.rights + rights);
                early.retain(|early| early.usable_at > now);
            }
            !early.is_empty()
        });
        self.sharing.early = early;
    }

    /// A record of the fleet is folded: what came early for a limit that it did not bring is void.
    pub(super) fn share_new(&mut self, offset: i64, entry: &FleetEntry) {
        if self.lanes == 1 {
            return;
        }
        let owner = match entry {
            FleetEntry::Resource(spec) => LimitOwner::Resource(spec.id.clone()),
            FleetEntry::ResourceRemoved(id) => LimitOwner::Resource(id.clone()),
            FleetEntry::Tenant(spec) => LimitOwner::Tenant(spec.id.clone()),
            FleetEntry::TenantRemoved(id) => LimitOwner::Tenant(id.clone()),
        };
        if let Some(owner) = self.load_owner(&owner) {
            self.sharing.untold.insert(owner);
        }
        self.drop_early(offset);
    }

    /// Rights of limits that should be known once the fleet is read up to this offset, and are not.
    pub(super) fn drop_early(&mut self, offset: i64) {
        if self.sharing.early.is_empty() {
            return;
        }
        let mut early = std::mem::take(&mut self.sharing.early);
        early.retain(|limit, _| {
            self.learn_name(limit);
            limit.incarnation > offset || self.stand(limit).is_some() || self.may_know_later(limit)
        });
        self.sharing.early = early;
    }

    fn hold_rights(&mut self, limit: &LimitName, rights: u32) {
        match &limit.owner {
            LimitOwner::Resource(id) => self.fleet.hold(id, limit.kind, rights),
            LimitOwner::Tenant(id) => self.tenants.hold(id, limit.kind, rights),
        }
        let owner = self.load_owner(&limit.owner);
        if let Some(owner) = owner {
            self.sharing.untold.insert(owner);
        }
        if let Some(LoadOwner::Resource(index)) = owner
            && limit.kind == LimitKind::Slots
        {
            self.admit_anew(index);
        }
    }

    pub(super) fn load_told(&mut self, due: bool, owners: &[LoadOwner], lacks: &[Lack]) {
        let now = self.batch_time;
        for owner in owners {
            for kind in kinds_of(self, *owner) {
                let name = (*owner, kind);
                match lacks.iter().find(|lack| (lack.owner, lack.kind) == name) {
                    Some(lack) => {
                        let critical = lack.critical > 0;
                        let dry = self.sharing.dry.get(&name).copied();
                        let since = dry.map_or(now, |dry| dry.since);
                        let large_since = dry.and_then(|dry| dry.large_since).unwrap_or(now);
                        let large_since = (lack.largest > 0).then_some(large_since);
                        self.sharing.dry.insert(name, Dry { since, critical, large_since });
                    }
                    None => {
                        self.sharing.dry.remove(&name);
                    }
                }
            }
            self.sharing.untold.remove(owner);
            match owner {
                LoadOwner::Resource(index) => self.fleet.reset_peaks(*index),
                LoadOwner::Tenant(index) => self.tenants.reset_peaks(*index),
            }
        }
        self.sharing.told_at = now;
        if due {
            self.load_published_at = now;
            self.fleet.told();
            // What is left is of limits that are gone.
            self.sharing.dry.retain(|(owner, kind), _| {
                lacks.iter().any(|lack| (lack.owner, lack.kind) == (*owner, *kind))
            });
        }
    }
}
