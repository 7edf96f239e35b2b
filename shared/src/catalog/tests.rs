use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::Config;

/// One plan with nothing but what it must have, and one with everything.
const CONFIGURATION: &str = "\
broker: {username: u, password: p}
router: {hostname: h}
kvstore: {machines: ['http://e:2379']}
cell: {username: u, password: p}
secrets: {master_keys: [{id: k, value_for_development: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}]}
catalog:
  services:
  - id: s1
    name: postgresql
    description: about it
    tags: [sql]
    requires: [syslog_drain]
    bindable: false
    instances_retrievable: false
    bindings_retrievable: false
    allow_context_updates: true
    metadata: {displayName: P, shareable: true}
    dashboard_client: {id: c, secret: x, redirect_uri: 'http://r'}
    plan_updateable: true
    plans:
    - id: p1
      name: small
      description: less
      cluster: {nodes: {default: 1, max: 3}}
    - id: p2
      name: large
      description: more
      metadata: {costs: [{amount: {usd: 9.5}, unit: MONTHLY}]}
      free: false
      bindable: true
      binding_rotatable: true
      plan_updateable: false
      schemas:
        service_binding:
          create:
            parameters: {$schema: 'http://json-schema.org/draft-04/schema#', type: object}
      maximum_polling_duration: 900
      maintenance_info: {version: 1.0.0, description: d}
  - {id: s2, name: other, description: d, plans: [{id: p3, name: small, description: d, schemas: {}}]}
";

fn catalog() -> Catalog {
    Config::parse("x.yml", CONFIGURATION, []).unwrap().catalog
}

#[test]
fn what_is_published_is_what_the_specification_knows_in_its_order() {
    let parameters = r##"{"parameters":{"$schema":"http://json-schema.org/draft-04/schema#","type":"object","properties":{"node-count":{"description":"How many nodes the cluster has; 1 unless given.","type":"integer","minimum":1,"maximum":3},"cells":{"description":"The guids of the cells that the cluster may live on; null: any cell.","type":["array","null"],"items":{"type":"string","pattern":"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},"minItems":1,"uniqueItems":true}},"additionalProperties":false}}"##;
    let binding = r##"{"parameters":{"$schema":"http://json-schema.org/draft-04/schema#","type":"object","properties":{"read_only":{"description":"Whether the login can only read; false unless given.","type":"boolean"}},"additionalProperties":false}}"##;
    let expected = [
        r#"{"services":[{"name":"postgresql","id":"s1","description":"about it","tags":["sql"],"#,
        r#""requires":["syslog_drain"],"bindable":false,"instances_retrievable":false,"bindings_retrievable":false,"#,
        r#""allow_context_updates":true,"metadata":{"displayName":"P","shareable":true},"#,
        r#""dashboard_client":{"id":"c","secret":"x","redirect_uri":"http://r"},"plan_updateable":true,"plans":["#,
        r#"{"id":"p1","name":"small","description":"less","free":true,"binding_rotatable":false,"#,
        &format!(
            r#""schemas":{{"service_instance":{{"create":{parameters},"update":{parameters}}},"service_binding":{{"create":{binding}}}}}}},"#
        ),
        r#"{"id":"p2","name":"large","description":"more","#,
        r#""metadata":{"costs":[{"amount":{"usd":9.5},"unit":"MONTHLY"}]},"free":false,"bindable":true,"#,
        r#""binding_rotatable":true,"plan_updateable":false,"schemas":{"service_binding":{"create":{"parameters":"#,
        r##"{"$schema":"http://json-schema.org/draft-04/schema#","type":"object"}}}},"maximum_polling_duration":900,"##,
        r#""maintenance_info":{"version":"1.0.0","description":"d"}}]},"#,
        r#"{"name":"other","id":"s2","description":"d","bindable":true,"instances_retrievable":false,"#,
        r#""bindings_retrievable":false,"allow_context_updates":false,"plan_updateable":false,"plans":["#,
        r#"{"id":"p3","name":"small","description":"d","free":true,"binding_rotatable":false}]}]}"#,
    ];
    let published = serde_json::to_string(&catalog().published(NEWEST_MINOR)).unwrap();
    assert_eq!(published, expected.concat());
}

