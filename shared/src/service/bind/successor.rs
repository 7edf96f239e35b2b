//! Rotation: a binding that takes the place of another one, with credentials of its own (osb-reference.md, 9). Both can log in
//! until they are unbound.

use super::{Bind, read_binding};
use crate::{
    binding::{BindRequest, BindingState, Successor},
    broker::Broker,
    error::Error,
    record::Record,
};

/// Refuses a request that names a plan whose bindings are not rotated, whatever is there.
pub(super) fn check(broker: &Broker, wanted: &Successor) -> Result<(), Error> {
    let catalog = &broker.settings.catalog;
    if let (Some(service), Some(plan)) = (&wanted.service_id, &wanted.plan_id)
        && !catalog.plan(service, plan)?.1.binding_rotatable
    {
        return Err(unrotatable());
    }
    Ok(())
}

/// What the successor shall be: what is not given is the predecessor's, but for the plan, which may have changed since.
///
/// # Errors
/// `BadRequest` when the predecessor is no usable binding of this instance, when other parameters than its own are given,
/// or when the plan does not have its bindings rotated.
pub(super) async fn request(
    broker: &Broker,
    command: &Bind,
    record: &Record,
    wanted: &Successor,
) -> Result<BindRequest, Error> {
    let predecessor = read_binding(broker, &command.instance, &wanted.predecessor).await?;
    let predecessor = predecessor.filter(|(binding, _)| {
        binding.instance_incarnation == record.incarnation && binding.state == BindingState::Ready
    });
    let Some((predecessor, _)) = predecessor else {
        return Err(Error::BadRequest(format!(
            "this instance has no binding {} whose place could be taken",
            wanted.predecessor
        )));
    };
    let of_the_plan = BindRequest {
        plan_id: record.known_plan().to_owned(),
        ..predecessor.request
    };
    let request = wanted.like(&of_the_plan);
    if request.parameters != of_the_plan.parameters {
        return Err(Error::BadRequest(
            "the parameters of a binding that takes another one's place are those of the other".to_owned(),
        ));
    }
    let catalog = &broker.settings.catalog;
    let (_, plan) = catalog.plan(&request.service_id, &request.plan_id)?;
    if !plan.binding_rotatable {
        return Err(unrotatable());
    }
    Ok(request)
}

fn unrotatable() -> Error {
    Error::BadRequest("bindings of this plan cannot be rotated".to_owned())
}
