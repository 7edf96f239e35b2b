use super::*;

/// A service, from line 10 on, and what is said about it.
const SERVICES: &[(&str, &str)] = &[
    ("- {name: s}", "x.yml:10: catalog.services[0].id: is missing"),
    (
        "- {id: '', name: s}",
        "x.yml:10: catalog.services[0].id: must not be empty",
    ),
    (
        "- {id: s, name: s s}",
        "x.yml:10: catalog.services[0].name: must be lower case letters, digits and dashes, not 's s'",
    ),
    (
        "- {id: s, name: '--'}",
        "x.yml:10: catalog.services[0].name: must be lower case letters, digits and dashes, not '--'",
    ),
    (
        "- {id: s, name: s}",
        "x.yml:10: catalog.services[0].description: is missing",
    ),
    (
        "- {id: s, name: s, description: d}",
        "x.yml:10: catalog.services[0].plans: is missing",
    ),
    (
        "- {id: s, name: s, description: d, plans: []}",
        "x.yml:10: catalog.services[0].plans: must hold at least one plan",
    ),
    (
        "- id: s\n    name: s\n    description: d\n    plans:\n    - {id: p, name: p, description: d}\n    \
         - {id: p, name: q, description: d}",
        "x.yml:15: catalog.services[0].plans[1].id: 'p' is used twice (first at line 14)",
    ),
    (
        "- id: s\n    name: s\n    description: d\n    plans:\n    - {id: p, name: p, description: d}\n    \
         - {id: q, name: p, description: d}",
        "x.yml:15: catalog.services[0].plans[1].name: 'p' is used twice (first at line 14)",
    ),
    (
        "- {id: s, name: s, description: d, plans: [{id: p, name: p, description: d}]}\n  - {id: p}",
        "x.yml:11: catalog.services[1].id: 'p' is used twice (first at line 10)",
    ),
    (
        "- {id: s, name: s, description: d, plans: [{id: p, name: p, description: d}]}\n  - {id: t, name: s}",
        "x.yml:11: catalog.services[1].name: 's' is used twice (first at line 10)",
    ),
    (
        "- {id: s, name: s, description: d, requires: [syslog]}",
        "x.yml:10: catalog.services[0].requires[0]: must be syslog_drain or route_forwarding or volume_mount, not \
         'syslog'",
    ),
    (
        "- {id: s, name: s, description: d, bindable: yes}",
        "x.yml:10: catalog.services[0].bindable: must be true or false, not 'yes'",
    ),
    (
        "- {id: s, name: s, description: d, tags: [a, '']}",
        "x.yml:10: catalog.services[0].tags[1]: must not be empty",
    ),
    (
        "- {id: s, name: s, plan_updateable: true, planupdateable: true}",
        "x.yml:10: catalog.services[0].planupdateable: is another spelling of 'plan_updateable', which is given too",
    ),
    (
        "- {id: s, name: s, description: d, dashboard_client: {id: c}}",
        "x.yml:10: catalog.services[0].dashboard_client.secret: is missing",
    ),
    (
        "- {id: s, name: s, description: d, metadata: [a]}",
        "x.yml:10: catalog.services[0].metadata: must be a mapping (lines of 'key: value')",
    ),
];

