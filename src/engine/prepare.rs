//! Input images, made ready before anything is bought: passed on where the provider can reach them itself, brought into
//! custody where only we can, painted where a mask has no field of its own, and handed over the way the route takes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::Inner;
use super::pace::{backoff, spread};
use super::route::Planned;
use super::save::Step;
use crate::blobs::pixels::{self, PixelError};
use crate::blobs::{BlobError, Saved};
use crate::domain::code::Code;
use crate::domain::file::StoredFile;
use crate::domain::id::FileId;
use crate::domain::link::file_path;
use crate::domain::param::{Carrier, ParamName};
use crate::domain::request::ImageInput;
use crate::domain::task::{Event, Task};
use crate::net::Reach;
use crate::net::guarded::FetchError;
use crate::providers::{Input, Inputs};

/// An input that does not come is asked for this often.
const TRIES: u32 = 4;
/// All inputs of a task are here after this time, or it is tried again later.
const WITHIN: Duration = Duration::from_mins(1);
/// Who finds no room to fetch comes again after about this.
const COME_AGAIN: Duration = Duration::from_secs(2);
/// Of the input images under way one tenant has this share at most.
const SHARE: usize = 4;

/// Tasks whose inputs are being fetched, by tenant.
#[derive(Default)]
pub(super) struct Guests(Arc<Mutex<HashMap<String, usize>>>);

/// One of them.
pub(super) struct Guest {
    guests: Arc<Mutex<HashMap<String, usize>>>,
    tenant: String,
}

impl Guests {
    /// Lets a tenant's task fetch its inputs, unless the tenant has its share, or all of `most` are taken.
    pub fn enter(&self, tenant: &str, most: usize) -> Option<Guest> {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = guests.get(tenant).copied().unwrap_or(0);
        if own >= (most / SHARE).max(1) || guests.values().sum::<usize>() >= most {
            return None;
        }
        *guests.entry(tenant.to_owned()).or_default() += 1;
        Some(Guest { guests: Arc::clone(&self.0), tenant: tenant.to_owned() })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = guests.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                guests.remove(&self.tenant);
            }
        }
    }
}

/// Why the inputs are not ready.
pub(super) struct Unfit {
    code: Code,
    detail: String,
    /// Whether it may be otherwise in a moment.
    passing: bool,
    /// Whether others are being fetched, and it was not asked for.
    busy: bool,
}

impl Unfit {
    fn new(code: Code, detail: impl std::fmt::Display) -> Self {
        Self { code, detail: detail.to_string(), passing: false, busy: false }
    }

    fn passing(pointer: &str, error: &dyn std::fmt::Display) -> Self {
        let detail = if pointer.is_empty() { error.to_string() } else { format!("{pointer}: {error}") };
        Self { passing: true, ..Self::new(Code::ValidationFailed, detail) }
    }

    fn busy() -> Self {
        Self { busy: true, ..Self::new(Code::ValidationFailed, "other input images are being fetched") }
    }
}

impl Inner {
    /// The inputs of a task as the planned route takes them; `None` when it has to come again for them, and was put back, or has
    /// ended. What is fetched from where a caller said may be slow: that takes no slot of the account, and has an end.
    pub(super) async fn made_ready(
        &self,
        mut task: Box<Task>,
        planned: &Planned,
    ) -> Option<(Box<Task>, Inputs)> {
        let remote = |(_, input): &(String, &ImageInput)| {
            input.url.as_ref().is_some_and(|url| !task.state.fetched.contains_key(url))
        };
        let ready = if task.request.inputs().iter().any(remote) {
            self.starts(&task, false);
            let preparing = tokio::time::timeout(WITHIN, self.prepare(&mut task, planned));
            let ready = preparing.await.unwrap_or_else(|_| {
                Err(Unfit::passing(
                    "",
                    &format!("the input images did not come within {} s", WITHIN.as_secs()),
                ))
            });
            self.starts(&task, true);
            ready
        } else {
            self.prepare(&mut task, planned).await
        };
        match ready {
            Ok(inputs) => Some((task, inputs)),
            Err(unfit) => {
                self.unprepared(task, unfit).await;
                None
            }
        }
    }

