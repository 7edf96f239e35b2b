//! `demo`: shows a person who sees the project for the first time that it works, on real parts, and checks that it does.
//!
//! **Guarantees.** Nothing of it stays, however it ends (a SIGKILL excepted, after which the next demo tidies up), but a
//! file with the logs when it has failed. It collides neither with services of the system nor with a running `up`.

mod client;
mod failover;
mod failure;
mod place;
mod residue;
mod resize;
mod salvage;
mod scenario;
mod session;
mod timings;
mod writer;

use std::{panic::AssertUnwindSafe, process::ExitCode, time::Instant};

use futures_util::FutureExt;

use self::{place::Place, scenario::Scenario, timings::Timings};
use crate::{
    AnyError,
    interrupts::Interrupts,
    log,
    steps::{Step, Steps},
    up::{Facts, Stack},
};

/// How it ended.
enum End {
    Well(Timings),
    Failed(String),
    Interrupted,
}

/// Plays the demo; answers what the process should exit with.
///
/// # Errors
/// When it could not even begin, or could not be tidied up.
pub(crate) async fn run(mut interrupts: Interrupts) -> Result<ExitCode, AnyError> {
    let steps = Steps::new();
    for path in place::sweep().await {
        steps.line(&format!(
            "Removed what an interrupted demo left in {}.\n",
            path.display()
        ));
    }
    let place = Place::new();
    let outcome = play(&place, steps, &mut interrupts).await;
    // Whatever happened, also before there was a stack.
    place.remove()?;
    outcome
}

async fn play(place: &Place, steps: Steps, interrupts: &mut Interrupts) -> Result<ExitCode, AnyError> {
    steps.line("A PostgreSQL cluster from nothing. All parts are real and run on this machine.\n");
    let mut stack = Stack::prepare(place.settings()?).await?;
    let facts = stack.facts().clone();
    log::to_file(&facts.log)?;
    let end = tokio::select! {
        // A panic must not leave anything running either.
        outcome = AssertUnwindSafe(Scenario::new(&mut stack, steps).play()).catch_unwind() => match outcome {
            Ok(Ok(timings)) => End::Well(timings),
            Ok(Err(failure)) => End::Failed(failure.to_string()),
            Err(_) => End::Failed("  the demo itself panicked".to_owned()),
        },
        () = interrupts.next() => End::Interrupted,
    };
    let explanation = match &end {
        End::Failed(failure) => explain(failure, place, &facts),
        End::Well(_) | End::Interrupted => String::new(),
    };
    let step = steps.begin("stopping everything (Ctrl-C: at once)");
    let began = Instant::now();
    let hurry = async {
        // The data goes anyway; only after a success it is shown that everything stops in order.
        if let End::Well(_) = end {
            interrupts.next().await;
        }
    };
    stack.stop(hurry).await?;
    same_as_before(&stack, place, step)?;
    match end {
        End::Well(mut timings) => {
            timings.add("everything stopped", began.elapsed());
            steps.line(&format!("\n{}", timings.table()));
            Ok(ExitCode::SUCCESS)
        }
        End::Failed(_) => {
            steps.line(&explanation);
            Ok(ExitCode::FAILURE)
        }
        End::Interrupted => {
            steps.line("Interrupted; nothing is left.");
            Ok(ExitCode::from(130))
        }
    }
}

/// Removes the directory and makes sure that nothing is left.
fn same_as_before(stack: &Stack, place: &Place, step: Step) -> Result<(), AnyError> {
    let left = stack.processes()?;
    place.remove()?;
    failure::same("processes that are left", &Vec::new(), &left)?;
    failure::same("the directory is left", &false, &place.directory().exists())?;
    step.done("stopped everything: no process and no directory is left");
    Ok(())
}

/// Keeps the logs; answers what a person is told.
fn explain(failure: &str, place: &Place, facts: &Facts) -> String {
    let file = place.kept_log();
    let kept = match salvage::keep(place.directory(), &file) {
        Ok(()) => format!("All logs: {}", file.display()),
        Err(error) => format!("The logs could not be kept in {}: {error}", file.display()),
    };
    let words: Vec<_> = salvage::last_words(&facts.log)
        .into_iter()
        .map(|line| format!("  {line}\n"))
        .collect();
    let words = match words.is_empty() {
        true => String::new(),
        false => format!("The log's last words:\n{}\n", words.concat()),
    };
    format!("\nThe demo has failed.\n{failure}\n\n{words}{kept}")
}
