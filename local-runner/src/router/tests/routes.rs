//! The rules that make routes.
