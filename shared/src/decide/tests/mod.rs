//! The rules of design.md, 4 and 5: each by a table of situations, and all of them by property.

mod arbitrary;
mod bootstrap;
mod credentials;
mod deprovision;
mod descriptions;
mod fixture;
mod missing;
mod moving;
mod placing;
mod port;
mod properties;
mod recreation;
mod settings;
mod standing;
mod starting;
mod update;
