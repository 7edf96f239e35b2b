//! Keys of Patroni that nobody could have meant.

use ::tests::fuzz::fuzz;

use super::*;

#[test]
fn verdicts() {
    let document = |case: Case| {
        let keys: serde_json::Map<_, _> = case
            .keys
            .into_iter()
            .map(|(key, (value, _))| (key, value))
            .collect();
        Value::from(keys).to_string()
    };
    let documents = [
        Case::new(),
        Case::new().asynchronous(),
        Case::new().key("failover", json!({})),
    ]
    .map(document);
    let samples: Vec<&str> = documents.iter().map(String::as_str).collect();
    fuzz("Patroni's keys at a failover", &samples, |input| {
        let Ok(Value::Object(keys)) = serde_json::from_slice(input) else {
            return false;
        };
        let keys = keys
            .into_iter()
            .map(|(key, value)| (key, (value, Some(25))))
            .collect();
        let verdict = Case { keys, ..Case::new() }.verdict();
        let asked = Case::new().verdict();
        verdict == asked
    });
}
