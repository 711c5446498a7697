//! What makes a task.

use serde_json::{Map, Value, json};

use crate::domain::request::Outpaint;
use crate::providers::{Input, Job};

/// The body of `POST /api/v1/task`.
pub(super) fn task(job: &Job<'_>) -> Value {
    let request = job.request;
    let mut input = Map::new();
    input.insert("prompt".into(), json!(request.prompt));
    let mut set = |name: &str, value: Option<Value>| value.map(|value| input.insert(name.to_owned(), value));
    set("negative_prompt", request.negative_prompt.as_ref().map(|text| json!(text)));
    set("image", job.inputs.images.first().map(|image| json!(image.as_text())));
    set("width", request.size.map(|size| json!(size.width)));
    set("height", request.size.map(|size| json!(size.height)));
    set("batch_size", request.n.filter(|n| *n > 1).map(|n| json!(n)));
    set("denoise", request.strength.map(|strength| json!(strength)));
    set("guidance_scale", request.guidance_scale.map(|scale| json!(scale)));
    set("steps", request.steps.map(|steps| json!(steps)));
    set("seed", request.seed.map(|seed| json!(seed)));
    set("control_net_settings", (!request.controls.is_empty()).then(|| controls(job)));
    // A control task without a LoRA still names the list, empty.
    set("lora_settings", (!request.loras.is_empty() || job.form == "controlnet-lora").then(|| loras(job)));
    set("custom_settings", request.outpaint.map(outpaint));
    let mut body = json!({"model": job.provider_model, "task_type": job.form, "input": input});
    let mut config = Map::new();
    if let Some(callback) = job.callback {
        config.insert("webhook_config".into(), json!({"endpoint": callback.url, "secret": callback.secret}));
    }
    if let Some(mode) = job.options.and_then(|options| options.get("service_mode")) {
        config.insert("service_mode".into(), mode.clone());
    }
    if !config.is_empty() {
        body["config"] = config.into();
    }
    body
}

fn loras(job: &Job<'_>) -> Value {
    let loras = job.request.loras.iter().enumerate().map(|(at, lora)| {
        let mut setting = Map::new();
        setting.insert("lora_type".into(), json!(lora.name));
        lora.strength.map(|strength| setting.insert("lora_strength".into(), json!(strength)));
        let image = job.inputs.loras.get(at).and_then(Option::as_ref).map(Input::as_text);
        image.map(|image| setting.insert("lora_image".into(), json!(image)));
        setting
    });
    loras.collect()
}

fn controls(job: &Job<'_>) -> Value {
    let controls = job.request.controls.iter().zip(&job.inputs.controls).map(|(control, image)| {
        let mut setting = Map::new();
        setting.insert("control_type".into(), json!(control.kind));
        setting.insert("control_image".into(), json!(image.as_text()));
        control.strength.map(|strength| setting.insert("control_strength".into(), json!(strength)));
        if control.return_preprocessed {
            setting.insert("return_preprocessed_image".into(), json!(true));
        }
        setting
    });
    controls.collect()
}

fn outpaint(added: Outpaint) -> Value {
    json!([{
        "setting_type": "outpaint",
        "outpaint_left": added.left,
        "outpaint_right": added.right,
        "outpaint_top": added.top,
        "outpaint_bottom": added.bottom,
    }])
}
