//! What an API server does with an object before it stores it: defaults, schema, CEL rules.
//!
//! The rules stand once, in the resources' schema. Here they are applied to local files, so that a file
//! which passes is one that a cluster takes, and the other way round.

mod nearest;
mod schema;

use std::{collections::BTreeMap, sync::LazyLock};

use bistro_api::{Averager, Miner, Subnet, Validator};
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{ConfigMap, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    CustomResourceExt,
    core::{
        cel::{Validator as Rules, apply_defaults},
        schema::{OptionalEnum, OptionalIntOrString, StructuralSchemaRewriter},
    },
};
use schemars::{JsonSchema, generate::SchemaSettings, transform::AddNullable};
use serde_json::Value;

pub use nearest::nearest;

/// One reason to refuse an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, like `spec.chain.endpoints[0]`; empty for the whole object.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Kinds that are checked, by API version and kind.
static SCHEMAS: LazyLock<BTreeMap<(&'static str, &'static str), Value>> = LazyLock::new(|| {
    let group = "bistro.dev/v1alpha1";
    BTreeMap::from([
        ((group, "Subnet"), of_crd(&Subnet::crd())),
        ((group, "Miner"), of_crd(&Miner::crd())),
        ((group, "Validator"), of_crd(&Validator::crd())),
        ((group, "Averager"), of_crd(&Averager::crd())),
        (("v1", "Secret"), of_type::<Secret>()),
        (("v1", "ConfigMap"), of_type::<ConfigMap>()),
        (("batch/v1", "Job"), of_type::<Job>()),
    ])
});

/// The schema of a kind; `None` where Bistro does not know the kind.
pub fn schema_of(api_version: &str, kind: &str) -> Option<&'static Value> {
    SCHEMAS.iter().find(|(known, _)| **known == (api_version, kind)).map(|(_, schema)| schema)
}

/// API version and kind of everything that [`schema_of`] knows.
pub fn known_kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
    SCHEMAS.keys().copied()
}

/// The object with all defaults filled in, or everything that is wrong with it.
pub fn admit(schema: &Value, object: &Value) -> Result<Value, Vec<Violation>> {
    let object = apply_defaults(schema, object);
    let violations = schema::check(schema, &object);
    if !violations.is_empty() {
        // Rules may assume the schema: on an object that breaks it they would only add noise.
        return Err(violations);
    }
    broken_rules(schema, &object, None)?;
    Ok(object)
}

/// Evaluates the CEL rules; with `old`, those for updates too.
pub fn broken_rules(schema: &Value, object: &Value, old: Option<&Value>) -> Result<(), Vec<Violation>> {
    Rules::new().validate(schema, object, old).map_err(|errors| {
        errors.into_vec().into_iter().map(|e| Violation { field: e.field_path, message: e.message }).collect()
    })
}

/// The schema of a custom resource, with the metadata that every object has.
fn of_crd(crd: &CustomResourceDefinition) -> Value {
    let schema = crd.spec.versions.first().and_then(|v| v.schema.as_ref()).and_then(|s| s.open_api_v3_schema.as_ref());
    let mut schema = serde_json::to_value(schema).unwrap_or(Value::Null);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        let text = serde_json::json!({"type": "string"});
        properties.insert("apiVersion".into(), text.clone());
        properties.insert("kind".into(), text);
        properties.insert("metadata".into(), of_type::<ObjectMeta>());
    }
    schema
}

/// The schema of a type, made as kube makes those of custom resources.
fn of_type<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::openapi3()
        .with(|s| {
            s.inline_subschemas = true;
            s.meta_schema = None;
        })
        .with_transform(AddNullable::default())
        .with_transform(StructuralSchemaRewriter)
        .with_transform(OptionalEnum)
        .with_transform(OptionalIntOrString)
        .into_generator();
    generator.into_root_schema_for::<T>().to_value()
}
