//! What the fact sheet calls illegal is refused here with a 400. The real server's reaction to most of these
//! is unknown; a strict one shows a caller its slips.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::simulator::fields::{Fields, Wrong};
use crate::simulator::hooks::Callback;

/// The three models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    Schnell,
    Dev,
    Advanced,
}

impl Model {
    fn named(name: &str) -> Option<Self> {
        match name {
            "Qubico/flux1-schnell" => Some(Self::Schnell),
            "Qubico/flux1-dev" => Some(Self::Dev),
            "Qubico/flux1-dev-advanced" => Some(Self::Advanced),
            _ => None,
        }
    }

    /// The published price of one picture.
    pub fn price_nanos(self) -> i64 {
        match self {
            Self::Schnell => 1_500_000,
            Self::Dev => 15_000_000,
            Self::Advanced => 20_000_000,
        }
    }

    /// The seconds one generation takes, from and to.
    pub fn seconds(self) -> (f64, f64) {
        match self {
            Self::Schnell => (2.0, 4.0),
            Self::Dev => (6.0, 10.0),
            Self::Advanced => (10.0, 30.0),
        }
    }
}

/// A legal task.
#[derive(Debug, Clone)]
pub struct Order {
    pub model: Model,
    pub model_name: String,
    pub task_type: String,
    /// The input as it is echoed, with the server's defaults.
    pub input: Value,
    /// The config as it is echoed: webhook secret and all.
    pub config: Value,
    pub callback: Option<Callback>,
    pub batch: u64,
    pub size: (u32, u32),
    /// Whether the preprocessed control image is handed out as well.
    pub preprocessed: bool,
}

const TASKS: [&str; 9] = [
    "txt2img",
    "img2img",
    "txt2img-lora",
    "img2img-lora",
    "controlnet-lora",
    "fill-inpaint",
    "fill-outpaint",
    "redux-variation",
    "kontext",
];
/// The tasks every model offers; the others are `flux1-dev-advanced` only.
const PLAIN: [&str; 2] = ["txt2img", "img2img"];
/// The tasks on whose pages guidance and denoise are documented.
const GUIDED: [&str; 5] = ["txt2img", "img2img", "txt2img-lora", "img2img-lora", "controlnet-lora"];
const PIXELS: u64 = 1_048_576;
/// Our own limit to what is drawn; nothing is published for kontext.
const LONGEST: i64 = 4096;

/// Judges a whole body.
pub fn check(body: &Value) -> Result<Order, Wrong> {
    let top = Fields::of(body, "body")?;
    top.only(&["model", "task_type", "input", "config"])?;
    let model_name = top.needed("model")?;
    let model = Model::named(model_name).ok_or_else(|| Wrong::value("model", "unknown model"))?;
    let task = top.needed("task_type")?;
    if !TASKS.contains(&task) {
        return Err(Wrong::value("task_type", "unknown task type"));
    }
    if model != Model::Advanced && !PLAIN.contains(&task) {
        return Err(Wrong::value("task_type", format!("{task} is not available for {model_name}")));
    }
    let empty = json!({});
    let input = Fields::of(top.get("input").unwrap_or(&empty), "input")?;
    let size = input_fields(input, model, task)?;
    let (config, callback) = config(top)?;
    let preprocessed = input
        .list("control_net_settings")?
        .iter()
        .any(|one| one.get("return_preprocessed_image").and_then(Value::as_bool).unwrap_or(false));
    Ok(Order {
        model,
        model_name: model_name.to_owned(),
        task_type: task.to_owned(),
        input: echo(body.get("input"), task),
        config,
        callback,
        batch: input.integer("batch_size", 1..=4)?.and_then(|n| u64::try_from(n).ok()).unwrap_or(1),
        size,
        preprocessed,
    })
}

/// The fields of `input`, each against its row of the table; gives the size of the picture to be.
fn input_fields(input: Fields<'_>, model: Model, task: &str) -> Result<(u32, u32), Wrong> {
    let kontext = task == "kontext";
    let mut known = vec!["prompt", "steps"];
    let mut also = |when: bool, names: &[&'static str]| {
        if when {
            known.extend_from_slice(names);
        }
    };
    let takes_image = !task.starts_with("txt2img");
    also(!kontext, &["negative_prompt"]);
    also(GUIDED.contains(&task), &["denoise", "guidance_scale"]);
    also(task == "txt2img" || kontext, &["width", "height"]);
    also(model == Model::Schnell, &["batch_size"]);
    also(takes_image, &["image"]);
    also(kontext, &["seed"]);
    also(task.ends_with("-lora"), &["lora_settings"]);
    also(task == "controlnet-lora", &["control_net_settings"]);
    also(task == "fill-outpaint", &["custom_settings"]);
    input.only(&known)?;

    input.needed("prompt")?;
    input.text("negative_prompt")?;
    input.number("denoise", |x| x > 0.0 && x <= 1.0, "must be greater than 0 and at most 1")?;
    input.number("guidance_scale", |x| (1.5..=5.0).contains(&x), "must be between 1.5 and 5")?;
    input.integer("batch_size", 1..=4)?;
    input.integer("steps", 0..=if kontext { 40 } else { i64::MAX })?;
    input.integer("seed", -1..=i64::MAX)?;
    let given = if takes_image && (task != "controlnet-lora" || input.has("image")) {
        image(input.needed("image")?, kontext)?
    } else {
        None
    };
    adapters(input, task)?;
    let side = |name| -> Result<Option<u32>, Wrong> {
        Ok(input.integer(name, 1..=LONGEST)?.and_then(|side| u32::try_from(side).ok()))
    };
    let (width, height) = (side("width")?.unwrap_or(1024), side("height")?.unwrap_or(1024));
    if task == "txt2img" && u64::from(width) * u64::from(height) > PIXELS {
        return Err(Wrong::value("width", "width*height cannot exceed 1048576"));
    }
    match task {
        "fill-outpaint" => outpaint(input, given.unwrap_or((1024, 1024))),
        "txt2img" | "kontext" => Ok((width, height)),
        _ => Ok(given.unwrap_or((1024, 1024))),
    }
}

