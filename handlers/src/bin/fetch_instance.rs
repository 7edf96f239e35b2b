//! The endpoint `fetch_instance` as a function.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    handlers::function::run(&handlers::routes::FETCH_INSTANCE).await
}
