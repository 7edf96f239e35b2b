//! `template.yaml` deploys what there is: the routes of the handlers, each with its binary, and a configuration with which
//! a function starts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use handlers::routes;
use serde_json::Value;
use tests::{
    binaries::{self, repository_file},
    gateway::{Call, Format},
    osb::{PLAN, SERVICE, USER},
    runtime_api::Function,
    stack::function_variables,
};

fn template() -> Value {
    let text = fs::read_to_string(repository_file("template.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// The functions' properties, by the name of their binary, whose zip is where `make package` puts it.
fn functions(template: &Value) -> BTreeMap<String, &Value> {
    let resources = template["Resources"].as_object().unwrap().values();
    resources
        .filter(|resource| resource["Type"] == "AWS::Serverless::Function")
        .map(|function| {
            let properties = &function["Properties"];
            let zip = properties["CodeUri"].as_str().unwrap_or_default();
            let name = zip.strip_prefix("target/package/functions/");
            let name = name.and_then(|name| name.strip_suffix(".zip"));
            (
                name.unwrap_or_else(|| panic!("{function}")).to_owned(),
                properties,
            )
        })
        .collect()
}

#[test]
fn each_route_has_its_function_and_reconcile_a_schedule() {
    let template = template();
    let mut functions = functions(&template);
    let reconcile = functions.remove("reconcile").unwrap();
    assert_eq!(reconcile["Events"]["Schedule"]["Type"], "ScheduleV2");

    let deployed: BTreeSet<_> = functions
        .iter()
        .map(|(binary, function)| {
            let route = &function["Events"]["Route"]["Properties"];
            assert_eq!(route["ApiId"]["Ref"], "Api");
            let text = |name: &str| route[name].as_str().unwrap().to_owned();
            (binary.clone(), text("Method"), text("Path"))
        })
        .collect();
    let routes = routes::ALL.map(|route| (route.name.into(), route.method.into(), route.path.into()));
    assert_eq!(deployed, BTreeSet::from(routes));
    for (binary, ..) in deployed {
        assert!(Path::new(&binaries::path(&binary)).is_file());
    }
}

/// A value in the template, as CloudFormation would make it from the parameters of a deployment.
fn resolve(value: &Value, parameters: &BTreeMap<&str, String>) -> String {
    if let Value::String(text) = value {
        return text.clone();
    }
    let (function, argument) = value.as_object().unwrap().iter().next().unwrap();
    match function.as_str() {
        "Ref" => parameters[argument.as_str().unwrap()].clone(),
        // Lists come as the text that CloudFormation takes them from.
        "Fn::Join" => resolve(&argument[1], parameters),
        // Without certificates.
        "Fn::If" => resolve(&argument[2], parameters),
        // {{resolve:secretsmanager:${SecretName}:SecretString:<key>}}
        "Fn::Sub" => {
            let key = argument
                .as_str()
                .unwrap()
                .trim_end_matches('}')
                .rsplit_once(':')
                .unwrap()
                .1;
            parameters[key].clone()
        }
        _ => panic!("{value}"),
    }
}

#[tokio::test]
async fn functions_start_with_the_variables_of_the_template() {
    let sample = function_variables("http://127.0.0.1:1");
    let of = |name: &str| sample[&format!("PATRONI_BROKER_{name}")].clone();
    let template = template();
    let port_range = template["Parameters"]["PortRange"]["Default"].as_str().unwrap();
    let parameters = BTreeMap::from([
        ("EtcdMachines", "http://127.0.0.1:1,http://127.0.0.1:2".to_owned()),
        ("RouterHostname", "db.example.com".to_owned()),
        ("CatalogServices", of("CATALOG_SERVICES")),
        ("PortRange", port_range.to_owned()),
        ("broker_username", USER.to_owned()),
        ("broker_password", USER.to_owned()),
        ("cell_username", "cells".to_owned()),
        ("cell_password", "secret".to_owned()),
        ("etcd_username", String::new()),
        ("etcd_password", String::new()),
        ("master_key", of("MASTER_KEY")),
    ]);
    let variables = &template["Globals"]["Function"]["Environment"]["Variables"];
    let variables = variables.as_object().unwrap().iter();
    let variables = variables
        .map(|(name, value)| (name.clone(), resolve(value, &parameters)))
        .collect();

    let directory = tempfile::tempdir().unwrap();
    let log = |name: &str| directory.path().join(name);
    let function = Function::start("catalog", &variables, &log("catalog.log")).await;
    let catalog = Call::new("GET", "/v2/catalog").to(&function, Format::Http).await;
    catalog.expect(200);
    assert_eq!(catalog.body["services"][0]["plans"][0]["id"], PLAN);

    // It has all that it needs, and only etcd is missing.
    let function = Function::start("deprovision", &variables, &log("deprovision.log")).await;
    let deprovision = Call::new("DELETE", "/v2/service_instances/{instance_id}")
        .parameter("instance_id", "i1")
        .query("accepts_incomplete", "true")
        .query("service_id", SERVICE)
        .query("plan_id", PLAN);
    deprovision.to(&function, Format::Http).await.expect(503);
}