    /// Whether a task in hand counts against the account it is to be sent on.
    fn starts(&self, task: &Task, starts: bool) {
        if let Some(held) = self.held().get_mut(&task.id) {
            held.starting = starts.then(|| task.lane.clone());
        }
    }

    async fn prepare(&self, task: &mut Task, planned: &Planned) -> Result<Inputs, Unfit> {
        let (request, offer) = (&planned.request, &planned.offer);
        let mut inputs = Inputs::default();
        let own = &mut inputs.digests;
        let mask_carriers = offer.carriers(ParamName::Mask);
        for (at, image) in request.images.iter().enumerate() {
            let pointer = format!("/images/{at}");
            let carriers = offer.carriers(ParamName::Images);
            let paint = request.mask.as_ref().filter(|_| at == 0 && mask_carriers == [Carrier::Painted]);
            inputs.images.push(match paint {
                Some(mask) => {
                    let (image, mask) = (
                        self.bytes(task, own, &pointer, image).await?,
                        self.bytes(task, own, "/mask", mask).await?,
                    );
                    let painted = pixels::paint(image, mask).await.map_err(mask_fault)?;
                    let held = self.take_in(task, painted).await?;
                    self.hand_over(held, own, carriers).await?
                }
                None => self.carry(task, own, &pointer, image, carriers).await?,
            });
        }
        if let Some(mask) = &request.mask
            && mask_carriers == [Carrier::Multipart]
        {
            let like = match inputs.images.first() {
                Some(Input::Bytes { bytes, .. }) => bytes.clone(),
                _ => return Err(Unfit::new(Code::Unservable, "a mask needs an image")),
            };
            let mask = self.bytes(task, own, "/mask", mask).await?;
            let bytes = pixels::cut_out(mask, like).await.map_err(mask_fault)?;
            inputs.mask = Some(Input::Bytes { media_type: crate::domain::image::MediaType::Png, bytes });
        }
        for (at, lora) in request.loras.iter().enumerate() {
            inputs.loras.push(match &lora.image {
                Some(image) => Some(
                    self.carry(
                        task,
                        own,
                        &format!("/loras/{at}/image"),
                        image,
                        offer.carriers(ParamName::Loras),
                    )
                    .await?,
                ),
                None => None,
            });
        }
        for (at, control) in request.controls.iter().enumerate() {
            let pointer = format!("/controls/{at}/image");
            inputs.controls.push(
                self.carry(task, own, &pointer, &control.image, offer.carriers(ParamName::Controls)).await?,
            );
        }
        Ok(inputs)
    }

    /// The task waits a moment for inputs that may yet come, or ends without having cost anything.
    async fn unprepared(&self, mut task: Box<Task>, unfit: Unfit) {
        if unfit.busy {
            let wake_at = self.clock.now() + spread(COME_AGAIN);
            self.save(task, Step::new(Event::Stay(None), wake_at)).await;
        } else if unfit.passing && task.state.tries < TRIES {
            task.state.tries += 1;
            let pause = backoff(Duration::from_secs(1), task.state.tries, Duration::from_secs(30));
            tracing::warn!(task.id = %task.id, detail = unfit.detail, "an input image has not come; trying again");
            self.save(task, Step::new(Event::Stay(None), self.clock.now() + pause)).await;
        } else {
            self.fail(task, unfit.code, unfit.detail).await;
        }
    }

    async fn carry(
        &self,
        task: &mut Task,
        own: &mut Vec<String>,
        pointer: &str,
        input: &ImageInput,
        carriers: &[Carrier],
    ) -> Result<Input, Unfit> {
        if let Some(url) = &input.url {
            let refused = |e| Unfit::new(Code::UrlNotAllowed, format!("{pointer}/url: {e}"));
            let reach = self.net.guarded.reach(url).await.map_err(refused)?;
            if reach == Reach::Public && carriers.contains(&Carrier::Url) {
                return Ok(Input::Url(url.clone()));
            }
        }
        let held = self.custody(task, pointer, input).await?;
        self.hand_over(held, own, carriers).await
    }

