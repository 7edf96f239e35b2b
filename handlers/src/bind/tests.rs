use std::{collections::BTreeMap, net::Ipv6Addr};

use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use shared::ids::Port;
use tokio_postgres::config::Host;

use super::*;

/// Names, addresses of both kinds, and such as a careless program would take for something else.
fn any_host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\\.[a-z]{2,5}){0,2}",
        any::<[u8; 4]>().prop_map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
        any::<[u16; 8]>().prop_map(|parts| Ipv6Addr::from(parts).to_string()),
        Just("::1".to_owned()),
    ]
}

/// Whatever can be typed, with all that has a meaning in a URL, a form or a shell.
fn hard_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9_-]{1,43}",
        "[ -~]{1,20}",
        "[:/?#@&=+%;'\" \\\\]{1,12}",
        "\\PC{1,12}"
    ]
}

/// As `org.postgresql.Driver.parseURL` does it: `jdbc:postgresql://host:port/database?name=value&...`, where names, values
/// and the database are those of a form (`URLDecoder`: `+` is a space).
fn parse_jdbc(url: &str) -> (String, u16, String, BTreeMap<String, String>) {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8().unwrap().into_owned()
    };
    let (address, arguments) = url.split_once('?').unwrap();
    let rest = address.strip_prefix("jdbc:postgresql://").unwrap();
    let (server, database) = rest.split_once('/').unwrap();
    let (host, port) = server.rsplit_once(':').unwrap();
    let pairs = arguments.split('&').map(|pair| pair.split_once('=').unwrap());
    (
        host.to_owned(),
        port.parse().unwrap(),
        decoded(database),
        pairs
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect(),
    )
}

proptest! {
    #[test]
    fn all_forms_of_the_credentials_say_the_same(
        host in any_host(),
        number in 1u16..,
        username in hard_text(),
        password in hard_text(),
    ) {
        let credentials = Credentials {
            host: host.clone(),
            port: Port::new(number).unwrap(),
            name: "app",
            username: username.clone(),
            password: password.clone().into(),
        };
        let answer = answer(&credentials, 17);
        let told = &answer["credentials"];
        prop_assert_eq!(&told["host"], &host);
        prop_assert_eq!(&told["port"], number);
        prop_assert_eq!(&told["name"], "app");
        prop_assert_eq!(&told["username"], &username);
        prop_assert_eq!(&told["password"], &password);
        let endpoint = json!({"host": host, "ports": [number.to_string()], "protocol": "tcp"});
        prop_assert_eq!(&answer["endpoints"], &json!([endpoint]));

        let uri: tokio_postgres::Config = told["uri"].as_str().unwrap().parse().unwrap();
        prop_assert_eq!(uri.get_hosts(), &[Host::Tcp(host.clone())]);
        prop_assert_eq!(uri.get_ports(), &[number]);
        prop_assert_eq!(uri.get_dbname(), Some("app"));
        prop_assert_eq!(uri.get_user(), Some(username.as_str()));
        prop_assert_eq!(uri.get_password(), Some(password.as_bytes()));

        let (jdbc_host, port, database, arguments) = parse_jdbc(told["jdbcUrl"].as_str().unwrap());
        prop_assert_eq!(jdbc_host.trim_matches(['[', ']']), &host);
        prop_assert_eq!(jdbc_host.starts_with('['), host.contains(':'));
        prop_assert_eq!((port, database.as_str()), (number, "app"));
        prop_assert_eq!(arguments, BTreeMap::from([("user".to_owned(), username), ("password".to_owned(), password)]));
    }
}
