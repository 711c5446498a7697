//! What each of PiAPI's fixtures is expected to become, and which `/generate` body each documented request comes of.

pub(super) const FLUX: &str = "piapi_flux";
pub(super) const CHAT: &str = "gpt_4o_image";
pub(super) const IMAGES: &str = "gpt_image";

/// Answers to a submission: fixture, kind, form, HTTP status it travels with, what it becomes.
pub(super) const SUBMITTED: &[(&str, &str, &str, u16, &str)] = &[
    (
        "piapi_flux_create_response_doc_1100.json",
        FLUX,
        "txt2img",
        200,
        "pending 0f647527-12bd-48b1-b813-111111111",
    ),
    (
        "piapi_flux_create_response_doc_1100.jsonc",
        FLUX,
        "txt2img",
        200,
        "pending 0f647527-12bd-48b1-b813-111111111",
    ),
    (
        "piapi_flux_create_img2img_pending.json",
        FLUX,
        "txt2img",
        200,
        "pending 1631d053-2352-4add-95cc-360fc52d5f89",
    ),
    (
        "piapi_flux_unified_pending_2024_meta.json",
        FLUX,
        "txt2img",
        200,
        "pending 49638cd2-4689-4f33-9336-164a8f6b1111",
    ),
    ("piapi_error_429_thirdparty_doc.json", FLUX, "txt2img", 429, "refused as RateLimited: billed no"),
    ("piapi_error_402_synthetic.json", FLUX, "txt2img", 402, "refused as Quota: billed no"),
    ("piapi_error_plan_limit.json", FLUX, "txt2img", 429, "refused as PlanLimit: billed no"),
    ("piapi_error_insufficient_credits.json", FLUX, "txt2img", 400, "refused as Quota: billed no"),
    ("piapi_error_http200_code_nonzero.json", FLUX, "txt2img", 200, "refused as Invalid: billed no"),
    ("piapi_error_403_cloudflare_ua.txt", FLUX, "txt2img", 403, "refused as Blocked: billed no"),
    (
        "piapi_llm_chat_nonstream_doc.json",
        CHAT,
        "chat",
        200,
        "failed as NoImage: gpt-4o-image answered with text only; classified as refusal; billed yes $0.00066",
    ),
    ("piapi_llm_stream_doc_raw_wrapped.sse", CHAT, "chat", 200, "refused as Silent: billed unknown"),
    (
        "piapi_llm_stream_doc.sse",
        CHAT,
        "chat",
        200,
        "failed as NoImage: gpt-4o-image answered with text only; classified as refusal; billed yes $0.00066",
    ),
    ("piapi_sora2_stream_prefix.sse", CHAT, "chat", 200, "refused as Silent: billed unknown"),
    (
        "gpt4o_image_stream_success_01.sse",
        CHAT,
        "chat",
        200,
        "done: 1 linked, 0 inline, 0 preprocessed; billed yes, kept early",
    ),
    (
        "gpt4o_image_stream_success_none_terminator.sse",
        CHAT,
        "chat",
        200,
        "done: 1 linked, 0 inline, 0 preprocessed; billed yes, kept early",
    ),
    ("gpt4o_image_stream_cut_no_done.sse", CHAT, "chat", 200, "refused as Silent: billed unknown"),
    (
        "gpt4o_image_stream_generation_failed.sse",
        CHAT,
        "chat",
        200,
        "failed as ContentRejected: gpt-4o-image reported a failed generation: This request may violate our content policies.; suggestion: Please modify your prompt and try again.; billed yes $0.00066",
    ),
    (
        "gpt4o_image_stream_refusal_text.sse",
        CHAT,
        "chat",
        200,
        "failed as NoImage: gpt-4o-image answered with text only; classified as refusal; billed yes $0.00066",
    ),
    (
        "gpt4o_image_preview_nonstream_template.json",
        CHAT,
        "chat",
        200,
        "failed as NoImage: gpt-4o-image answered with text only; classified as refusal; billed unknown",
    ),
    (
        "gpt4o_image_nonstream_302ai_two_images.json",
        CHAT,
        "chat",
        200,
        "done: 2 linked, 0 inline, 0 preprocessed; billed yes, kept early",
    ),
    ("gpt4o_error_openai_style.json", CHAT, "chat", 401, "refused as Auth: billed no"),
    (
        "gpt_image_1_response_openai_spec.json",
        IMAGES,
        "generations",
        200,
        "refused as NoImage: billed unknown",
    ),
    (
        "gpt_image_openai_recorded_generation.json",
        IMAGES,
        "generations",
        200,
        // Its images were shortened by those who recorded it.
        "refused as NoImage: billed unknown",
    ),
    ("gpt_image_openai_recorded_edit.json", IMAGES, "edits", 200, "refused as NoImage: billed unknown"),
    (
        "gpt_image_openai_recorded_400_response_format.json",
        IMAGES,
        "generations",
        400,
        "refused as Invalid: billed no",
    ),
    ("gpt_image_1_stream_generation.sse", IMAGES, "generations", 200, "refused as NoImage: billed unknown"),
    (
        "gpt_image_1_stream_generation_full.sse",
        IMAGES,
        "generations",
        200,
        "refused as NoImage: billed unknown",
    ),
    ("gpt_image_1_stream_edit.sse", IMAGES, "edits", 200, "refused as NoImage: billed unknown"),
    (
        "gpt_image_moderation_blocked.json",
        IMAGES,
        "generations",
        400,
        "refused as ContentRejected: billed no",
    ),
    ("openai_recorded_model_not_found.json", IMAGES, "generations", 404, "refused as Contract: billed no"),
    (
        "gpt_image_async_task_created_piapi.json",
        FLUX,
        "txt2img",
        200,
        "pending 00000000-0000-4000-8000-00000000000d",
    ),
];

