//! `recreate`: an operator has an instance made anew whose every copy is lost, and waits for it.

use shared::{config::Config, service::recreate::recreate, setup};

use crate::{
    AnyError,
    cli::LostInstance,
    operation::{say, wait},
};

/// Begins, or joins, and tells how it goes until it has ended.
pub(crate) async fn run(lost: &LostInstance) -> Result<(), AnyError> {
    let broker = setup::broker(Config::load(lost.file.config.as_deref())?)?;
    let id = &lost.instance;
    let operation = recreate(&broker, id).await?;
    say(&format!("instance {id} is being made anew"));
    wait(&broker, id, operation.id, say).await?;
    say(&format!("instance {id} stands again, empty"));
    Ok(())
}
