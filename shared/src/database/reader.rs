//! The role behind all read-only bindings of an instance, and what it may do.
//!
//! **Guarantees.** Its members read whatever the owner has made or makes, and can do nothing else: not even what PostgreSQL
//! allows everybody, which is to make temporary tables, large objects, before PostgreSQL 15 tables in `public`, and to go to
//! another database for that. The bindings that may write lose none of it.
//! **Why not `pg_read_all_data`?** PostgreSQL before 14 does not have it, and it reads the catalogs as well, where the
//! verifiers of all passwords are.
//! **Caveats.** What is made by a transaction that has begun before the first read-only binding, or by a session that gave
//! up being the owner (`SET ROLE NONE`), can be read after the next read-only bind, also of a binding that is there already.

use tokio_postgres::Client;

use super::{DATABASE, DatabaseError, MAINTENANCE, OWNER, READER, create, explain, login};
use crate::cell_api::REWIND_USER;

/// Another database that PostgreSQL lets everybody into.
const TEMPLATE: &str = "template1";
/// Functions that make large objects.
const MAKERS: &str =
    "pg_catalog.lo_creat(integer), pg_catalog.lo_create(oid), pg_catalog.lo_from_bytea(oid, bytea)";

/// Makes the reader unless it is there, and gives it what it lacks. The client is in [`DATABASE`].
pub(super) async fn prepare(client: &Client) -> Result<(), DatabaseError> {
    if login(client, READER).await?.is_none() {
        create(client, &format!("CREATE ROLE {READER} NOLOGIN")).await?;
    }
    // What is made from the end of the first on is readable; the second gives what was there before.
    for statements in [rights(), rights_on_what_is_there()] {
        // One at a time: PostgreSQL fails when two sessions change the same rights at once ("tuple concurrently updated").
        // The statements are one transaction, and the lock goes with it.
        let sql = format!("SELECT pg_advisory_xact_lock(hashtext('{READER}')); {statements}");
        client.batch_execute(&sql).await.map_err(explain)?;
    }
    Ok(())
}

fn rights() -> String {
    format!(
        "GRANT CONNECT, TEMPORARY ON DATABASE {MAINTENANCE}, {TEMPLATE} TO {OWNER};
         GRANT CONNECT ON DATABASE {MAINTENANCE} TO {REWIND_USER};
         GRANT CONNECT ON DATABASE {DATABASE} TO {READER};
         REVOKE CONNECT, TEMPORARY ON DATABASE {DATABASE}, {MAINTENANCE}, {TEMPLATE} FROM PUBLIC;
         GRANT EXECUTE ON FUNCTION {MAKERS} TO {OWNER};
         REVOKE EXECUTE ON FUNCTION {MAKERS} FROM PUBLIC;
         ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT USAGE ON SCHEMAS TO {READER};
         ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT SELECT ON TABLES TO {READER};
         ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT SELECT ON SEQUENCES TO {READER}"
    )
}

/// What a superuser has made is none of the users' business. They may have dropped the schema `public`.
fn rights_on_what_is_there() -> String {
    format!(
        "DO $$
         DECLARE statement text;
         BEGIN
             FOR statement IN
                 SELECT 'GRANT ALL ON SCHEMA public TO {OWNER}; REVOKE CREATE ON SCHEMA public FROM PUBLIC'
                 FROM pg_namespace WHERE nspname = 'public' AND has_schema_privilege('{READER}', oid, 'CREATE')
                 UNION ALL
                 SELECT format('GRANT USAGE ON SCHEMA %I TO {READER}', nspname)
                 FROM pg_namespace JOIN pg_roles owner ON owner.oid = nspowner
                 WHERE NOT rolsuper AND NOT has_schema_privilege('{READER}', pg_namespace.oid, 'USAGE')
                 UNION ALL
                 SELECT format('GRANT SELECT ON %I.%I TO {READER}', nspname, relname)
                 FROM pg_class
                 JOIN pg_namespace ON pg_namespace.oid = relnamespace
                 JOIN pg_roles owner ON owner.oid = relowner
                 WHERE NOT rolsuper AND nspname !~ '^pg_' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
                 AND NOT has_table_privilege('{READER}', pg_class.oid, 'SELECT')
             LOOP
                 EXECUTE statement;
             END LOOP;
         END $$"
    )
}
