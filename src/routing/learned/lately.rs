//! Of which resources something was learned since when, so that what follows from it is derived again for
//! those alone.
//!
//! It says nothing that the rest of the state does not: it stands in no snapshot, and each is equal to any other.

use super::ResourceIndex;

#[derive(Debug, Clone, Default)]
pub struct Lately {
    /// By resource, the version that brought the last of it; 0: nothing since this was made. 8 bytes each.
    versions: Vec<u64>,
    /// What came until this version may be of any resource.
    any: u64,
}

impl Lately {
    /// Something was learned of a resource: that is `version`.
    pub fn add(&mut self, resource: ResourceIndex, version: u64) {
        if self.versions.is_empty() {
            self.any = self.any.max(version.saturating_sub(1));
        }
        let at = usize::from(resource);
        if self.versions.len() <= at {
            self.versions.resize(at + 1, 0);
        }
        self.versions[at] = version;
    }

    /// What makes `version` is of all resources.
    pub fn all(&mut self, version: u64) {
        self.any = version;
    }

    /// Those of which something was learned after `version`; `None` where it may be any.
    pub fn since(&self, version: u64) -> Option<impl Iterator<Item = ResourceIndex>> {
        let later = move |(index, last): (usize, &u64)| (*last > version).then_some(index as u16);
        (!self.versions.is_empty() && self.any <= version)
            .then(|| self.versions.iter().enumerate().filter_map(later))
    }
}

impl PartialEq for Lately {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_a_version() {
        let mut lately = Lately::default();
        let check = |what: &str, lately: &Lately, rows: &[(u64, Option<&[u16]>)]| {
            for (version, expected) in rows {
                let found: Option<Vec<u16>> = lately.since(*version).map(Iterator::collect);
                assert_eq!(found.as_deref(), *expected, "{what}, after {version}");
            }
        };
        check("nothing is known", &lately, &[(0, None), (7, None)]);
        // A state that was restored at version 7.
        [(3, 8), (5, 9), (3, 10)].into_iter().for_each(|(one, version)| lately.add(one, version));
        check("before it was restored", &lately, &[(0, None), (6, None)]);
        let rows: [(u64, Option<&[u16]>); 4] =
            [(7, Some(&[3, 5])), (8, Some(&[3, 5])), (9, Some(&[3])), (10, Some(&[]))];
        check("by resource", &lately, &rows);
        lately.add(1, 11);
        lately.all(11);
        lately.add(0, 12);
        check("of all", &lately, &[(10, None), (11, Some(&[0])), (12, Some(&[]))]);
    }
}
