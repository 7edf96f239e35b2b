//! Other passwords for nodes and broker: who is told when, and when the former ones are given up.

use super::fixture::{Case, DEADLINE, node, operation};
use crate::{
    database::Reach,
    decide::credentials::rotated,
    effect::{Effect, StartAnswer},
    record::{FormerCredentials, OperationKind, OperationState},
};

/// An instance of two nodes whose passwords are being changed; nothing was done yet.
fn rotating() -> Case {
    Case::standing(2).with(|case| {
        case.record = rotated(case.record.clone(), "new");
        case.record.operation = Some(operation(OperationKind::Rotate));
    })
}

impl Case {
    /// The roles have the passwords.
    fn changed(mut self) -> Self {
        self.facts.passwords = Some(Ok(Reach::All));
        self
    }

    /// The cell of the n-th node has said that it has passwords of this generation.
    fn told(mut self, n: u128, generation: Option<u32>) -> Self {
        let answer = StartAnswer::Accepted(generation);
        self.facts.started.insert(node(n), answer);
        self
    }
}

#[test]
fn a_change_counts_the_generation_up_and_keeps_what_was() {
    let before = Case::standing(2).record;
    let after = rotated(before.clone(), "new");
    let former = FormerCredentials {
        master_key: before.master_key,
        generation: 1,
    };
    assert_eq!(after.former_credentials, Some(former));
    assert_eq!(
        (after.master_key.as_str(), after.credential_generation),
        ("new", 2)
    );
    assert!(after.nodes.values().all(|node| node.credentials_due));
    assert!(!after.is_at_rest() || after.operation.is_some());
}

#[test]
fn the_roles_come_first_and_then_every_cell() {
    let first = rotating().decide();
    assert!(first.has(&Effect::ChangePasswords));
    assert_eq!(first.starts(), []);
    let refused = rotating().with(|case| case.facts.passwords = Some(Err("no".to_owned())));
    let refused = refused.decide();
    assert!(!refused.has(&Effect::ChangePasswords), "not twice in a pass");
    assert_eq!(refused.starts(), []);
    // A replica that has not received the change may need the new password for that.
    for reach in [Reach::Leader, Reach::All] {
        let changed = rotating().with(|case| case.facts.passwords = Some(Ok(reach)));
        assert_eq!(changed.decide().starts(), [node(1), node(2)], "{reach:?}");
    }
}

#[test]
fn it_has_ended_when_every_cell_has_said_so() {
    for (answer, state) in [
        (Some(2), OperationState::Succeeded),
        (Some(3), OperationState::Succeeded),
        (Some(1), OperationState::InProgress),
        (None, OperationState::InProgress),
    ] {
        let case = rotating().changed().told(1, Some(2)).told(2, answer);
        let decision = case.decide();
        assert_eq!(decision.told().0, state, "{answer:?}");
        let is_over = state == OperationState::Succeeded;
        assert_eq!(
            decision.record.former_credentials.is_none(),
            is_over,
            "{answer:?}"
        );
        assert_eq!(decision.has(&Effect::Unmark), is_over, "{answer:?}");
        assert!(!decision.record.nodes[&node(1)].credentials_due);
    }
}

#[test]
fn former_passwords_stay_while_a_replica_may_have_missed_the_change() {
    let told = || rotating().changed().told(1, Some(2)).told(2, Some(2));
    for (why, case) in [
        ("it does not run", told().silent(2)),
        ("nobody leads", told().leaderless()),
        (
            "it does not stream",
            told().publishes(2, super::fixture::member("running", "replica")),
        ),
        (
            "it has not received the change",
            told().with(|case| case.facts.passwords = Some(Ok(Reach::Leader))),
        ),
        (
            "the roles were not looked at in this pass",
            told().with(|case| case.facts.passwords = None),
        ),
    ] {
        let decision = case.decide();
        assert!(decision.record.former_credentials.is_some(), "{why}");
        assert_eq!(decision.told().0, OperationState::InProgress, "{why}");
    }
}

#[test]
fn what_was_given_up_at_its_deadline_says_why_and_goes_on_by_itself() {
    let late = rotating().changed().told(1, Some(2)).after(DEADLINE + 1);
    let decision = late.decide();
    let (state, description) = decision.told();
    assert_eq!(state, OperationState::Failed);
    assert_eq!(
        description,
        format!(
            "not finished in time: cell c2 has not taken the new passwords over for node {}. It goes on as soon as that \
             is possible.",
            node(2)
        )
    );
    assert!(!decision.has(&Effect::Unmark), "somebody must come by");
    let idle = late.next().with(|case| {
        case.facts.passwords = None;
        case.facts.marked = true;
    });
    assert!(idle.decide().has(&Effect::ChangePasswords));
    let tells = idle.changed();
    assert_eq!(tells.decide().starts(), [node(2)]);
    let over = tells.told(2, Some(2)).decide();
    assert_eq!(over.record.former_credentials, None);
    assert!(over.has(&Effect::Unmark));
    assert_eq!(over.told().0, OperationState::Failed, "what was told stays told");
}

#[test]
fn nobody_is_told_anything_when_nothing_changes() {
    let decision = Case::standing(2).decide();
    assert!(!decision.has(&Effect::ChangePasswords));
    assert_eq!(decision.starts(), []);
}