/// Answers to a poll: fixture, the prompt it was asked with, what it becomes.
pub(super) const POLLED: &[(&str, &str, &str)] = &[
    (
        "piapi_flux_get_completed_unified_kontext.json",
        "change the word Piapi to Pineapple",
        "done: 1 linked, 0 inline, 0 preprocessed; billed yes $0.02",
    ),
    (
        "piapi_flux_get_success_legacy_status.json",
        "a bear",
        "done: 1 linked, 0 inline, 0 preprocessed; billed yes",
    ),
    ("piapi_flux_get_legacy_taskinfo_schema.json", "x", "pending handle-1"),
    (
        "piapi_flux_get_legacy_taskinfo_success.json",
        "x",
        "done: 1 linked, 0 inline, 0 preprocessed; billed yes $0.002",
    ),
    (
        "piapi_flux_get_completed_image_urls.json",
        "a bear",
        "done: 2 linked, 0 inline, 0 preprocessed; billed yes $0.02",
    ),
    (
        "piapi_flux_get_completed_base64_only.json",
        "change the word Piapi to Pineapple",
        "done: 0 linked, 1 inline, 0 preprocessed; billed yes $0.02",
    ),
    (
        "piapi_flux_get_completed_empty_output.json",
        "change the word Piapi to Pineapple",
        "failed as NoImage: the task completed without a picture; billed yes $0.02",
    ),
    ("piapi_flux_get_processing_capitalised.json", "x", "pending handle-1"),
    ("piapi_flux_get_staged.json", "x", "pending handle-1"),
    (
        "piapi_task_failed_10000_logs.json",
        "x",
        "failed as ContentRejected: the task failed: The request was rejected because the input image may contain a real person. For -less-restriction task types, you can set `auto_upload_assets: true` in your request to have the image uploaded as a virtual asset before generation. You may also manually upload and manage virtual assets via the asset API (GET/POST/DELETE /api/v1/asset/...) to control asset creation. Otherwise please use a different image.; billed no",
    ),
    (
        "piapi_task_failed_synthetic_500.json",
        "x",
        "failed as Failed: the task failed: model overloaded; billed unknown",
    ),
    ("piapi_task_success_synthetic.json", "x", "done: 1 linked, 0 inline, 0 preprocessed; billed yes"),
    (
        "gpt_image_async_task_completed_piapi.json",
        "x",
        "done: 0 linked, 1 inline, 0 preprocessed; billed yes",
    ),
];

/// Bodies that travel the other way or are no answers: read by other tests.
pub(super) const ELSEWHERE: &[&str] = &[
    "piapi_cancel_success_midjourney.json",
    "piapi_webhook_minimal_doc.json",
    "piapi_webhook_completed_luma.json",
    "piapi_webhook_flux_completed.json",
    "gpt4o_content_cometapi_progress_link.txt",
    "gpt_image_edit_request_piapi_doc.curl.txt",
];

