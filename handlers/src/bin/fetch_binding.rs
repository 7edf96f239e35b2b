//! The endpoint `fetch_binding` as a function.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    handlers::function::run(&handlers::routes::FETCH_BINDING).await
}
