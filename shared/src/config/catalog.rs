//! Section `catalog`: the services and plans on offer, under the rules of the specification (osb-reference.md, 3).

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use crate::catalog::{Catalog, DashboardClient, MaintenanceInfo, Permission, Plan, Service};

use super::{
    cluster,
    error::ConfigError,
    schemas,
    section::Section,
    value::{Unique, Value, shown},
};

pub(super) const KEYS: &[&str] = &["services"];
const SERVICE_KEYS: &[&str] = &[
    "name",
    "id",
    "description",
    "tags",
    "requires",
    "bindable",
    "instances_retrievable",
    "bindings_retrievable",
    "allow_context_updates",
    "metadata",
    "dashboard_client",
    "plan_updateable",
    "planupdateable",
    "plans",
];
const PLAN_KEYS: &[&str] = &[
    "id",
    "name",
    "description",
    "metadata",
    "free",
    "bindable",
    "binding_rotatable",
    "plan_updateable",
    "planupdateable",
    "schemas",
    "maximum_polling_duration",
    "maintenance_info",
    "cluster",
];
/// The original broker read its file with a library that knew keys in lower case only, and published these.
const METADATA_SPELLINGS: &[(&str, &str)] = &[
    ("displayname", "displayName"),
    ("imageurl", "imageUrl"),
    ("longdescription", "longDescription"),
    ("providerdisplayname", "providerDisplayName"),
    ("documentationurl", "documentationUrl"),
    ("supporturl", "supportUrl"),
];

/// `catalog.services`, or `services` at the top as the original had it.
pub(super) fn read(top: &mut Section<'_>) -> Result<Result<Catalog, ConfigError>, ConfigError> {
    let original = top.in_file("services");
    let mut section = top.section("catalog", KEYS)?;
    let services = match (section.optional("services", Ok)?, original) {
        (Some(_), Some(original)) => {
            return Err(original
                .spot
                .error("is another spelling of 'catalog.services', which is given too"));
        }
        (Some(services), None) | (None, Some(services)) => services,
        (None, None) => return Ok(Err(section.missing("services"))),
    };
    let mut unique = CatalogWide::default();
    let services = services.elements()?.into_iter();
    let services = services
        .map(|value| service(value, &mut unique))
        .collect::<Result<_, _>>()?;
    Ok(Ok(Catalog::new(services)))
}

/// What must differ over the whole catalog.
#[derive(Default)]
struct CatalogWide {
    ids: Unique,
    service_names: Unique,
    dashboard_clients: Unique,
}

fn service(value: Value, unique: &mut CatalogWide) -> Result<Service, ConfigError> {
    let mut section = Section::element(value, SERVICE_KEYS)?;
    section.alias("plan_updateable", "planupdateable")?;
    Ok(Service {
        id: section.required("id", |value| unique.ids.text(value))?,
        name: section.required("name", |value| name(value, &mut unique.service_names))?,
        description: section.required("description", Value::text)?,
        tags: section.or("tags", Vec::new(), texts)?,
        requires: section.or("requires", Vec::new(), permissions)?,
        bindable: section.or("bindable", true, Value::boolean)?,
        instances_retrievable: section.or("instances_retrievable", false, Value::boolean)?,
        bindings_retrievable: section.or("bindings_retrievable", false, Value::boolean)?,
        allow_context_updates: section.or("allow_context_updates", false, Value::boolean)?,
        metadata: section.or("metadata", Map::new(), metadata)?,
        dashboard_client: section.optional("dashboard_client", |value| {
            dashboard_client(value, &mut unique.dashboard_clients)
        })?,
        plan_updateable: section.or("plan_updateable", false, Value::boolean)?,
        plans: section.required("plans", |value| plans(value, &mut unique.ids))?,
    })
}

fn plans(value: Value, ids: &mut Unique) -> Result<Vec<Plan>, ConfigError> {
    let mut names = Unique::default();
    value.some("plan", |value| plan(value, ids, &mut names))
}

fn plan(value: Value, ids: &mut Unique, names: &mut Unique) -> Result<Plan, ConfigError> {
    let mut section = Section::element(value, PLAN_KEYS)?;
    section.alias("plan_updateable", "planupdateable")?;
    let id = section.required("id", |value| ids.text(value))?;
    let mut cluster = section.section("cluster", cluster::KEYS)?;
    Ok(Plan {
        quota: cluster::quota(&mut cluster.section("instances", cluster::INSTANCES_KEYS)?, &id)?,
        id,
        name: section.required("name", |value| name(value, names))?,
        description: section.required("description", Value::text)?,
        metadata: section.or("metadata", Map::new(), plan_metadata)?,
        free: section.or("free", true, Value::boolean)?,
        bindable: section.optional("bindable", Value::boolean)?,
        plan_updateable: section.optional("plan_updateable", Value::boolean)?,
        binding_rotatable: section.or("binding_rotatable", false, Value::boolean)?,
        schemas: section.optional("schemas", schemas::read)?,
        maximum_polling_duration: section
            .optional("maximum_polling_duration", |value| value.number(1..=u32::MAX))?,
        maintenance_info: section.optional("maintenance_info", maintenance_info)?,
        cluster: cluster::read(&mut cluster)?,
    })
}

