//! The function `reconcile`, which a schedule starts.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    handlers::function::run_on_schedule().await
}
