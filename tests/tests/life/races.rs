//! Many handlers at once.