/// Documented requests: fixture, kind, form, the `/generate` body that gives it.
pub(super) const REQUESTED: &[(&str, &str, &str, &str)] = &[
    (
        "piapi_flux_request_txt2img.json",
        FLUX,
        "txt2img",
        r#"{"model":"flux-dev","prompt":"a little cat","size":"1024x1024"}"#,
    ),
    (
        "piapi_flux_request_img2img.json",
        FLUX,
        "img2img",
        r#"{"model":"flux-schnell","prompt":"a bear","images":[{"url":"https://i.ibb.co/J7ZNgSG/01.jpg"}]}"#,
    ),
    (
        "piapi_flux_request_kontext.json",
        FLUX,
        "kontext",
        r#"{"model":"flux-dev-advanced","operation":"edit","prompt":"change the word Piapi to Pineapple","images":[{"url":"https://piapi.ai/dashboard/flux/input_example.png"}],"size":"1024x1024","steps":10,"seed":-1}"#,
    ),
    (
        "piapi_flux_request_txt2img_lora.json",
        FLUX,
        "txt2img-lora",
        r#"{"model":"flux-dev-advanced","prompt":"spiderman","loras":[{"name":"mjv6"}]}"#,
    ),
    (
        "piapi_flux_request_controlnet_lora_depth_minimal.json",
        FLUX,
        "controlnet-lora",
        r#"{"model":"flux-dev-advanced","prompt":"spiderman","controls":[{"type":"depth","image":{"url":"https://example.com/control_image2.png"}}],"loras":[{"name":"mjv6"}]}"#,
    ),
    (
        "piapi_flux_request_controlnet_lora_canny.json",
        FLUX,
        "controlnet-lora",
        r#"{"model":"flux-dev-advanced","steps":28,"prompt":"A girl in city, 25 years old, cool, futuristic","negative_prompt":"low quality, ugly, distorted, artefacts","guidance_scale":2.5,"controls":[{"type":"canny","image":{"url":"https://i.ibb.co/yX07dwV/Comfy-UI-controlnet.webp"},"strength":0.45,"return_preprocessed":true}],"loras":[{"name":"graphic-portrait","strength":1}]}"#,
    ),
    (
        "piapi_flux_request_controlnet_lora_openpose.json",
        FLUX,
        "controlnet-lora",
        r#"{"model":"flux-dev-advanced","steps":28,"prompt":"person enjoying a day at the park, full hd, cinematic","negative_prompt":"low quality, ugly, distorted, artefacts","guidance_scale":4.0,"controls":[{"type":"openpose","image":{"url":"https://i.ibb.co/vkCbMZY/3-pose-1024.jpg"},"strength":0.7,"return_preprocessed":true}],"loras":[{"name":"mjv6","strength":1}]}"#,
    ),
    (
        "piapi_flux_request_controlnet_lora_softedge_unlisted_lora.json",
        FLUX,
        "controlnet-lora",
        r#"{"model":"flux-dev-advanced","steps":28,"prompt":"A girl in city, 25 years old, cool, futuristic","negative_prompt":"low quality, ugly, distorted, artefacts","guidance_scale":2.5,"controls":[{"type":"soft_edge","image":{"url":"https://i.ibb.co/yX07dwV/Comfy-UI-controlnet.webp"},"strength":0.55,"return_preprocessed":true}],"loras":[{"name":"remes-abstract-poster-style","strength":1}]}"#,
    ),
    (
        "piapi_flux_request_fill_inpaint.json",
        FLUX,
        "fill-inpaint",
        r#"{"model":"flux-dev-advanced","operation":"inpaint","prompt":"a girl in blue and red skirt","images":[{"url":"https://i.ibb.co/TH7xMvd/girl-mask.png"}]}"#,
    ),
    (
        "piapi_flux_request_fill_outpaint.json",
        FLUX,
        "fill-outpaint",
        r#"{"model":"flux-dev-advanced","prompt":"a girl in a great grass sea","images":[{"url":"https://i.ibb.co/TH7xMvd/girl-mask.png"}],"outpaint":{"left":500,"right":500}}"#,
    ),
    (
        "piapi_flux_request_redux_variation.json",
        FLUX,
        "redux-variation",
        r#"{"model":"flux-dev-advanced","operation":"variation","prompt":"a superman","images":[{"url":"https://i.ibb.co/TH7xMvd/girl-mask.png"}]}"#,
    ),
    ("gpt4o_image_request_text.json", CHAT, "chat", r#"{"prompt":"draw a cyberpunk city"}"#),
    (
        "gpt4o_image_request_one_image.json",
        CHAT,
        "chat",
        r#"{"prompt":"Give this cat a detective hat and a monocle","images":[{"url":"https://images.ctfassets.net/kftzwdyauwt9/21orfxKx8HXXGKH8cTOq60/1eb34535ddce9c9e91fab0fad77bc158/minnias_cat_input.png?w=640&q=90&fm=webp"}]}"#,
    ),
    (
        "gpt4o_image_request_two_images.json",
        CHAT,
        "chat",
        r#"{"prompt":"merge two image","images":[{"url":"https://img.moegirl.org.cn/common/thumb/5/53/Rei_Ayanami.jpg/280px-Rei_Ayanami.jpg"},{"url":"https://moegirl.uk/images/e/ef/OP_C057_asuka.jpg"}]}"#,
    ),
    (
        "gpt_image_1_request_piapi_doc.json",
        IMAGES,
        "generations",
        r#"{"model":"gpt-image-1","prompt":"A cute baby sea otter","n":1,"size":"1024x1024","quality":"low","output":{"format":"jpeg"}}"#,
    ),
];
