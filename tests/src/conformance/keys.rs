//! Keys, values and indexes.

use shared::store::{Child, Read};

use super::{Subject, assert_unexpected, value};

/// Whatever text a value is, it is read as it was written.
pub async fn every_value_comes_back_as_it_was(subject: &dyn Subject) {
    let store = subject.store();
    let long = "0123456789abcdef".repeat(16 * 1024);
    let values = [
        "",
        " ",
        "a=b&c=d;e",
        "<b>&amp;</b>",
        "100%+1%2B",
        "Grüße, 世界 🐘",
        "line\r\nline\n\ttab\u{0}\u{7f}\u{2028}",
        r#"{"json":"\"\\"}"#,
        "'\"`$(x)\\",
        &long,
    ];
    for (number, text) in values.into_iter().enumerate() {
        let key = format!("/t/v{number}");
        let index = store.create(&key, text, None).await.unwrap();
        assert_eq!(value(&store, &key).await.as_deref(), Some(text));
        store.compare_and_swap(&key, text, index, None).await.unwrap();
        let tree = store.tree("/t", Read::Local).await.unwrap().unwrap();
        assert_eq!(tree.leaves[&key].value, text);
    }
}

/// Whatever text a segment of a key is, it names that key and no other.
pub async fn every_key_comes_back_as_it_was(subject: &dyn Subject) {
    let store = subject.store();
    let names = [
        "0f5c1670-6dc3-11e5-bc08-6c4008a663f0",
        "10.244.21.8:cf-node:5432",
        "a b",
        "a+b",
        "a%2Fb",
        "a%b",
        "?x=y",
        "#f",
        "a&b=c;d",
        "ü世🐘",
        "...",
        "a.",
        "'\"<>\\^`{|}",
        "@!$*(),~[]",
    ];
    for name in names {
        let key = format!("/t/{name}/leaf");
        let index = store.create(&key, name, None).await.unwrap();
        assert_eq!(value(&store, &key).await.as_deref(), Some(name));
        let listed = store.list("/t", Read::Quorum).await.unwrap().unwrap();
        assert_eq!(listed.get(name), Some(&Child::Directory), "{name}");
        let tree = store.tree("/t", Read::Quorum).await.unwrap().unwrap();
        assert!(tree.leaves.contains_key(&key), "{name}");
        store.compare_and_delete(&key, index).await.unwrap();
        store.remove_empty_directory(&format!("/t/{name}")).await.unwrap();
    }
}

/// A text that would be another key to etcd is not sent.
pub async fn a_name_that_is_no_key_is_unexpected(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.set("/t/a", "1", None).await.unwrap();
    for key in ["", "t/a", "/t//a", "/t/a/", "/t/./a", "/t/b/../a", "/.."] {
        assert_unexpected(store.get(key, Read::Quorum).await, key);
        assert_unexpected(store.list(key, Read::Quorum).await, key);
        assert_unexpected(store.tree(key, Read::Quorum).await, key);
        assert_unexpected(store.create(key, "2", None).await, key);
        assert_unexpected(store.set(key, "2", None).await, key);
        assert_unexpected(store.compare_and_swap(key, "2", index, None).await, key);
        assert_unexpected(store.compare_and_delete(key, index).await, key);
        assert_unexpected(store.remove_empty_directory(key).await, key);
    }
    assert_eq!(value(&store, "/t/a").await.as_deref(), Some("1"));
}

/// The index that a write answers is the one that reads show, and that the next condition takes.
pub async fn an_index_is_that_of_the_last_write(subject: &dyn Subject) {
    let store = subject.store();
    let mut index = store.create("/t/a", "0", None).await.unwrap();
    for number in 1..5 {
        let read = store.get("/t/a", Read::Quorum).await.unwrap().unwrap().index;
        assert_eq!(read, index);
        index = store
            .compare_and_swap("/t/a", &number.to_string(), read, None)
            .await
            .unwrap();
    }
}

/// Every write has an index of its own, greater than those before, whatever key it is for; reads take none.
pub async fn indexes_of_the_store_only_grow(subject: &dyn Subject) {
    let store = subject.store();
    let first = store.set("/t/a", "1", None).await.unwrap();
    let second = store.set("/t/b/c", "1", None).await.unwrap();
    store.tree("/t", Read::Quorum).await.unwrap();
    let third = store.set("/t/a", "1", None).await.unwrap();
    store.compare_and_delete("/t/a", third).await.unwrap();
    let last = store.set("/t/a", "1", None).await.unwrap();
    let steps = [first, second, third, last].map(|index| index.get() - first.get());
    assert_eq!(steps, [0, 1, 2, 4]);
}
