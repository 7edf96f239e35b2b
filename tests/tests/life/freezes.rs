//! Handlers that stand still for minutes.
