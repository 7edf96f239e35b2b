//! The simulated world in which a row is played: brought into the row's situation, then asked.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use handlers::{
    app::App,
    front_door,
    routes::{self, Route},
};
use lambda_http::{Body, Request as LambdaRequest, RequestExt, aws_lambda_events::query_map::QueryMap};
use secrecy::SecretString;
use shared::{
    broker::Settings,
    config::{Config, Posture},
    error::Error,
    setup,
};
use tests::{
    osb::USER,
    simulation::{Accident, Fate, Handler, Layout, Process, World, instance},
};

use crate::{answer::Answer, request::Request, table::Table};

/// The catalog of the table, and everything else that a broker is configured with.
pub(crate) const CONFIGURATION: &str = include_str!("broker.yml");

/// More seconds than an operation takes in a world where all goes well.
const LONG: u32 = 120;

/// A world with a broker.
pub(crate) struct Stage {
    world: Arc<World>,
    handler: Handler,
    /// Whether the broker reaches a store at all.
    has_store: bool,
    ports: u16,
    /// The operation that was begun last.
    pub(crate) operation: Option<String>,
}

impl Stage {
    /// A world in this situation.
    pub(crate) async fn new(table: &Table, situation: &str) -> Self {
        let steps = steps(table, situation);
        let mut layout = Layout::default();
        let mut has_store = true;
        for step in &steps {
            match step.split_once('=') {
                Some(("cells", count)) => layout.cells = count.parse().unwrap(),
                Some(("capacity", count)) => layout.capacity = count.parse().unwrap(),
                Some(("ports", count)) => layout.ports = count.parse().unwrap(),
                Some(("store", "none")) => has_store = false,
                _ => {}
            }
        }
        let world = World::new(layout);
        let handler = world.handler_with(Process::new("broker", Fate::Kind), settings(layout.ports));
        let mut stage = Self {
            world,
            handler,
            has_store,
            ports: layout.ports,
            operation: None,
        };
        for step in &steps {
            stage.step(step).await;
        }
        stage
    }

    async fn step(&mut self, step: &str) {
        let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
        match word {
            "settle" => self.settle(rest).await,
            "pass" => self.world.pass(rest.parse().unwrap()),
            "poll" => drop(self.ask(&Request::parse(step)).await),
            "cut" => self.cut(),
            "lose" => self.lose(),
            "recreate" => self.handler.recreate(&instance("i1")).await.unwrap(),
            "crash" => self.crash(rest).await,
            _ if word.contains('=') => {}
            _ => {
                let answer = self.ask(&Request::parse(step)).await;
                assert!(answer.status < 300, "{step}: {answer:?}");
            }
        }
    }

    /// Polls an instance, `i1` unless named, until its operation has ended or it is gone.
    async fn settle(&mut self, id: &str) {
        let id = if id.is_empty() { "i1" } else { id };
        let poll = Request::parse(&format!("poll instance={id}"));
        for _ in 0..LONG {
            self.world.tick();
            let answer = self.ask(&poll).await;
            let state = answer.body.as_ref().and_then(|body| body["state"].as_str());
            if state != Some("in progress") {
                return;
            }
        }
        panic!(
            "the operation of {id} does not end:\n{}",
            self.world.log().join("\n")
        );
    }

    /// The cells of the instance's nodes are cut off.
    fn cut(&self) {
        let record = self.world.record(&instance("i1")).unwrap();
        for node in record.nodes.values() {
            self.world.set_up(node.cell.as_str(), false);
        }
    }

    /// The cells of the instance's nodes lose their disks, and nobody reports any more.
    fn lose(&self) {
        let record = self.world.record(&instance("i1")).unwrap();
        for node in record.nodes.values() {
            self.world.lose_disk(node.cell.as_str());
        }
        self.world.pass(40);
    }

    /// `<n> <request>`: the handler of the request is killed before its n-th call.
    async fn crash(&mut self, words: &str) {
        let (call, request) = words.split_once(' ').unwrap();
        let fate = Fate::Once(call.parse().unwrap(), Accident::DiesBefore);
        let doomed = self
            .world
            .handler_with(Process::new("doomed", fate), settings(self.ports));
        let app = app(&doomed, Posture::Strict);
        let request = Request::parse(request);
        assert!(doomed.ask(perform(&app, &request)).is_none(), "it was not killed");
    }