/// LoRA and ControlNet capacities. Names are not judged: the lists change without notice.
fn adapters(input: Fields<'_>, task: &str) -> Result<(), Wrong> {
    let loras = input.list("lora_settings")?;
    let legal = match task {
        "txt2img-lora" | "img2img-lora" => loras.len() == 1,
        _ => loras.len() <= 1,
    };
    if !legal {
        return Err(Wrong::value("lora_settings", format!("{task} takes exactly one LoRA")));
    }
    for lora in loras {
        let lora = Fields::of(lora, "lora_settings")?;
        lora.only(&["lora_type", "lora_image", "lora_strength"])?;
        lora.needed("lora_type")?;
        lora.text("lora_image")?;
        lora.number("lora_strength", |_| true, "")?;
    }
    let controls = input.list("control_net_settings")?;
    if task == "controlnet-lora" && controls.len() != 1 {
        return Err(Wrong::value("control_net_settings", "controlnet-lora takes exactly one ControlNet"));
    }
    for control in controls {
        let control = Fields::of(control, "control_net_settings")?;
        control.only(&["control_type", "control_image", "control_strength", "return_preprocessed_image"])?;
        control.needed("control_type")?;
        image(control.needed("control_image")?, false)?;
        control.number("control_strength", |_| true, "")?;
        control.flag("return_preprocessed_image")?;
    }
    Ok(())
}

/// The one outpaint setting, and the size it leads to. Where the picture's own size cannot be seen (a link),
/// it is taken for 1024×1024, as in the documented example.
fn outpaint(input: Fields<'_>, (width, height): (u32, u32)) -> Result<(u32, u32), Wrong> {
    let [setting] = input.list("custom_settings")? else {
        return Err(Wrong::value("custom_settings", "fill-outpaint takes exactly one setting"));
    };
    let setting = Fields::of(setting, "custom_settings")?;
    let sides = ["outpaint_left", "outpaint_right", "outpaint_top", "outpaint_bottom"];
    setting.only(&[&["setting_type"], sides.as_slice()].concat())?;
    setting.needed("setting_type")?;
    setting.word("setting_type", &["outpaint"])?;
    let mut added = [0_u32; 4];
    for (added, side) in added.iter_mut().zip(sides) {
        *added = setting.integer(side, 0..=LONGEST)?.and_then(|px| u32::try_from(px).ok()).unwrap_or(0);
    }
    let wide = width.saturating_add(added[0] + added[1]);
    let high = height.saturating_add(added[2] + added[3]);
    let delta = u64::from(wide) * u64::from(high) - u64::from(width) * u64::from(height);
    if delta >= PIXELS {
        let message = "the total delta pixel size should be less than 1024*1024";
        return Err(Wrong::value("custom_settings", message));
    }
    Ok((wide, high))
}

/// A link, or the picture itself: as a `data:` URI anywhere (a public client sends them), as bare base64 for
/// kontext alone. Gives its size where it can be seen.
fn image(text: &str, kontext: bool) -> Result<Option<(u32, u32)>, Wrong> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(None);
    }
    let packed = match text.strip_prefix("data:image/").and_then(|rest| rest.split_once(";base64,")) {
        Some((_, packed)) => packed,
        None if kontext => text,
        None => return Err(Wrong::value("image", "must be a url")),
    };
    let size = STANDARD.decode(packed).ok().and_then(|bytes| imagesize::blob_size(&bytes).ok());
    let size = size.and_then(|size| Some((size.width.try_into().ok()?, size.height.try_into().ok()?)));
    size.map(Some).ok_or_else(|| Wrong::value("image", "not an image"))
}

/// The webhook to call, and the config as it is echoed.
fn config(top: Fields<'_>) -> Result<(Value, Option<Callback>), Wrong> {
    let none = json!({});
    let config = Fields::of(top.get("config").unwrap_or(&none), "config")?;
    config.only(&["webhook_config", "service_mode"])?;
    let mode = config.word("service_mode", &["public", "private", ""])?.unwrap_or_default();
    let webhook = Fields::of(config.get("webhook_config").unwrap_or(&none), "webhook_config")?;
    webhook.only(&["endpoint", "secret"])?;
    let endpoint = webhook.text("endpoint")?.unwrap_or_default();
    let secret = webhook.text("secret")?.unwrap_or_default();
    let echo = json!({"service_mode": mode, "webhook_config": {"endpoint": endpoint, "secret": secret}});
    let callback = (!endpoint.is_empty()).then(|| Callback {
        url: endpoint.to_owned(),
        secret: (!secret.is_empty()).then(|| secret.to_owned()),
    });
    Ok((echo, callback))
}

/// The input with what the server fills in; sizes and steps that were not sent come back as 0.
fn echo(input: Option<&Value>, task: &str) -> Value {
    let mut echo: Map<String, Value> = input.and_then(Value::as_object).cloned().unwrap_or_default();
    let defaults = match task {
        "kontext" => json!({"height": 1024, "steps": 28, "seed": -1}),
        _ => json!({"negative_prompt": "", "width": 0, "height": 0, "steps": 0}),
    };
    for (key, value) in defaults.as_object().into_iter().flatten() {
        echo.entry(key).or_insert_with(|| value.clone());
    }
    Value::Object(echo)
}
