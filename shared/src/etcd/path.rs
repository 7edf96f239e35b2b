//! Keys and fields as they go over the wire.

use std::fmt::Write;

/// Percent-encodes everything that RFC 3986 does not call unreserved: right for a path segment, a query and a form.
pub(super) fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

/// The request path of a key. `None` for a text that would reach etcd as another key than it says: Go's server cleans
/// `.`, `..` and doubled slashes away before etcd sees the path.
pub(super) fn path(key: &str) -> Option<String> {
    let mut path = String::from("/v2/keys");
    let below = key.strip_prefix('/')?;
    if below.is_empty() {
        return Some(path + "/");
    }
    for segment in below.split('/') {
        if matches!(segment, "" | "." | "..") {
            return None;
        }
        path.push('/');
        encode(segment, &mut path);
    }
    Some(path)
}

/// The fields of a query or a form.
pub(super) fn fields(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        encode(value, &mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded_and_slashes_are_not() {
        assert_eq!(
            path("/a b/c%2F?#&ü:1").as_deref(),
            Some("/v2/keys/a%20b/c%252F%3F%23%26%C3%BC%3A1")
        );
        assert_eq!(path("/").as_deref(), Some("/v2/keys/"));
    }

    #[test]
    fn a_text_that_would_become_another_key_is_refused() {
        for key in ["", "a", "//", "/a/", "/a//b", "/a/../b", "/./a", "/a/.."] {
            assert_eq!(path(key), None, "{key}");
        }
    }

    #[test]
    fn fields_are_joined_and_encoded() {
        assert_eq!(
            fields(&[("value", "a=1&b=<ü> +"), ("ttl", "3")]),
            "value=a%3D1%26b%3D%3C%C3%BC%3E%20%2B&ttl=3"
        );
        assert_eq!(fields(&[]), "");
    }
}
