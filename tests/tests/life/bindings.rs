//! Bindings, undisturbed and not.