/// `[a-z0-9-]+`, not only dashes: what all checkers of the specification accept.
fn name(value: Value, unique: &mut Unique) -> Result<String, ConfigError> {
    let spot = value.spot.clone();
    let name = unique.text(value)?;
    let fits = |c| matches!(c, 'a'..='z' | '0'..='9' | '-');
    if name.chars().all(fits) && name.chars().any(|c| c != '-') {
        return Ok(name);
    }
    let name = shown(&name);
    Err(spot.error(format!(
        "must be lower case letters, digits and dashes, not '{name}'"
    )))
}

fn texts(value: Value) -> Result<Vec<String>, ConfigError> {
    value.elements()?.into_iter().map(Value::text).collect()
}

fn permissions(value: Value) -> Result<Vec<Permission>, ConfigError> {
    let words = [
        ("syslog_drain", Permission::SyslogDrain),
        ("route_forwarding", Permission::RouteForwarding),
        ("volume_mount", Permission::VolumeMount),
    ];
    value
        .elements()?
        .into_iter()
        .map(|value| value.one_of(&words))
        .collect()
}

fn metadata(value: Value) -> Result<Map<String, Json>, ConfigError> {
    let spellings = BTreeMap::from_iter(METADATA_SPELLINGS.iter().copied());
    let metadata = value.json_object()?;
    let spell = |(key, value): (String, Json)| {
        (
            spellings.get(key.as_str()).map_or(key, |it| (*it).to_owned()),
            value,
        )
    };
    Ok(metadata.into_iter().map(spell).collect())
}

/// What platforms show of a plan has the form that they look for (profile.md of the specification).
fn plan_metadata(value: Value) -> Result<Map<String, Json>, ConfigError> {
    let spot = value.spot.clone();
    let metadata = metadata(value)?;
    let all = |list: Option<&Json>, fits: fn(&Json) -> bool| {
        list.is_none_or(|list| list.as_array().is_some_and(|list| list.iter().all(fits)))
    };
    if !all(metadata.get("bullets"), Json::is_string) {
        return Err(spot.error("'bullets' must be a list of texts"));
    }
    if !all(metadata.get("costs"), is_cost) {
        return Err(spot.error("'costs' must be a list such as [{amount: {usd: 9.0}, unit: MONTHLY}]"));
    }
    Ok(metadata)
}

/// Amounts by currency, and what they are paid for.
fn is_cost(cost: &Json) -> bool {
    let amount = cost["amount"].as_object();
    amount.is_some_and(|amount| !amount.is_empty() && amount.values().all(Json::is_number))
        && cost["unit"].as_str().is_some_and(|unit| !unit.is_empty())
}

fn dashboard_client(value: Value, ids: &mut Unique) -> Result<DashboardClient, ConfigError> {
    let mut section = Section::element(value, &["id", "secret", "redirect_uri"])?;
    Ok(DashboardClient {
        id: section.required("id", |value| ids.text(value))?,
        secret: section.required("secret", Value::secret)?,
        redirect_uri: section.optional("redirect_uri", Value::text)?,
    })
}

fn maintenance_info(value: Value) -> Result<MaintenanceInfo, ConfigError> {
    let mut section = Section::element(value, &["version", "description"])?;
    Ok(MaintenanceInfo {
        version: section.required("version", version)?,
        description: section.optional("description", Value::text)?,
    })
}

fn version(value: Value) -> Result<String, ConfigError> {
    let (spot, text) = value.spot_and_text()?;
    if is_semantic_version(&text) {
        return Ok(text);
    }
    let text = shown(&text);
    Err(spot.error(format!(
        "must be a semantic version such as '1.0.0', not '{text}'"
    )))
}

/// The grammar of semver.org, 2.0.0.
fn is_semantic_version(text: &str) -> bool {
    let (rest, build) = text
        .split_once('+')
        .map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre_release) = rest
        .split_once('-')
        .map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let identifier =
        |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-');
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre_release.is_none_or(|pre| {
            pre.split('.')
                .all(|it| identifier(it) && (!digits(it) || number(it)))
        })
        && build.is_none_or(|build| build.split('.').all(identifier))
}

#[cfg(test)]
mod tests {
    use super::is_semantic_version;

    #[test]
    fn semantic_versions_are_told_from_others() {
        for version in [
            "0.0.0",
            "1.20.3",
            "1.0.0-alpha.1",
            "1.0.0-0a.--",
            "1.0.0+001.sha-5",
            "1.0.0-rc.1+b.7",
        ] {
            assert!(is_semantic_version(version), "{version}");
        }
        for text in [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "01.0.0",
            "1.0.0-",
            "1.0.0-01",
            "1.0.0+",
            "1.0.0-a..b",
            "v1.0.0",
            "1.0.x",
        ] {
            assert!(!is_semantic_version(text), "{text}");
        }
    }
}