/// What a plan holds besides its ids, on line 11, and what is said about it.
const PLANS: &[(&str, &str)] = &[
    (
        "maximum_polling_duration: 0",
        "x.yml:11: {plan}.maximum_polling_duration: must be a whole number from 1 to 4294967295, not '0'",
    ),
    (
        "maximum_polling_duration: 1.5",
        "x.yml:11: {plan}.maximum_polling_duration: must be a whole number from 1 to 4294967295, not '1.5'",
    ),
    (
        "metadata: {bullets: [a, 2]}",
        "x.yml:11: {plan}.metadata: 'bullets' must be a list of texts",
    ),
    (
        "metadata: {costs: [{amount: 9.0, unit: MONTHLY}]}",
        "x.yml:11: {plan}.metadata: 'costs' must be a list such as [{amount: {usd: 9.0}, unit: MONTHLY}]",
    ),
    (
        "metadata: {costs: [{amount: {usd: 9.0}}]}",
        "x.yml:11: {plan}.metadata: 'costs' must be a list such as [{amount: {usd: 9.0}, unit: MONTHLY}]",
    ),
    (
        "maintenance_info: {version: '1.0'}",
        "x.yml:11: {plan}.maintenance_info.version: must be a semantic version such as '1.0.0', not '1.0'",
    ),
    (
        "maintenance_info: {description: d}",
        "x.yml:11: {plan}.maintenance_info.version: is missing",
    ),
    (
        "schemas: {service_binding: {update: {}}}",
        "x.yml:11: {plan}.schemas.service_binding.update: no such key; there are: create",
    ),
    (
        "schemas: {service_instance: {create: {parameters: {type: object}}}}",
        "x.yml:11: {plan}.schemas.service_instance.create.parameters: must say in '$schema' which draft of JSON \
         Schema it is",
    ),
    (
        "schemas: {service_instance: {update: {parameters: {$schema: s, a: [{$ref: 'http://b'}]}}}}",
        "x.yml:11: {plan}.schemas.service_instance.update.parameters: must not refer to another document ('$ref' to \
         'http://b')",
    ),
    (
        "cluster: {nodes: {default: 0}}",
        "x.yml:11: {plan}.cluster.nodes.default: must be a whole number from 1 to 32, not '0'",
    ),
    (
        "cluster: {nodes: {default: 3, max: 2}}",
        "x.yml:11: {plan}.cluster.nodes.max: must be a whole number from 3 to 32, not '2'",
    ),
    (
        "cluster: {instances: {max: 0}}",
        "x.yml:11: {plan}.cluster.instances.max: must be a whole number from 1 to 4294967295, not '0'",
    ),
    (
        "cluster: {instances: {most: 1}}",
        "x.yml:11: {plan}.cluster.instances.most: no such key; there are: max",
    ),
    (
        "cluster: {patroni: {ttl: 10}}",
        "x.yml:11: {plan}.cluster.patroni.ttl: must be a whole number from 20 to 3600, not '10'",
    ),
    (
        "cluster: {patroni: {loop_wait: 11}}",
        "x.yml:11: {plan}.cluster.patroni: ttl is 30, but must be at least loop_wait + 2 * retry_timeout, which is 31",
    ),
    (
        "cluster: {postgresql: {parameters: {listen_addresses: '*'}}}",
        "x.yml:11: {plan}.cluster.postgresql.parameters.listen_addresses: is set by the broker itself",
    ),
    (
        "cluster: {postgresql: {parameters: {max_connections: '20'}}}",
        "x.yml:11: {plan}.cluster.postgresql.parameters: max_connections must be a whole number from 25 on: Patroni \
         ignores others",
    ),
    (
        "cluster: {postgresql: {parameters: {max_wal_senders: few}}}",
        "x.yml:11: {plan}.cluster.postgresql.parameters: max_wal_senders must be a whole number from 3 on: Patroni \
         ignores others",
    ),
    (
        "cluster: {resources: {memory: 63MB}}",
        "x.yml:11: {plan}.cluster.resources.memory: must be from 64MB to 1024GB, such as 512MB or 4GB, not '63MB'",
    ),
    (
        "cluster: {resources: {memory: 4G}}",
        "x.yml:11: {plan}.cluster.resources.memory: must be from 64MB to 1024GB, such as 512MB or 4GB, not '4G'",
    ),
    (
        "cluster: {resources: {memory: 9999999GB}}",
        "x.yml:11: {plan}.cluster.resources.memory: must be from 64MB to 1024GB, such as 512MB or 4GB, not '9999999GB'",
    ),
    (
        "cluster: {synchronous: 1}",
        "x.yml:11: {plan}.cluster.synchronous: must be true or false, not '1'",
    ),
    (
        "cluster: {failover: fast}",
        "x.yml:11: {plan}.cluster.failover: must be restart or promote, not 'fast'",
    ),
    (
        "nodes: 3",
        "x.yml:11: {plan}.nodes: no such key; there are: id, name, description, metadata, free, bindable, \
         binding_rotatable, plan_updateable, planupdateable, schemas, maximum_polling_duration, maintenance_info, cluster",
    ),
];

#[test]
fn each_rule_that_a_catalog_breaks_is_named_with_its_line_and_key() {
    for (services, expected) in SERVICES {
        check(&with_services(&format!("  services:\n  {services}\n")), expected);
    }
    for (more, expected) in PLANS {
        let services = format!(
            "  services:\n  - {{id: s, name: s, description: d, plans: [{{id: p, name: p, description: d,\n     {more}}}]}}\n"
        );
        check(
            &with_services(&services),
            &expected.replace("{plan}", "catalog.services[0].plans[0]"),
        );
    }
}

#[test]
fn a_plan_with_a_quota_has_an_id_that_can_stand_in_a_key() {
    let with = |quota: &str| {
        let plan = format!("{{id: a/b, name: p, description: d{quota}}}");
        with_services(&format!(
            "  services:\n  - {{id: s, name: s, description: d, plans: [{plan}]}}\n"
        ))
    };
    assert!(load(&with("")).is_ok());
    check(
        &with(", cluster: {instances: {max: 1}}"),
        "x.yml:10: catalog.services[0].plans[0].cluster.instances: are counted under the plan's id, but the plan id 'a/b' is \
         not usable: it must start with a letter or digit and hold at most 128 letters, digits, '.', '_' or '-'",
    );
}

#[test]
fn schemas_have_a_size() {
    let schema = format!("{{$schema: s, description: {}}}", "x".repeat(64 * 1024));
    let services = format!(
        "  services: [{{id: s, name: s, description: d, plans: [{{id: p, name: p, description: d, schemas: \
         {{service_binding: {{create: {{parameters: {schema}}}}}}}}}]}}]\n"
    );
    assert_eq!(
        message(load(&with_services(&services))),
        "x.yml:9: catalog.services[0].plans[0].schemas.service_binding.create.parameters: must measure at most 65536 \
         bytes as JSON, not 65568"
    );
}

#[test]
fn both_spellings_of_the_catalog_are_one_too_many() {
    assert_eq!(
        message(load(&(LEAST.to_owned() + "services: []\n"))),
        "x.yml:10: services: is another spelling of 'catalog.services', which is given too"
    );
}
