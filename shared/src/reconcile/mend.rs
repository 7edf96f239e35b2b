//! What differs from a record and is put right.

/// The target of the lines that tell of it. Their fields: `kind` ([`Mend::as_str`]), `instance`, `why`.
pub const TARGET: &str = "drift";

/// What a run mends: the word used in the log and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// The key that says which cell holds a node.
    Projection,
    /// The owner key of a port.
    PortOwner,
    /// The public port of an instance.
    Allocation,
    /// A port that nobody owns any more went to quarantine.
    PortQuarantined,
    /// A port that an older router gave away got an owner.
    PortAdopted,
    /// The marker of an operation.
    Marker,
    /// A provision that nobody waits for was taken back.
    Provision,
    /// Patroni's dynamic configuration.
    Settings,
    /// A binding of an earlier life.
    Binding,
    /// A node that is gone for good was still on its cell.
    NodeRemoved,
    /// A cell did not know a node that it should run.
    NodeStarted,
    /// What counts an instance among those of its plan.
    Reservation,
    /// A key of an instance that is gone.
    Leftover,
}

impl Mend {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Projection,
        Self::PortOwner,
        Self::Allocation,
        Self::PortQuarantined,
        Self::PortAdopted,
        Self::Marker,
        Self::Provision,
        Self::Settings,
        Self::Binding,
        Self::NodeRemoved,
        Self::NodeStarted,
        Self::Reservation,
        Self::Leftover,
    ];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Projection => "projection",
            Self::PortOwner => "port_owner",
            Self::Allocation => "allocation",
            Self::PortQuarantined => "port_quarantined",
            Self::PortAdopted => "port_adopted",
            Self::Marker => "marker",
            Self::Provision => "provision",
            Self::Settings => "settings",
            Self::Binding => "binding",
            Self::NodeRemoved => "node_removed",
            Self::NodeStarted => "node_started",
            Self::Reservation => "reservation",
            Self::Leftover => "leftover",
        }
    }
}