    /// An image that lies here, the way the route prefers among those that are possible.
    async fn hand_over(
        &self,
        file: StoredFile,
        own: &mut Vec<String>,
        carriers: &[Carrier],
    ) -> Result<Input, Unfit> {
        own.push(file.sha256.clone());
        for carrier in carriers {
            match carrier {
                Carrier::Url if self.catalog().reachable => {
                    let (url, _) = self.links.signed(&file_path(file.id), self.clock.now());
                    return Ok(Input::Url(url));
                }
                Carrier::DataUri | Carrier::Multipart => {
                    let bytes = self.blobs.read(&file.sha256).await.map_err(|e| Unfit::passing("", &e))?;
                    return Ok(Input::Bytes { media_type: file.header.media_type, bytes });
                }
                Carrier::Url | Carrier::Painted => {}
            }
        }
        let detail = "the provider takes addresses only, and the gateway has no server.public_url to serve the image at";
        Err(Unfit::new(Code::Unservable, detail))
    }

    async fn bytes(
        &self,
        task: &mut Task,
        own: &mut Vec<String>,
        pointer: &str,
        input: &ImageInput,
    ) -> Result<Bytes, Unfit> {
        let held = self.custody(task, pointer, input).await?;
        own.push(held.sha256.clone());
        self.blobs.read(&held.sha256).await.map_err(|e| Unfit::passing(pointer, &e))
    }

    /// The image as a file of ours, fetched if need be.
    async fn custody(&self, task: &mut Task, pointer: &str, input: &ImageInput) -> Result<StoredFile, Unfit> {
        let url = input.url.as_deref().unwrap_or_default();
        let fetched = task.state.fetched.get(url).copied();
        if let Some(id) = input.file_id.or(fetched) {
            let file = self.store.file(id).await.map_err(|e| Unfit::passing(pointer, &e))?;
            let file = file.filter(|file| file.tenant == task.tenant);
            if file.is_none() && fetched.is_some() {
                // It has had its time meanwhile.
                task.state.fetched.remove(url);
                return Err(Unfit::passing(
                    pointer,
                    &"the image that was fetched has gone; fetching it again",
                ));
            }
            return file.ok_or_else(|| {
                Unfit::new(Code::ValidationFailed, format!("{pointer}/file_id: there is no file {id}"))
            });
        }
        let Some(_guest) = self.guests.enter(&task.tenant, self.settings.downloads) else {
            return Err(Unfit::busy());
        };
        match self.blobs.fetch(&self.net.guarded, url).await {
            Ok(saved) => {
                let file = self.enter(task, saved).await?;
                task.state.fetched.insert(url.to_owned(), file.id);
                Ok(file)
            }
            Err(BlobError::Fetch(FetchError::Refused(refused))) => {
                Err(Unfit::new(Code::UrlNotAllowed, format!("{pointer}/url: {refused}")))
            }
            Err(error @ (BlobError::NotAPicture(_) | BlobError::Fetch(FetchError::TooLarge(_)))) => {
                Err(Unfit::new(Code::ValidationFailed, format!("{pointer}: {error}")))
            }
            Err(error) => Err(Unfit::passing(pointer, &error)),
        }
    }

    async fn take_in(&self, task: &Task, bytes: Bytes) -> Result<StoredFile, Unfit> {
        let saved = self.blobs.put(bytes).await.map_err(|e| Unfit::passing("", &e))?;
        self.enter(task, saved).await
    }

    async fn enter(&self, task: &Task, saved: Saved) -> Result<StoredFile, Unfit> {
        let file = StoredFile {
            id: FileId::mint(self.clock.as_ref()),
            tenant: task.tenant.clone(),
            sha256: saved.sha256,
            header: saved.header,
            bytes: saved.bytes,
            created_at: self.clock.now(),
        };
        let whole = task.parent.unwrap_or(task.id);
        self.store.put_file(file.clone(), Some(whole)).await.map_err(|e| Unfit::passing("", &e))?;
        Ok(file)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature map_err asks for")]
fn mask_fault(error: PixelError) -> Unfit {
    Unfit::new(Code::ValidationFailed, format!("/mask: {error}"))
}
