//! What the logins of bindings can do in a real PostgreSQL, and what they cannot.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use secrecy::SecretString;
use serde_json::{Value, json};
use shared::{
    binding::Access,
    broker::Broker,
    database::{Door, Login},
};
use tests::{
    osb::{Osb, PLAN, SERVICE, fresh_id, nodes},
    psql::{self, Session},
    stack::{Options, Stack},
};
use tokio::{process::Command, task::JoinSet};
use tokio_postgres::error::SqlState;

/// The body of a bind request with these parameters.
fn with(parameters: &Value) -> Value {
    json!({"service_id": SERVICE, "plan_id": PLAN, "parameters": parameters})
}

fn read_only() -> Value {
    with(&json!({"read_only": true}))
}

/// An instance of one node on the only cell.
async fn instance(osb: &Osb) -> String {
    let instance = fresh_id();
    osb.make(&instance, &nodes(1)).await;
    instance
}

async fn stack() -> Stack {
    Stack::start(Options {
        zones: vec!["z1"],
        ..Options::default()
    })
    .await
}

async fn login(osb: &Osb, instance: &str, binding: &str, body: &Value) -> (Session, Value) {
    let answer = osb.bind_with(instance, binding, body).await;
    let credentials = answer.expect(201).body["credentials"].clone();
    (Session::open(&credentials).await.unwrap(), credentials)
}