#[test]
fn an_older_platform_is_spared_the_fields_that_it_does_not_know() {
    let catalog = catalog();
    let keys = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let mut before: Option<(Vec<String>, Vec<String>)> = None;
    let mut added = Vec::new();
    for minor in 12..=NEWEST_MINOR {
        let published = serde_json::to_value(catalog.published(minor)).unwrap();
        let now = (
            keys(&published["services"][0]),
            keys(&published["services"][0]["plans"][1]),
        );
        if let Some(before) = before {
            let new = |now: &[String], before: &[String]| -> Vec<String> {
                now.iter().filter(|key| !before.contains(key)).cloned().collect()
            };
            added.push(json!([minor, new(&now.0, &before.0), new(&now.1, &before.1)]));
        }
        before = Some(now);
    }
    let expected = json!([
        [13, [], ["schemas"]],
        [14, ["instances_retrievable", "bindings_retrievable"], []],
        [
            15,
            ["allow_context_updates"],
            ["plan_updateable", "maximum_polling_duration", "maintenance_info"]
        ],
        [16, [], []],
        [17, [], ["binding_rotatable"]],
    ]);
    assert_eq!(Value::from(added), expected);
}

#[test]
fn a_plan_is_found_in_its_own_service_only() {
    let catalog = catalog();
    assert_eq!(catalog.plan("s1", "p2").unwrap().1.name, "large");
    assert_eq!(catalog.plan("s2", "p3").unwrap().0.name, "other");
    let message = |service, plan| catalog.plan(service, plan).unwrap_err().to_string();
    assert_eq!(
        message("s1", "p3"),
        "the service 'postgresql' has no plan with the id 'p3'"
    );
    assert_eq!(message("p1", "p1"), "the catalog has no service with the id 'p1'");
}

#[test]
fn a_plan_goes_before_its_service() {
    let catalog = catalog();
    let service = catalog.service("s1").unwrap();
    let [small, large] = &service.plans[..] else {
        panic!("two plans");
    };
    assert_eq!((service.binds(small), service.lets_leave("p1")), (false, true));
    assert_eq!((service.binds(large), service.lets_leave("p2")), (true, false));
}

/// Numbers as JSON writes them, cells, and anything else in their place.
fn any_value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..8).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop_oneof![Just(2.0), Just(1.5), any::<f64>()].prop_map(Value::from),
        cell_name().prop_map(Value::from),
    ];
    prop_oneof![
        scalar.clone(),
        proptest::collection::vec(cell_name().prop_map(Value::from), 0..4).prop_map(Value::from),
        proptest::collection::vec(scalar, 0..4).prop_map(Value::from),
        Just(json!({})),
    ]
}

/// Few names, so that some are there twice, and such as do not fit.
fn cell_name() -> impl Strategy<Value = String> {
    let fitting = "[a-b][0-9._-]{0,1}".prop_map(String::from);
    let long = (126usize..131).prop_map(|length| "c".repeat(length));
    prop_oneof![4 => fitting, 1 => long, 1 => ".{0,3}"]
}

fn any_parameters() -> impl Strategy<Value = Map<String, Value>> {
    let name = prop_oneof![
        4 => Just("node-count".to_owned()),
        4 => Just("cells".to_owned()),
        4 => Just("read_only".to_owned()),
        1 => ".{0,12}",
    ];
    proptest::collection::vec((name, any_value()), 0..3).prop_map(Map::from_iter)
}

proptest! {
    /// What the published schemas allow is what handlers accept.
    #[test]
    fn schemas_and_handlers_agree(parameters in any_parameters(), max in 1u32..6) {
        let mut plan = catalog().plan("s1", "p1").unwrap().1.clone();
        plan.cluster.nodes = NodeCount { default: 1, max };
        let schemas = plan.published_schemas();
        let given = Value::from(parameters.clone());
        let allows = |schema: Option<Map<String, Value>>| {
            let schema = Value::from(schema.unwrap());
            jsonschema::draft4::new(&schema).unwrap().is_valid(&given)
        };
        let accepted = crate::parameters::wishes(&parameters, &plan, 1).is_ok();
        prop_assert_eq!(allows(schemas.create), accepted);
        prop_assert_eq!(allows(schemas.update), accepted);
        let accepted = crate::parameters::access(&parameters).is_ok();
        prop_assert_eq!(allows(schemas.bind), accepted);
    }
}

#[test]
fn what_is_published_are_schemas_of_draft_04() {
    let catalog = catalog();
    let (_, plan) = catalog.plan("s1", "p1").unwrap();
    let Schemas { create, update, bind } = plan.published_schemas();
    for schema in [create, update, bind] {
        let schema = Value::from(schema.unwrap());
        assert_eq!(schema["$schema"], "http://json-schema.org/draft-04/schema#");
        assert!(jsonschema::draft4::meta::is_valid(&schema), "{schema}");
    }
}
