//! How an instance comes by its public port.

use super::fixture::{Case, PORT, port};
use crate::{
    effect::{Effect, PortFact},
    record::{OperationState, Phase, PortClaim},
};

#[test]
fn a_claimed_instance_tries_its_candidate() {
    let decision = Case::claimed(2).decide();
    assert!(decision.has(&Effect::ClaimPort(port(PORT))));
    assert_eq!(decision.starts(), []);
}

#[test]
fn a_port_that_is_ours_is_written_down_before_it_is_allocated() {
    let case = Case::claimed(2).with(|case| case.facts.port = PortFact::Ours(port(PORT)));
    let decision = case.decide();
    assert_eq!(decision.record.port, PortClaim::Owned { port: port(PORT) });
    assert!(decision.has(&Effect::Allocate(port(PORT))));
    assert!(!decision.has(&Effect::ClaimPort(port(PORT))));
}

#[test]
fn a_taken_port_is_followed_by_the_next_candidate() {
    let taken = PortFact::Taken {
        port: port(PORT),
        next: port(30007),
    };
    let decision = Case::claimed(2).with(|case| case.facts.port = taken).decide();
    let next = PortClaim::Candidate {
        port: port(30007),
        misses: 1,
    };
    assert_eq!(decision.record.port, next);
    assert!(decision.has(&Effect::ClaimPort(port(30007))));
}

#[test]
fn what_was_found_out_about_another_candidate_decides_nothing() {
    let facts = [
        PortFact::Ours(port(30001)),
        PortFact::Taken {
            port: port(30001),
            next: port(30002),
        },
    ];
    for fact in facts {
        let case = Case::claimed(2).with(|case| case.facts.port = fact);
        let decision = case.decide();
        assert_eq!(decision.record.port, case.record.port, "{fact:?}");
        assert!(decision.has(&Effect::ClaimPort(port(PORT))));
    }
}

#[test]
fn an_exhausted_range_fails_the_provision() {
    let case = Case::claimed(2).with(|case| case.facts.port = PortFact::Exhausted);
    let decision = case.decide();
    assert_eq!(
        decision.told(),
        (
            OperationState::Failed,
            "no public port is free: all ports of the range are owned or in quarantine. \
             Delete the instance, or send the same request again to go on with it."
        )
    );
    assert_eq!(decision.effects, [Effect::Unmark]);
}

#[test]
fn an_exhausted_range_does_not_matter_to_whoever_owns_a_port() {
    let case = Case::assigned(2).with(|case| case.facts.port = PortFact::Exhausted);
    assert_eq!(case.decide().told().0, OperationState::InProgress);
}

#[test]
fn an_owned_port_is_never_given_up_by_a_living_instance() {
    let facts = [
        PortFact::Unknown,
        PortFact::Ours(port(30001)),
        PortFact::Taken {
            port: port(PORT),
            next: port(30001),
        },
    ];
    for fact in facts {
        let case = Case::standing(2).with(|case| case.facts.port = fact);
        assert_eq!(case.decide().record.port, case.record.port, "{fact:?}");
    }
}

#[test]
fn an_allocation_that_may_have_been_lost_is_written_again() {
    let lost = Case::standing(2).with(|case| case.facts.prepared = Some(Err("refused".to_owned())));
    assert!(lost.decide().has(&Effect::Allocate(port(PORT))));
    let never_tried = Case::standing(2).with(|case| case.facts.prepared = None);
    assert!(!never_tried.decide().has(&Effect::Allocate(port(PORT))));
}

#[test]
fn no_cell_is_asked_before_the_port_is_owned() {
    let case = Case::assigned(2).with(|case| {
        case.record.port = PortClaim::Candidate {
            port: port(PORT),
            misses: 0,
        };
    });
    assert_eq!(case.clone().after(100).decide().starts(), []);
    // As soon as it is, all are asked at once.
    let decision = case
        .with(|case| case.facts.port = PortFact::Ours(port(PORT)))
        .decide();
    assert_eq!(decision.starts().len(), 2);
    assert_eq!(decision.phase(1), Some(Phase::Assigned));
}
