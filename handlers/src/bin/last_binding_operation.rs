//! The endpoint `last_binding_operation` as a function.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    handlers::function::run(&handlers::routes::LAST_BINDING_OPERATION).await
}
