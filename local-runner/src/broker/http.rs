//! The HTTP port: turns requests into those that a gateway would send to the functions.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{self, Body as HttpBody},
    extract::{RawPathParams, Request as HttpRequest},
    http::{Method, StatusCode},
    response::Response as HttpResponse,
    routing::{MethodFilter, on},
};
use handlers::{app::App, front_door, response::json_response, routes};
use lambda_http::{Body, Request, RequestExt, Response};
use serde_json::json;
use tokio::net::TcpListener;

/// The largest body of a request. The schemas of parameters are far smaller.
const BODY_LIMIT: usize = 1 << 20;

/// How long requests that are under way may take when the broker is told to stop. What they do is safe to leave.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

pub(super) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), std::io::Error> {
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let server = axum::serve(listener, router(&app)).with_graceful_shutdown(async move {
        stop.await;
        stopping.send_replace(true);
    });
    let limit = async move {
        // Ends only once the sender has said so; a sender that is gone means that the server has ended already.
        if stopped.wait_for(|stopping| *stopping).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    tokio::select! {
        served = server.into_future() => served,
        () = limit => Ok(()),
    }
}

fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    for route in routes::ALL {
        let app = Arc::clone(app);
        let handler = move |parameters: RawPathParams, request: HttpRequest| async move {
            let parameters: HashMap<String, String> = parameters
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            match read(request, parameters).await {
                Ok(request) => write(front_door::pass(&app, route, request).await),
                Err(refusal) => write(*refusal),
            }
        };
        let method = Method::from_bytes(route.method.as_bytes()).unwrap_or_default();
        let filter = MethodFilter::try_from(method).unwrap_or(MethodFilter::GET);
        router = router.route(route.path, on(filter, handler));
    }
    let refuse = |status, text: &'static str| {
        move || async move { write(json_response(status, &json!({ "description": text }))) }
    };
    router
        .fallback(refuse(StatusCode::NOT_FOUND, "there is no such endpoint"))
        .method_not_allowed_fallback(refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "this endpoint has no such method",
        ))
}

/// The request as lambda_http's functions see it: path and query parameters apart.
async fn read(
    request: HttpRequest,
    parameters: HashMap<String, String>,
) -> Result<Request, Box<Response<Body>>> {
    let (parts, content) = request.into_parts();
    let too_large = |_| {
        let text = json!({ "description": format!("the request body is larger than {BODY_LIMIT} bytes, or was cut off") });
        Box::new(json_response(StatusCode::PAYLOAD_TOO_LARGE, &text))
    };
    let content = body::to_bytes(content, BODY_LIMIT).await.map_err(too_large)?;
    let query = parts.uri.query().and_then(|query| {
        query
            .parse::<lambda_http::aws_lambda_events::query_map::QueryMap>()
            .ok()
    });
    let request = Request::from_parts(parts, Body::Binary(content.to_vec())).with_path_parameters(parameters);
    Ok(match query {
        Some(query) => request.with_query_string_parameters(query),
        None => request,
    })
}

fn write(response: Response<Body>) -> HttpResponse {
    response.map(|content| match content {
        Body::Text(text) => HttpBody::from(text),
        Body::Binary(bytes) => HttpBody::from(bytes),
        _ => HttpBody::empty(),
    })
}
