//! Inputs that nobody meant: documents with hostile changes, and bytes without any sense.
//!
//! A run takes a moment, always with the same inputs. With `FUZZ_MINUTES` it takes so long, with other inputs each time.

use std::{
    cell::Cell,
    env,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    sample::Index,
    string::string_regex,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// How long a parser is tried in an ordinary run.
const MOMENT: Duration = Duration::from_millis(1500);
/// At least so many inputs are tried, however slow the machine is.
const LEAST: u32 = 64;

/// Tries inputs that come from the samples. `accepts` says whether an input was taken for a valid one; it panics when
/// something is wrong.
///
/// # Panics
/// With the smallest input that `accepts` panics on; when every input, or none, is a valid one: then nothing was tried.
#[allow(clippy::disallowed_methods, reason = "a person says how long to look")]
pub fn fuzz(name: &str, samples: &[&str], accepts: impl Fn(&[u8]) -> bool) {
    let minutes: Option<f64> = env::var("FUZZ_MINUTES").ok().map(|text| text.parse().unwrap());
    let time = minutes.map_or(MOMENT, |minutes| Duration::from_secs_f64(minutes * 60.0));
    // Another seed each time if somebody waits for it.
    let seed = minutes.map_or([Uuid::nil(); 2], |_| [Uuid::new_v4(), Uuid::new_v4()]);
    let config = Config {
        cases: LEAST,
        failure_persistence: None,
        ..Config::default()
    };
    let inputs = inputs(samples);
    let (tried, accepted) = (Cell::new(0u64), Cell::new(0u64));
    let end = Instant::now() + time;
    for batch in 0u64.. {
        let mut bytes = seed.map(Uuid::into_bytes).concat();
        bytes[..8].copy_from_slice(&batch.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        // A runner is done when it has tried its cases.
        let mut runner = TestRunner::new_with_rng(config.clone(), rng);
        let run = runner.run(&inputs, |Input(input)| {
            tried.set(tried.get() + 1);
            accepted.set(accepted.get() + u64::from(accepts(&input)));
            Ok(())
        });
        run.unwrap_or_else(|failure| panic!("{name}: {failure}"));
        if Instant::now() > end {
            break;
        }
    }
    let (tried, accepted) = (tried.get(), accepted.get());
    println!("| {name} | {tried} inputs | {accepted} valid |");
    assert!(
        0 < accepted && accepted < tried,
        "{name}: {accepted} of {tried} are valid"
    );
}

/// Bytes that are shown as text.
#[derive(Clone)]
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// What is done to a document.
#[derive(Debug, Clone)]
enum Change {
    /// Another value in the place of one.
    Replace(Index, Value),
    /// One value in the place of another of the same document.
    Move(Index, Index),
    /// A field that is away.
    Remove(Index),
    /// A value inside so many lists.
    Bury(Index, usize),
}

/// What is done to bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, usize),
    Repeat(Index, usize, usize),
    End(Index),
}

fn inputs(samples: &[&str]) -> impl Strategy<Value = Input> {
    let samples: Vec<String> = samples.iter().copied().map(str::to_owned).collect();
    let any_sample = prop::sample::select(samples);
    let changed =
        (any_sample.clone(), prop::collection::vec(change(), 0..4)).prop_map(|(sample, changes)| {
            let Ok(mut document) = serde_json::from_str::<Value>(&sample) else {
                return sample.into_bytes();
            };
            for change in changes {
                change.apply(&mut document);
            }
            document.to_string().into_bytes()
        });
    let damaged = (any_sample, prop::collection::vec(damage(), 0..4)).prop_map(|(sample, damages)| {
        let mut bytes = sample.into_bytes();
        for damage in damages {
            damage.apply(&mut bytes);
        }
        bytes
    });
    let noise = prop::collection::vec(any::<u8>(), 0..64);
    prop_oneof![6 => changed, 3 => damaged, 1 => noise].prop_map(Input)
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        5 => (at(), hostile()).prop_map(|(at, value)| Change::Replace(at, value)),
        2 => (at(), any::<Index>()).prop_map(|(from, to)| Change::Move(from, to)),
        2 => at().prop_map(Change::Remove),
        1 => (at(), prop_oneof![1..4usize, Just(100)]).prop_map(|(at, depth)| Change::Bury(at, depth)),
    ]
}

