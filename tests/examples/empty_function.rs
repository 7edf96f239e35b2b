//! The floor of a function's size and start: one that answers every request with nothing, with what all functions here
//! are made of beside their own code. `make bench` measures the handlers against it.

use lambda_http::{Body, Error, Request, Response, run, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let handle = async |_: Request| Ok::<_, Error>(Response::new(Body::from("{}\n")));
    run(service_fn(handle)).await
}
