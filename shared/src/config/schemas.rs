//! The JSON Schemas of a plan, where the operator writes them (osb-reference.md, 3).

use serde_json::{Map, Value as Json};

use crate::catalog::Schemas;

use super::{
    error::ConfigError,
    section::Section,
    value::{Value, shown},
};

/// The most that a schema may measure as JSON.
const MAX_BYTES: usize = 64 * 1024;

/// `service_instance.create|update.parameters` and `service_binding.create.parameters`.
pub(super) fn read(value: Value) -> Result<Schemas, ConfigError> {
    let mut section = Section::element(value, &["service_instance", "service_binding"])?;
    let mut instance = section.section("service_instance", &["create", "update"])?;
    let mut binding = section.section("service_binding", &["create"])?;
    Ok(Schemas {
        create: parameters(&mut instance, "create")?,
        update: parameters(&mut instance, "update")?,
        bind: parameters(&mut binding, "create")?,
    })
}

fn parameters(section: &mut Section<'_>, key: &str) -> Result<Option<Map<String, Json>>, ConfigError> {
    section
        .section(key, &["parameters"])?
        .optional("parameters", schema)
}

fn schema(value: Value) -> Result<Map<String, Json>, ConfigError> {
    let spot = value.spot.clone();
    let refuse = |problem: String| Err(spot.error(problem));
    let schema = value.json_object()?;
    let draft = schema.get("$schema").and_then(Json::as_str).unwrap_or_default();
    if draft.is_empty() {
        return refuse("must say in '$schema' which draft of JSON Schema it is".to_owned());
    }
    let bytes = Json::Object(schema.clone()).to_string().len();
    if bytes > MAX_BYTES {
        return refuse(format!(
            "must measure at most {MAX_BYTES} bytes as JSON, not {bytes}"
        ));
    }
    if let Some(reference) = schema.values().find_map(external_reference) {
        return refuse(format!(
            "must not refer to another document ('$ref' to '{}')",
            shown(reference)
        ));
    }
    Ok(schema)
}

/// A `$ref` that leads out of the schema.
fn external_reference(value: &Json) -> Option<&str> {
    match value {
        Json::Array(items) => items.iter().find_map(external_reference),
        Json::Object(object) => object.iter().find_map(|(key, value)| match value {
            Json::String(target) if key == "$ref" => Some(target.as_str()).filter(|it| !it.starts_with('#')),
            other => external_reference(other),
        }),
        _ => None,
    }
}
