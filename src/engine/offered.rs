//! What is on offer just now, and at whom: exchanged as a whole when the configuration is read again. Whoever works on a
//! call keeps the lane it began with, key and all.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Catalog, Engine, Inner, Lane};

/// The catalogue and the accounts behind it.
pub struct Offered {
    /// What is on offer.
    pub catalog: Arc<Catalog>,
    /// Who offers it, by provider id.
    pub lanes: BTreeMap<String, Lane>,
}

impl Engine {
    /// What is on offer.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.inner.catalog()
    }

    /// Offers something else from now on. Tasks in line keep their routes by provider id and model, calls under way the
    /// account they were begun with.
    pub fn exchange(&self, offered: Offered) {
        self.inner.offered.store(Arc::new(offered));
        self.inner.store.changes().work_due();
    }
}

impl Inner {
    pub(super) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.offered.load().catalog)
    }

    /// A configured account.
    pub(super) fn lane(&self, id: &str) -> Option<Lane> {
        self.offered.load().lanes.get(id).cloned()
    }
}
