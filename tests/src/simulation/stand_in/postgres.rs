//! PostgreSQL behind a public port, as far as a broker asks it before a provision has succeeded (PostgreSQL's documentation,
//! "Frontend/Backend Protocol"). The roles and the database are always there already.

use std::{collections::BTreeMap, io, sync::Arc};

use secrecy::SecretString;
use shared::{
    cell_api::{REPLICATION_USER, REWIND_USER},
    database::{Door, OWNER},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_blocking,
};

use super::super::World;

/// Object ids of types.
const BOOL: u32 = 16;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const TEXT_ARRAY: u32 = 1009;

/// Answers whoever connects to a public port.
pub(super) async fn listen(listener: TcpListener, port: u16, world: Arc<World>) {
    while let Ok((stream, _)) = listener.accept().await {
        // A client that goes away is no news.
        let world = Arc::clone(&world);
        tokio::spawn(async move { drop(serve(stream, port, world).await) });
    }
}

/// What a statement takes and gives.
struct Statement {
    parameters: Vec<u32>,
    columns: Vec<u32>,
    rows: Vec<Vec<Vec<u8>>>,
}

impl Statement {
    fn new(sql: &str, system: &str) -> Option<Self> {
        let text = |text: &str| text.as_bytes().to_vec();
        let (parameters, columns, rows) = if sql.contains("pg_control_system()") {
            (vec![], vec![TEXT, BOOL], vec![vec![text(system), vec![0]]])
        } else if sql.contains("pg_roles WHERE rolname = ANY") {
            let roles = [OWNER, REPLICATION_USER, REWIND_USER];
            let rows = roles.map(|role| vec![text(role)]).into();
            (vec![TEXT_ARRAY], vec![TEXT], rows)
        } else if sql.contains("pg_database WHERE datname") {
            (vec![TEXT], vec![INT4], vec![vec![1_i32.to_be_bytes().into()]])
        } else {
            return None;
        };
        Some(Self {
            parameters,
            columns,
            rows,
        })
    }
}

async fn serve(mut stream: TcpStream, port: u16, world: Arc<World>) -> io::Result<()> {
    let length = stream.read_u32().await?;
    read(&mut stream, length).await?;
    let mut out = Output::default();
    // A password in clear, please.
    out.message(b'R', &3_u32.to_be_bytes());
    out.flush(&mut stream).await?;
    let (_, body) = receive(&mut stream).await?;
    let door = Door {
        host: String::new(),
        port,
        passwords: SecretString::from(first_text(&body).0).into(),
    };
    let system = match spawn_blocking(move || world.system_behind(&door)).await.unwrap() {
        Ok(system) => system,
        Err(error) => return out.fail(&mut stream, &error.to_string()).await,
    };
    out.message(b'R', &0_u32.to_be_bytes());
    out.message(b'Z', b"I");
    out.flush(&mut stream).await?;
    let mut statements: BTreeMap<String, Statement> = BTreeMap::new();
    let mut bound = String::new();
    loop {
        let (kind, body) = receive(&mut stream).await?;
        match kind {
            b'P' => {
                let (name, rest) = first_text(&body);
                let (sql, _) = first_text(rest);
                let Some(statement) = Statement::new(&sql, &system) else {
                    return out.fail(&mut stream, &format!("not simulated: {sql}")).await;
                };
                statements.insert(name, statement);
                out.message(b'1', &[]);
            }
            b'D' => {
                let (name, _) = first_text(&body[1..]);
                out.describe(&statements[&name]);
            }
            b'B' => {
                let (_, rest) = first_text(&body);
                bound = first_text(rest).0;
                out.message(b'2', &[]);
            }
            b'E' => out.rows(&statements[&bound].rows),
            b'C' => out.message(b'3', &[]),
            b'S' => {
                out.message(b'Z', b"I");
                out.flush(&mut stream).await?;
            }
            b'X' => return Ok(()),
            _ => return out.fail(&mut stream, "not simulated").await,
        }
    }
}

/// A text up to its zero byte, and what follows.
fn first_text(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    (
        String::from_utf8(bytes[..end].to_vec()).unwrap(),
        &bytes[end + 1..],
    )
}

async fn receive(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let length = stream.read_u32().await?;
    Ok((kind, read(stream, length).await?))
}

/// The rest of a message whose length, which counts itself, has been read.
async fn read(stream: &mut TcpStream, length: u32) -> io::Result<Vec<u8>> {
    let mut body = vec![0; usize::try_from(length).unwrap().saturating_sub(4)];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Messages that are on their way to the client.
#[derive(Default)]
struct Output(Vec<u8>);

impl Output {
    fn message(&mut self, kind: u8, body: &[u8]) {
        self.0.push(kind);
        self.0
            .extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        self.0.extend(body);
    }

    /// What the parameters and columns of a statement are.
    fn describe(&mut self, statement: &Statement) {
        let count = |list: &[u32]| u16::try_from(list.len()).unwrap().to_be_bytes();
        let mut parameters = count(&statement.parameters).to_vec();
        let types = statement.parameters.iter();
        parameters.extend(types.flat_map(|kind| kind.to_be_bytes()));
        self.message(b't', &parameters);
        let mut columns = count(&statement.columns).to_vec();
        for kind in &statement.columns {
            // Name, table, number in it, type, size, modifier, format.
            columns.extend(b"c\0\0\0\0\0\0\0");
            columns.extend(kind.to_be_bytes());
            columns.extend([0; 8]);
        }
        self.message(b'T', &columns);
    }

    fn rows(&mut self, rows: &[Vec<Vec<u8>>]) {
        for row in rows {
            let mut body = u16::try_from(row.len()).unwrap().to_be_bytes().to_vec();
            for value in row {
                body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value);
            }
            self.message(b'D', &body);
        }
        self.message(b'C', b"SELECT\0");
    }

    /// Ends the session with an error.
    async fn fail(&mut self, stream: &mut TcpStream, text: &str) -> io::Result<()> {
        let fields = format!("SFATAL\0CXX000\0M{text}\0\0");
        self.message(b'E', fields.as_bytes());
        self.flush(stream).await
    }

    async fn flush(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(&self.0).await?;
        self.0.clear();
        Ok(())
    }
}
