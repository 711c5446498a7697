//! Pictures in the type that was asked for, where the provider drew another. The original is durable before; whatever
//! goes wrong here, it is kept as it came and the caller is told. Once the other one has its row, the original is let go of:
//! no row would lead to it when the task is erased. A picture that came after its task's end stays as it is.

use serde_json::json;

use super::Inner;
use crate::blobs::Saved;
use crate::domain::fit::Adjustment;
use crate::domain::task::Task;

const FORMAT: &str = "/output/format";

impl Inner {
    /// The pictures in the type the request names, and the hashes of those that others stand for now; what cannot be
    /// converted stays as it came and is reported once.
    pub(super) async fn convert(
        &self,
        task: &mut Task,
        here: Vec<Option<Saved>>,
    ) -> (Vec<Option<Saved>>, Vec<String>) {
        let Some(format) = task.request.output.format else { return (here, Vec::new()) };
        let into = format.media_type();
        let (mut converted, mut replaced) = (Vec::with_capacity(here.len()), Vec::new());
        for saved in here {
            let saved = match saved {
                Some(saved) if saved.header.media_type != into => saved,
                as_it_is => {
                    converted.push(as_it_is);
                    continue;
                }
            };
            converted.push(Some(match self.blobs.convert(&saved, into).await {
                Ok(made) => {
                    replaced.push(saved.sha256);
                    made
                }
                Err(error) => {
                    tracing::warn!(task.id = %task.id, %error, "a picture stays in the type it came in");
                    let came = saved.header.media_type.as_str().trim_start_matches("image/");
                    let made = Adjustment {
                        param: FORMAT.to_owned(),
                        requested: json!(format),
                        applied: json!(came),
                        reason: format!("kept as the provider made it: {error}"),
                    };
                    if !task.state.adjustments.iter().any(|known| known.param == FORMAT) {
                        task.state.adjustments.push(made);
                    }
                    saved
                }
            }));
        }
        (converted, replaced)
    }
}
