//! What becomes of `provider_options` that can reach nobody.

use super::route::{Plan, Rejected};
use crate::domain::code::Code;
use crate::domain::fit::Adjustment;
use crate::domain::request::GenerateRequest;
use crate::domain::validate::{FieldCode, FieldError};

impl Plan {
    /// Says on each route which of the caller's own options are for providers that the request cannot go to; a caller who
    /// wants all or nothing gets nothing. To be said again when routes have gone.
    pub(super) fn report_unread(&mut self, asked: &GenerateRequest) {
        let planned = |provider: &str| self.planned.iter().any(|one| one.taken.provider == provider);
        let unread = asked
            .provider_options
            .iter()
            .filter(|(provider, options)| !options.is_empty() && !planned(provider));
        let unread: Vec<_> = unread
            .map(|(provider, options)| Adjustment {
                param: format!("/provider_options/{provider}"),
                requested: options.clone().into(),
                applied: serde_json::Value::Null,
                reason: "the request cannot go to this provider".to_owned(),
            })
            .collect();
        if unread.is_empty() {
            return;
        }
        if !asked.strict {
            for one in &mut self.planned {
                one.adjustments.retain(|made| !is_unread(made));
                one.adjustments.extend(unread.iter().cloned());
            }
            return;
        }
        let reasons = unread.into_iter().map(|made| {
            FieldError::new(made.param, FieldCode::Unsupported, format!("strict: {}", made.reason))
        });
        let reasons: Vec<_> = reasons.collect();
        self.rejected.extend(self.planned.drain(..).map(|one| Rejected {
            provider: one.taken.provider,
            provider_model: one.taken.provider_model,
            code: Code::Unservable,
            reasons: reasons.clone(),
        }));
    }
}

/// Whether it says that all options for a provider reach nobody: a matter of all routes together, not of one.
pub(super) fn is_unread(made: &Adjustment) -> bool {
    made.param.strip_prefix("/provider_options/").is_some_and(|rest| !rest.contains('/'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::domain::catalog::read;
    use crate::domain::key::Limits;
    use crate::engine::catalog::{Alias, Catalog, Entry};
    use crate::engine::route::{NoRoute, Standing};

    const TOML: &str = "
        [options.a]
        mode = { type = 'choice', values = ['fast', 'slow'] }
        [options.b]
        steps = { type = 'integer', min = 1, max = 4 }
        [[routes]]
        kind = 'a'
        model = 'small'
        provider_model = 'A/small'
        offers = [{ operation = 'text_to_image', form = 't' }]
        [[routes]]
        kind = 'b'
        model = 'large'
        provider_model = 'B/large'
        offers = [{ operation = 'text_to_image', form = 't' }]
    ";

    fn plan(extra: &str) -> Result<Plan, NoRoute> {
        let entries = |provider: &'static str| {
            let routes = read(TOML, provider).unwrap().into_iter();
            routes.map(move |route| Entry { provider: provider.into(), route })
        };
        let both = serde_json::json!({"provider_options": {"a": {"mode": "slow"}, "b": {"steps": 2}}});
        let alias = Alias { model: "small".into(), defaults: both.as_object().unwrap().clone() };
        let catalog = Catalog {
            entries: entries("a").chain(entries("b")).collect(),
            providers: ["a", "b", "off"].map(str::to_owned).into(),
            aliases: [("alias".to_owned(), alias)].into(),
            default_models: vec!["small".into(), "large".into()],
            ..Catalog::default()
        };
        let request = serde_json::from_str(&format!(r#"{{"prompt":"x",{extra}}}"#)).unwrap();
        catalog.plan(&request, &Limits::default(), &|_, _| Standing::default())
    }

    #[rstest]
    #[case::its_own(r#""model":"small","provider_options":{"a":{"mode":"fast"}}"#, &[])]
    #[case::anothers(r#""model":"small","provider_options":{"b":{"steps":2}}"#, &["/provider_options/b"])]
    #[case::one_that_is_off(r#""model":"small","provider_options":{"off":{"x":2}}"#, &["/provider_options/off"])]
    #[case::nothing_at_all(r#""model":"small","provider_options":{"b":{}}"#, &[])]
    #[case::the_operators_own(r#""model":"alias""#, &[])]
    #[case::of_auto(r#""provider_options":{"a":{},"b":{"steps":2}}"#, &["/provider_options/b"])]
    fn what_reaches_nobody_is_reported(#[case] extra: &str, #[case] reported: &[&str]) {
        let plan = plan(extra).unwrap();
        let made = &plan.planned[0].adjustments;
        assert_eq!(made.iter().map(|one| one.param.as_str()).collect::<Vec<_>>(), reported);
        assert!(made.iter().all(|one| one.applied.is_null() && one.requested.is_object()));
    }

    #[rstest]
    #[case::a_name_it_has_not(
        r#""model":"small","provider_options":{"b":{"mode":"fast"}}"#,
        "/provider_options/b/mode"
    )]
    #[case::a_value_it_does_not_take(
        r#""model":"small","provider_options":{"b":{"steps":9}}"#,
        "/provider_options/b/steps"
    )]
    #[case::smuggled(
        r#""model":"small","provider_options":{"b":{"webhook":"https://e.example"}}"#,
        "/provider_options/b/webhook"
    )]
    fn what_its_provider_could_not_take_is_refused(#[case] extra: &str, #[case] pointer: &str) {
        let none = plan(extra).unwrap_err();
        assert_eq!((none.code, none.errors[0].pointer.as_str()), (Code::ValidationFailed, pointer));
    }

    #[test]
    fn a_strict_request_is_refused_or_goes_where_its_options_are_read() {
        let of = r#""provider_options":{"b":{"steps":2}},"strict":true"#;
        let none = plan(&format!(r#""model":"small",{of}"#)).unwrap_err();
        assert_eq!((none.code, none.errors[0].pointer.as_str()), (Code::Unservable, "/provider_options/b"));
        assert_eq!(plan(of).unwrap().planned[0].taken.provider, "b");
    }
}