/// Values at the edges of what types hold, and of the wrong type.
fn hostile() -> impl Strategy<Value = Value> {
    let numbers = prop_oneof![
        prop::sample::select(vec![
            json!(0),
            json!(1),
            json!(-1),
            json!(65535),
            json!(65536),
            json!(u32::MAX),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(i64::MAX),
            json!(0.5),
            json!(1e300),
            json!(-0.0),
        ]),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ];
    let texts = prop_oneof![
        prop::sample::select(vec![
            "",
            " ",
            "/",
            "..",
            "%2F",
            "\u{0}",
            "\u{202e}x",
            "null",
            "-1",
            "0",
            "65536",
            "9999-12-30T22:00:00.999999999Z",
            "-009999-01-02T01:59:59Z",
            "1970-01-01T00:00:00Z",
            "2026-11-23T00:00:60Z",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "postgres://u:p@[::1]:5432/x?y",
            "postgres://:",
            "http://",
            "http://[",
            "running",
            "in_progress",
        ])
        .prop_map(str::to_owned),
        string_regex("\\PC{0,12}").unwrap(),
        (1000usize..100_000).prop_map(|length| "x".repeat(length)),
    ];
    prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        3 => numbers,
        4 => texts.prop_map(Value::from),
        1 => prop::sample::select(vec![json!([]), json!({}), json!([null]), json!({"": {}}), json!([[], {}])]),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    let tokens = prop::sample::select(vec![
        "\0",
        "\"",
        "\\",
        "{",
        "}",
        "[",
        ",",
        ":",
        "\r\n",
        "\n",
        "\\u0000",
        "\\ud800",
        "é",
        "\u{feff}",
        " ",
        "/",
        "0",
        "9999999999999999999999",
        "-",
        "e9",
        "null",
        "%",
        "+",
        "=",
        "&",
        "\r\n\r\n",
    ]);
    let inserted = prop_oneof![
        tokens.prop_map(|token| token.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..8),
    ];
    prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (at(), inserted).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (at(), 1..16usize).prop_map(|(at, length)| Damage::Cut(at, length)),
        (at(), 1..32usize, 2..200usize).prop_map(|(at, length, times)| Damage::Repeat(at, length, times)),
        at().prop_map(Damage::End),
    ]
}

impl Change {
    fn apply(self, document: &mut Value) {
        let count = count(document);
        match self {
            Self::Replace(at, value) => *place(document, at.index(count)) = value,
            Self::Move(from, to) => {
                let moved = place(document, from.index(count)).clone();
                *place(document, to.index(count)) = moved;
            }
            Self::Remove(at) => {
                if let Value::Object(fields) = place(document, at.index(count)) {
                    let names: Vec<String> = fields.keys().cloned().collect();
                    if !names.is_empty() {
                        fields.remove(&names[at.index(names.len())]);
                    }
                }
            }
            Self::Bury(at, depth) => {
                let place = place(document, at.index(count));
                for _ in 0..depth {
                    *place = json!([place.take()]);
                }
            }
        }
    }
}

impl Damage {
    fn apply(self, bytes: &mut Vec<u8>) {
        let count = bytes.len();
        let end = |from: usize, length: usize| count.min(from + length);
        match self {
            Self::Insert(at, inserted) => {
                let at = at.index(count + 1);
                bytes.splice(at..at, inserted);
            }
            _ if count == 0 => {}
            Self::Flip(at, bit) => bytes[at.index(count)] ^= 1 << bit,
            Self::Cut(at, length) => {
                let at = at.index(count);
                bytes.drain(at..end(at, length));
            }
            Self::Repeat(at, length, times) => {
                let at = at.index(count);
                let repeated = bytes[at..end(at, length)].repeat(times);
                bytes.splice(at..at, repeated);
            }
            Self::End(at) => bytes.truncate(at.index(count)),
        }
    }
}

/// How many values there are in a document, the document included.
fn count(value: &Value) -> usize {
    1 + children(value).map(count).sum::<usize>()
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(fields) => Box::new(fields.values()),
        _ => Box::new(std::iter::empty()),
    }
}

/// The n-th value of a document.
fn place(value: &mut Value, n: usize) -> &mut Value {
    if n == 0 {
        return value;
    }
    let mut left = n - 1;
    let sizes: Vec<usize> = children(value).map(count).collect();
    let mut chosen = 0;
    while left >= sizes[chosen] {
        left -= sizes[chosen];
        chosen += 1;
    }
    let child = match value {
        Value::Array(items) => &mut items[chosen],
        Value::Object(fields) => fields
            .values_mut()
            .nth(chosen)
            .expect("the child that was counted"),
        _ => panic!("what has no children has none that were counted"),
    };
    place(child, left)
}