    /// Asks the broker.
    pub(crate) async fn ask(&mut self, request: &Request) -> Answer {
        let posture = if request.lenient {
            Posture::Lenient
        } else {
            Posture::Strict
        };
        let app = if self.has_store {
            app(&self.handler, posture)
        } else {
            let config = Config::parse("broker.yml", CONFIGURATION, []).unwrap();
            App::new(config).unwrap()
        };
        let answer = perform(&app, request).await;
        if answer.status == 202 {
            let body = answer.body.as_ref();
            self.operation = body
                .and_then(|body| body["operation"].as_str())
                .map(str::to_owned);
        }
        answer
    }

    /// So many seconds pass, and the schedule runs.
    pub(crate) async fn go_on(&self, seconds: u32) {
        for second in 0..seconds {
            self.world.tick();
            self.handler.reconcile().await.unwrap();
            if second % 5 == 0 {
                self.handler.mend().await.unwrap();
            }
        }
    }

    /// The world that it is played in.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The broker that is asked.
    pub(crate) fn handler(&self) -> &Handler {
        &self.handler
    }

    /// Everything that is stored about instances and ports.
    pub(crate) fn content(&self) -> BTreeMap<String, String> {
        let content = self.world.store.content().into_iter();
        let leaves = content.filter_map(|(key, value)| Some((key, value?)));
        let hint = |key: &str| {
            // A deprovision that finds nothing leaves a marker against provisions that stand still.
            key.starts_with("/tombstones/")
                || key.starts_with("/operations/")
                || ["/routing/nextport", "/routing/adopted"].contains(&key)
        };
        leaves.filter(|(key, _)| !hint(key)).collect()
    }
}

/// A situation's steps, those of the situations that it begins with included.
fn steps(table: &Table, situation: &str) -> Vec<String> {
    let own = table.situations.get(situation);
    let own = own.unwrap_or_else(|| panic!("no situation {situation}"));
    own.iter()
        .flat_map(|step| match table.situations.contains_key(step) {
            true => steps(table, step),
            false => vec![step.clone()],
        })
        .collect()
}

fn settings(ports: u16) -> Arc<Settings> {
    let range = format!("30000-{}", 29_999 + ports);
    let variables = [("PATRONI_BROKER_PORTS_RANGE", range.as_str())];
    let config = Config::parse("broker.yml", CONFIGURATION, variables).unwrap();
    setup::broker(config).unwrap().settings
}

fn app(handler: &Handler, posture: Posture) -> App {
    let pair = |username: &str, password: &str| shared::config::Credentials {
        username: username.to_owned(),
        password: SecretString::from(password),
    };
    let config = Config::parse("broker.yml", CONFIGURATION, []).unwrap();
    App {
        broker: handler.broker().clone(),
        credentials: vec![pair(USER, USER), pair("second", "another")],
        posture,
        ..App::new(config).unwrap()
    }
}

/// What local-runner does with a request, without HTTP.
async fn perform(app: &App, request: &Request) -> Answer {
    let route: Result<&Route, Error> = match request.route {
        Some((method, path)) => {
            let found = routes::ALL
                .into_iter()
                .find(|it| (it.method, it.path) == (method, path));
            Ok(found.unwrap())
        }
        None if routes::ALL.iter().any(|route| fits(route.path, &request.path)) => {
            Err(Error::MethodNotAllowed)
        }
        None => Err(Error::NoEndpoint),
    };
    let mut built = LambdaRequest::new(Body::Text(request.body.clone()));
    *built.method_mut() = request.method.parse().unwrap();
    for (name, value) in &request.headers {
        let name: lambda_http::http::HeaderName = name.parse().unwrap();
        built.headers_mut().insert(name, value.parse().unwrap());
    }
    let parameters: HashMap<String, String> = request
        .parameters
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let query: HashMap<String, String> = request.query.clone().into_iter().collect();
    let built = built
        .with_path_parameters(parameters)
        .with_query_string_parameters(QueryMap::from(query));
    let (head, body) = built.into_parts();
    let response = front_door::receive(app, route, head, async { Ok(body) }).await;
    let (parts, body) = response.into_parts();
    let text = String::from_utf8(body.to_vec()).unwrap();
    Answer::new(parts.status.as_u16(), parts.headers, text)
}

/// Whether a path is one of a route's.
fn fits(route: &str, path: &str) -> bool {
    let (route, path): (Vec<_>, Vec<_>) = (route.split('/').collect(), path.split('/').collect());
    let same = |(part, given): (&&str, &&str)| part == given || part.starts_with('{');
    route.len() == path.len() && route.iter().zip(&path).all(same)
}
