//! Which models a key may ask for. A name is looked at with everything it stands for: an alias with its model, a pinned
//! route with the model it serves. So a key that may use a model may use its aliases and routes, and a key that may use an
//! alias alone may use nothing else.

use super::catalog::Catalog;
use super::route::NoRoute;
use crate::domain::code::Code;
use crate::domain::key::Limits;
use crate::domain::validate::{FieldCode, FieldError};

impl Catalog {
    /// Whether a key with these limits may ask for `model`; a name that nobody knows is not this rule's matter.
    pub(super) fn allowed(&self, limits: &Limits, model: &str) -> bool {
        let stands_for = self.aliases.get(model).map(|alias| alias.model.as_str());
        let served = [Some(model), stands_for].into_iter().flatten().flat_map(|name| self.named(name));
        let names = served.map(|entry| entry.route.model.as_str());
        !self.knows(model) || limits.allows(names.chain([model]).chain(stands_for))
    }
}

/// The answer for a model the key may not have.
pub(super) fn forbidden(detail: String) -> NoRoute {
    let errors = vec![FieldError::new("/model", FieldCode::Unsupported, &detail)];
    NoRoute { code: Code::Forbidden, detail, errors }
}