/// Asserts that PostgreSQL denies each statement for want of a right, and for nothing else.
async fn assert_denied(session: &Session, statements: &[&str]) {
    let mut wrong = Vec::new();
    for statement in statements {
        let answer = session.try_to(statement).await;
        let code = answer.as_ref().err().and_then(tokio_postgres::Error::code);
        if code != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            wrong.push(format!("{statement}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The superuser's way in, for what the broker would do.
fn door(stack: &Stack, instance: &str) -> (Broker, Door) {
    let broker = stack.broker();
    let record = stack.record(instance).unwrap();
    let door = broker.public_door(&record).unwrap().unwrap();
    (broker, door)
}

/// A bind that stood still before it came to PostgreSQL, and an unbind that did not wait for it.
#[tokio::test]
async fn a_bind_that_comes_late_does_not_bring_a_login_back() {
    let stack = stack().await;
    let osb = &stack.osb();
    let instance = &instance(osb).await;
    let (broker, door) = door(&stack, instance);
    for access in [Access::ReadWrite, Access::ReadOnly] {
        let (role, password) = (format!("b_{access:?}").to_lowercase(), SecretString::from("late"));
        let late = async || {
            let databases = &broker.databases;
            databases
                .create_login(&door, &role, &password, access)
                .await
                .unwrap()
        };
        broker.databases.withdraw_login(&door, &role).await.unwrap();
        assert_eq!(late().await, Login::Withdrawn);
        let credentials = json!({"uri": format!("postgres://{role}:late@{}:{}/app", door.host, door.port)});
        psql::assert_refused(&credentials).await;
        // Had it come in time, it would have worked.
        let (other, credentials) = (
            format!("{role}_2"),
            json!({"uri": format!("postgres://{role}_2:late@{}:{}/app", door.host, door.port)}),
        );
        let databases = &broker.databases;
        let login = databases
            .create_login(&door, &other, &password, access)
            .await
            .unwrap();
        assert_eq!(login, Login::Ready);
        let session = Session::open(&credentials).await.unwrap();
        databases.withdraw_login(&door, &other).await.unwrap();
        session.ended().await;
        psql::assert_refused(&credentials).await;
        assert_eq!(
            databases
                .create_login(&door, &other, &password, access)
                .await
                .unwrap(),
            Login::Withdrawn
        );
        psql::assert_refused(&credentials).await;
    }
}

/// The credentials of a binding and of the one that takes its place.
#[tokio::test]
async fn a_binding_is_rotated_while_both_can_log_in() {
    let stack = stack().await;
    let osb = &stack.osb();
    let instance = &instance(osb).await;
    let rotate = |id: &'static str, old: &str| {
        let body = json!({"predecessor_binding_id": old});
        async move { osb.bind_with(instance, id, &body).await }
    };
    let (old_writer, old) = login(osb, instance, "w1", &with(&json!({}))).await;
    let (_, old_reader) = login(osb, instance, "r1", &read_only()).await;
    rotate("w2", "w3").await.expect(400);
    let answer = rotate("w2", "w1").await;
    let new = &answer.expect(201).body["credentials"];
    assert_ne!(
        (&new["username"], &new["password"]),
        (&old["username"], &old["password"])
    );
    assert_eq!(
        (&new["host"], &new["port"], &new["name"]),
        (&old["host"], &old["port"], &old["name"])
    );
    let writer = Session::open(new).await.unwrap();
    old_writer.run("CREATE TABLE notes (note text)").await;
    writer.run("INSERT INTO notes VALUES ('new')").await;
    old_writer.run("INSERT INTO notes VALUES ('old')").await;

    // A successor of one that only reads only reads.
    let answer = rotate("r2", "r1").await;
    let reads = &answer.expect(201).body["credentials"];
    let reader = Session::open(reads).await.unwrap();
    assert_eq!(reader.ask("SELECT count(*) FROM notes").await.unwrap(), "2");
    assert_denied(&reader, &["INSERT INTO notes VALUES ('x')"]).await;

    osb.unbind(instance, "w1").await.expect(200);
    old_writer.ended().await;
    psql::assert_refused(&old).await;
    writer.run("INSERT INTO notes VALUES ('still')").await;
    assert_eq!(&rotate("w2", "w1").await.expect(200).body["credentials"], new);
    rotate("w4", "w1").await.expect(400);
    Session::open(&old_reader).await.unwrap();
    // As psql takes it.
    let uri = new["uri"].as_str().unwrap();
    let psql = Command::new("psql")
        .args([uri, "-Atc", "SELECT count(*) FROM notes"])
        .output();
    let told = psql.await.unwrap();
    assert_eq!(
        String::from_utf8(told.stdout).unwrap(),
        "3\n",
        "{:?}",
        told.stderr
    );
}

/// What a login that only reads must not do. `notes`, `numbers` and the large object 4711 are there.
const FORBIDDEN: &[&str] = &[
    "INSERT INTO notes VALUES ('x')",
    "UPDATE notes SET note = 'x'",
    "DELETE FROM notes",
    "TRUNCATE notes",
    "SELECT * FROM notes FOR UPDATE",
    "DO $$ BEGIN LOCK TABLE notes IN EXCLUSIVE MODE; END $$",
    "COPY notes FROM '/dev/null'",
    "COPY notes TO PROGRAM 'true'",
    "DROP TABLE notes",
    "ALTER TABLE notes ADD COLUMN more text",
    "CREATE INDEX ON notes (note)",
    "COMMENT ON TABLE notes IS 'x'",
    "CREATE TABLE own (x int)",
    "CREATE TEMPORARY TABLE own (x int)",
    "CREATE VIEW own AS SELECT 1",
    "CREATE SEQUENCE own",
    "CREATE FUNCTION own() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE own AS (x int)",
    "CREATE SCHEMA own",
    "CREATE DATABASE own",
    "CREATE ROLE own",
    "SELECT nextval('numbers')",
    "SELECT setval('numbers', 7)",
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_put(4711, 0, 'x')",
    "SELECT lo_unlink(4711)",
    "SET ROLE app_owner",
    "SET SESSION AUTHORIZATION app_owner",
    "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner REVOKE SELECT ON TABLES FROM app_reader",
    "REFRESH MATERIALIZED VIEW early.stored",
    "REASSIGN OWNED BY app_owner TO CURRENT_USER",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_read_file('PG_VERSION')",
];

#[tokio::test]
async fn a_read_only_binding_reads_everything_and_does_nothing_else() {
    let stack = stack().await;
    let osb = &stack.osb();
    let instance = &instance(osb).await;
    let (writer, writes) = login(osb, instance, "w1", &with(&json!({}))).await;
    writer
        .run(
            "CREATE TABLE notes (note text); INSERT INTO notes VALUES ('written');
             CREATE SEQUENCE numbers; SELECT nextval('numbers'); SELECT lo_create(4711);
             CREATE SCHEMA \"early\"; CREATE TABLE early.\"A table\" AS SELECT 1 AS one;
             CREATE VIEW early.seen AS SELECT * FROM notes;
             CREATE MATERIALIZED VIEW early.stored AS SELECT 3 AS three",
        )
        .await;

    let (reader, reads) = login(osb, instance, "r1", &read_only()).await;
    for (query, told) in [
        ("SELECT note FROM notes", "written"),
        ("SELECT one FROM early.\"A table\"", "1"),
        ("SELECT note FROM early.seen", "written"),
        ("SELECT three FROM early.stored", "3"),
        ("SELECT last_value FROM numbers", "1"),
    ] {
        assert_eq!(reader.ask(query).await.unwrap(), told, "{query}");
    }

    // Also what another binding makes later.
    let (other, _) = login(osb, instance, "w2", &with(&json!({"read_only": false}))).await;
    other
        .run(
            "CREATE TABLE later (x int); INSERT INTO later VALUES (7);
             CREATE SCHEMA late; CREATE TABLE late.parted (x int) PARTITION BY LIST (x);
             CREATE TABLE late.part PARTITION OF late.parted FOR VALUES IN (8); INSERT INTO late.parted VALUES (8);
             CREATE SEQUENCE late.numbers START 9",
        )
        .await;
    for (query, told) in [
        ("SELECT x FROM later", "7"),
        ("SELECT x FROM late.parted", "8"),
        ("SELECT x FROM late.part", "8"),
        ("SELECT last_value FROM late.numbers", "9"),
    ] {
        assert_eq!(reader.ask(query).await.unwrap(), told, "{query}");
    }

    assert_denied(&reader, FORBIDDEN).await;
    for database in ["postgres", "template1"] {
        let elsewhere = |credentials: &Value| {
            let uri = credentials["uri"].as_str().unwrap();
            json!({"uri": uri.replace("/app", &format!("/{database}"))})
        };
        let error = Session::open(&elsewhere(&reads)).await.expect_err(database);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{error:?}");
        Session::open(&elsewhere(&writes)).await.unwrap();
    }
    // Who may write has lost nothing, in a session that was open and in a new one.
    for session in [&writer, &Session::open(&writes).await.unwrap()] {
        session
            .run(
                "CREATE TEMPORARY TABLE own (x int); SELECT lo_unlink(lo_create(0)); SELECT nextval('numbers');
                 CREATE TABLE public.more (x int); DROP TABLE public.more; INSERT INTO notes VALUES ('more')",
            )
            .await;
    }
    assert_eq!(reader.ask("SELECT count(*) FROM notes").await.unwrap(), "3");

    assert_eq!(osb.unbind(instance, "r1").await.expect(200).text, "{}\n");
    reader.ended().await;
    psql::assert_refused(&reads).await;
    osb.unbind(instance, "r1").await.expect(410);
    assert_eq!(writer.ask("SELECT count(*) FROM notes").await.unwrap(), "3");
}

/// Users own their database, and with it what sessions in it begin with. The broker's sessions have all rights.
#[tokio::test]
async fn nothing_that_users_have_made_runs_with_the_rights_of_the_broker() {
    let stack = stack().await;
    let osb = &stack.osb();
    let instance = &instance(osb).await;
    let (writer, _) = login(osb, instance, "w1", &with(&json!({}))).await;
    writer
        .run(
            "CREATE SCHEMA trap;
             CREATE FUNCTION trap.hashtext(text) RETURNS int LANGUAGE plpgsql AS
                 $$BEGIN ALTER ROLE app_owner SUPERUSER; RETURN 1; END$$;
             CREATE FUNCTION trap.same(name, text) RETURNS bool LANGUAGE plpgsql AS
                 $$BEGIN ALTER ROLE app_owner SUPERUSER; RETURN true; END$$;
             CREATE OPERATOR trap.= (FUNCTION = trap.same, LEFTARG = name, RIGHTARG = text);
             ALTER DATABASE app SET search_path = trap, pg_catalog",
        )
        .await;
    let (reader, _) = login(osb, instance, "r1", &read_only()).await;
    let rights = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = 'app_owner'";
    assert_eq!(reader.ask(rights).await.unwrap(), "false");

    writer
        .run(
            "ALTER DATABASE app SET default_transaction_read_only = on;
             ALTER DATABASE app SET role = app_owner;
             ALTER DATABASE app SET statement_timeout = 1",
        )
        .await;
    osb.bind_with(instance, "r1", &read_only()).await.expect(200);
    osb.bind_with(instance, "r2", &read_only()).await.expect(201);
}

#[tokio::test]
async fn read_only_is_a_part_of_the_binding() {
    let stack = stack().await;
    let osb = &stack.osb();
    let instance = &instance(osb).await;
    // Many at once: they all make the same role and change the same rights.
    let mut binds = JoinSet::new();
    for number in 1..=8 {
        let (osb, instance) = (osb.clone(), instance.clone());
        binds.spawn(async move {
            osb.bind_with(&instance, &format!("r{number}"), &read_only())
                .await
        });
    }
    for answer in binds.join_all().await {
        answer.expect(201);
    }
    let again = osb.bind_with(instance, "r1", &read_only()).await;
    let session = Session::open(&again.expect(200).body["credentials"])
        .await
        .unwrap();
    assert_denied(
        &session,
        &["CREATE TABLE own (x int)", "CREATE TEMPORARY TABLE own (x int)"],
    )
    .await;
    for other in [json!({}), json!({"read_only": false})] {
        let answer = osb.bind_with(instance, "r1", &with(&other)).await;
        assert!(
            answer.expect(409).description().contains("differs in parameters"),
            "{}",
            answer.text
        );
    }
    for (parameters, reason) in [
        (json!({"read_only": "true"}), "true or false"),
        (json!({"read_only": null}), "true or false"),
        (json!({"read-only": true}), "unknown parameter 'read-only'"),
    ] {
        let answer = osb.bind_with(instance, "r9", &with(&parameters)).await;
        assert!(
            answer.expect(400).description().contains(reason),
            "{}",
            answer.text
        );
    }
    // One that is not read-only does not become it, whatever is asked for later.
    let (writer, _) = login(osb, instance, "w1", &with(&json!({}))).await;
    osb.bind_with(instance, "w1", &read_only()).await.expect(409);
    writer.run("CREATE TABLE notes (note text)").await;
}
