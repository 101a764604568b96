//! Schemas of metadata and of the filters on it, which are parsed by hand.

use std::borrow::Cow;

use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType,
    Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

const KEY: &str = "^[^#$]";
/// Such a key, or one of a filter's own words.
const WHERE_KEY: &str = "^([^#$]|\\$and$|\\$or$|#document$)";
const SCALAR: [Type; 3] = [Type::String, Type::Number, Type::Boolean];

fn of_types(types: impl IntoIterator<Item = Type>) -> Object {
    let types = SchemaType::from_iter(types);
    ObjectBuilder::new().schema_type(types).build()
}

fn list_of(items: impl Into<RefOr<Schema>>) -> ArrayBuilder {
    ArrayBuilder::new().items(items.into())
}

/// A list of which all elements have one type.
fn lists() -> impl Iterator<Item = ArrayBuilder> {
    SCALAR.into_iter().map(|of| list_of(of_types([of])))
}

fn any_of(schemas: impl IntoIterator<Item = RefOr<Schema>>) -> Schema {
    let builder = schemas
        .into_iter()
        .fold(OneOfBuilder::new(), OneOfBuilder::item);
    Schema::OneOf(builder.build())
}

/// An object with exactly one of its members.
fn one_member() -> ObjectBuilder {
    ObjectBuilder::new()
        .min_properties(Some(1))
        .max_properties(Some(1))
}

/// An object with this one member.
fn single(name: &str, value: impl Into<RefOr<Schema>>) -> RefOr<Schema> {
    ObjectBuilder::new()
        .property(name, value)
        .required(name)
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .into()
}

/// An object of free keys.
fn keyed(pattern: &str, value: impl Into<RefOr<Schema>>) -> ObjectBuilder {
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern));
    ObjectBuilder::new()
        .property_names(Some(key))
        .additional_properties(Some(AdditionalProperties::RefOr(value.into())))
}

/// The members that join clauses. A filter is described as one object of which one member may be there, not as a choice
/// of objects: generators of clients understand a type that holds itself only so.
fn joined(object: ObjectBuilder, clause: &'static str) -> ObjectBuilder {
    ["$and", "$or"].into_iter().fold(object, |object, word| {
        object.property(word, list_of(Ref::from_schema_name(clause)))
    })
}

/// What may be asked of a text.
const ON_TEXT: [&str; 4] = ["$contains", "$not_contains", "$regex", "$not_regex"];

fn on_value() -> Schema {
    let scalar = || of_types(SCALAR);
    let number = || of_types([Type::Number]);
    let choices = || any_of(lists().map(|list| list.min_items(Some(1)).into()));
    let equal = ["$eq", "$ne", "$contains", "$not_contains"].map(|word| single(word, scalar()));
    let compared = ["$gt", "$gte", "$lt", "$lte"].map(|word| single(word, number()));
    let among = ["$in", "$nin"].map(|word| single(word, choices()));
    any_of(
        std::iter::once(scalar().into())
            .chain(equal)
            .chain(compared)
            .chain(among),
    )
}

/// A condition on metadata and documents.
pub(in crate::api) struct Where;

impl PartialSchema for Where {
    fn schema() -> RefOr<Schema> {
        let names = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(WHERE_KEY));
        // Not one object: generators would call it `WhereDocument`, which there is.
        let on_text = any_of(ON_TEXT.map(|word| single(word, of_types([Type::String]))));
        joined(one_member(), "Where")
            .property("#document", on_text)
            .property_names(Some(names))
            .additional_properties(Some(AdditionalProperties::RefOr(on_value().into())))
            .into()
    }
}

/// A condition on documents.
pub(in crate::api) struct WhereDocument;

impl PartialSchema for WhereDocument {
    fn schema() -> RefOr<Schema> {
        ON_TEXT
            .into_iter()
            .fold(joined(one_member(), "WhereDocument"), |object, word| {
                object.property(word, of_types([Type::String]))
            })
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .into()
    }
}

fn values(types: impl IntoIterator<Item = Type>) -> Schema {
    any_of(std::iter::once(of_types(types).into()).chain(lists().map(Into::into)))
}

/// A record's metadata as it is answered.
pub(in crate::api) struct Metadata;

impl PartialSchema for Metadata {
    fn schema() -> RefOr<Schema> {
        keyed(KEY, values(SCALAR)).into()
    }
}

/// A record's metadata as it is sent; where records are changed, null removes a key.
pub(in crate::api) struct MetadataChange;

impl PartialSchema for MetadataChange {
    fn schema() -> RefOr<Schema> {
        keyed(KEY, values(SCALAR.into_iter().chain([Type::Null]))).into()
    }
}

/// A collection's metadata.
pub(in crate::api) struct CollectionMetadata;

impl PartialSchema for CollectionMetadata {
    fn schema() -> RefOr<Schema> {
        keyed(KEY, of_types(SCALAR)).min_properties(Some(1)).into()
    }
}

macro_rules! named {
    ($($name:ident)*) => {$(
        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

named! { Where WhereDocument Metadata MetadataChange CollectionMetadata }
