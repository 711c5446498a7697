//! What a step owes to callers' endpoints, worked out before the step is written so that both are written together. Every
//! notice passes here, whoever made it: no path can forget a webhook.

use serde_json::Value;

use super::backend::Db;
use super::webhooks::Endpoint;
use super::{Store, StoreError};
use crate::domain::delivery::{Delivery, DeliveryState, letter};
use crate::domain::id::{EventId, WebhookId};
use crate::domain::image::StoredImage;
use crate::domain::link::Links;
use crate::domain::secret::sha256_hex;
use crate::domain::task::{Notice, Phase, Task};
use crate::domain::view::view;
use crate::domain::webhook::EventName;

impl Store {
    /// The same store, writing webhooks whose links are made by `links`. Without it none are owed: a command that reads a few
    /// rows has nothing to tell.
    pub async fn telling(mut self, links: Links) -> Result<Self, StoreError> {
        self.links = Some(links);
        self.load_endpoints().await?;
        match self.db.clone() {
            Db::Postgres { pool, .. } => self = self.with_news((*pool).clone()),
            Db::Sqlite { .. } => self.end_leases().await?,
        }
        Ok(self)
    }

    /// The letters owed for these notices of a task as it is to be, with the pictures it is to have.
    pub(super) async fn owed(
        &self,
        task: &Task,
        notices: &[Notice],
        images: &[StoredImage],
    ) -> Result<Vec<Delivery>, StoreError> {
        // A part's caller hears of the whole.
        let Some(links) = self.links.as_ref().filter(|_| task.parent.is_none()) else {
            return Ok(Vec::new());
        };
        let mut owed = Vec::new();
        for notice in notices {
            let to = self.addressees(task, notice.name);
            if to.is_empty() {
                continue;
            }
            let now = self.clock.now();
            let kept = if images.is_empty() && task.phase == Phase::Succeeded {
                self.images(task.id).await?
            } else {
                images.to_vec()
            };
            let seen = serde_json::to_value(view(task, &kept, links, now)).unwrap_or(Value::Null);
            let body = letter(notice.name, now, Some(seen), &notice.data);
            owed.extend(to.into_iter().map(|(webhook, url)| Delivery {
                id: EventId::mint(self.clock.as_ref()),
                tenant: task.tenant.clone(),
                task: Some(task.id),
                webhook,
                url,
                event: notice.name.to_owned(),
                seq: notice.seq,
                body: body.clone(),
                state: DeliveryState::Pending,
                tries: 0,
                wake_at: Some(now),
                created_at: now,
                finished_at: None,
                log: Vec::new(),
            }));
        }
        Ok(owed)
    }

    /// Who hears of an event: the address the task's own request names, and the tenant's endpoints.
    fn addressees(&self, task: &Task, name: &str) -> Vec<(Option<WebhookId>, String)> {
        let Some(event) = EventName::parse(name) else { return Vec::new() };
        let own = task.request.webhook.iter().filter(|own| event.wanted(&own.events));
        let mut to: Vec<_> = own.map(|own| (None, own.url.clone())).collect();
        let registered = self.endpoints.of(&task.tenant);
        let registered: &[Endpoint] = registered.as_deref().unwrap_or_default();
        let wanted = registered.iter().filter(|endpoint| event.wanted(&endpoint.events));
        to.extend(wanted.map(|endpoint| (Some(endpoint.id), endpoint.url.clone())));
        to
    }
}

/// The notice that a task was taken in: its number 1, which its row implies.
pub(super) fn queued() -> Notice {
    Notice { seq: 1, name: EventName::Queued.as_str(), data: Value::Null }
}

/// One label of a task as the index keeps it.
pub(super) fn label(name: &str, value: &str) -> String {
    // Lengths keep one pair from reading as another.
    sha256_hex(format!("{}:{name}={value}", name.len()).as_bytes())
}
