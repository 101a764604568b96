//! Schemas of the words that types of lower layers are written as: those know nothing of OpenAPI. The words are
//! what serde makes of the values, so that they cannot differ from what is read and answered.

use std::borrow::Cow;

use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::{environments, jobs, operations, repository};

/// A name of a collection or database, as `model::names` checks it. (That it may not be an IP address is not
/// said: no pattern can.)
pub(in crate::api) struct Name;

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        let part = "[a-zA-Z0-9]((\\.?[a-zA-Z0-9_-])+\\.?[a-zA-Z0-9]|\\.[a-zA-Z0-9])";
        ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(3))
            .max_length(Some(512))
            .pattern(Some(format!("^{part}(\\+{part})?$")))
            .into()
    }
}

impl ToSchema for Name {
    fn name() -> Cow<'static, str> {
        "Name".into()
    }
}

/// Describes an enum by its words; it does not compile when a value is left out.
macro_rules! words {
    ($($name:ident of $type:path: $($value:ident)*;)*) => {$(
        pub(in crate::api) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                use $type as Word;
                let is_word = |word: &Word| match word { $(Word::$value => true,)* };
                let words = [$(Word::$value),*].into_iter().filter(is_word);
                let schema = ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some(words.map(|word| json!(word))));
                schema.into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

words! {
    JobKind of jobs::JobKind: Backup Import Verification Prune Restore Migration Drill Compaction;
    JobState of jobs::JobState: Queued Running Succeeded Failed Canceled Interrupted;
    OnConflict of operations::conflict::OnConflict: Fail Skip Rename Replace Merge;
    Action of operations::conflict::Action: Created Replaced Merged Renamed Skipped;
    EnvironmentKind of environments::EnvironmentKind: Local Vectorkeep Chroma;
    Restorable of repository::Restorable: Verified Unknown Damaged;
    VerificationLevel of repository::format::VerificationLevel: Manifest Checksums Records Drill;
}
