//! Kinds of trouble with a provider, in one table: the code callers see, whether it speaks against the provider's
//! health, and what may follow when it is proven unbilled.

use serde::{Deserialize, Serialize};

use crate::domain::code::Code;

/// What may follow a failure that cost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// The same route again after a pause, up to this many sends; then the next route.
    Again(u32),
    /// The next route.
    Next,
    /// The next route; without one the task waits for the account to be well again.
    NextOrRest,
    /// The whole account rests for a while; the task waits for it or takes another route.
    Rest,
    /// Nothing: the task ends.
    Stop,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $code:ident, $follow:expr, sick: $sick:literal;)*) => {
        /// Kinds of trouble with a provider.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code callers see when nothing more can be done.
            pub const fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)* }
            }

            /// What may follow when it is proven unbilled.
            pub const fn follow(self) -> Follow {
                match self { $(Self::$name => $follow,)* }
            }

            /// Whether it speaks against the provider's health.
            pub const fn sick(self) -> bool {
                match self { $(Self::$name => $sick,)* }
            }
        }
    };
}

kinds! {
    /// No connection came about.
    Unreachable => ProviderUnreachable, Follow::Again(3), sick: true;
    /// No TLS session came about.
    Tls => ProviderUnreachable, Follow::Again(3), sick: true;
    /// Its certificate is not to be trusted.
    Certificate => ProviderUnreachable, Follow::Next, sick: true;
    /// The gateway's key was refused.
    Auth => ProviderAuthFailed, Follow::Next, sick: true;
    /// The account has no credit.
    Quota => ProviderQuotaExhausted, Follow::NextOrRest, sick: true;
    /// Turned away at the provider's front door.
    Blocked => ProviderUnreachable, Follow::NextOrRest, sick: true;
    /// Too many requests.
    RateLimited => ProviderOverloaded, Follow::Rest, sick: false;
    /// As many tasks at work as the account's plan allows.
    PlanLimit => ProviderOverloaded, Follow::Rest, sick: false;
    /// No room at the provider.
    Overloaded => ProviderOverloaded, Follow::Again(3), sick: true;
    /// In conflict with something of its own.
    Busy => ProviderRejected, Follow::Again(2), sick: false;
    /// The request is at fault.
    Invalid => ProviderRejected, Follow::Stop, sick: false;
    /// The provider no longer speaks as this adapter does.
    Contract => ProviderRejected, Follow::Next, sick: true;
    /// Refused by content policy; never offered elsewhere on the gateway's own accord.
    ContentRejected => ContentRejected, Follow::Stop, sick: false;
    /// It tried and failed.
    Failed => ProviderFailed, Follow::Again(2), sick: true;
    /// It ended without a picture.
    NoImage => NoImageReturned, Follow::Stop, sick: false;
    /// Another model answered.
    Downgraded => ProviderDowngraded, Follow::Stop, sick: false;
    /// It does not know the job it was asked about.
    Missing => OutcomeUnknown, Follow::Stop, sick: false;
    /// The answer cannot be understood.
    Garbled => OutcomeUnknown, Follow::Stop, sick: true;
    /// No answer came, or half of one.
    Silent => OutcomeUnknown, Follow::Stop, sick: true;
    /// The right to send had run out before the first byte.
    Late => ProviderUnreachable, Follow::Again(5), sick: false;
}
