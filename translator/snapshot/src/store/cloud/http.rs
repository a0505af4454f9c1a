//! The HTTP client of buckets: asks caches on the way to look again where an object may have changed.

use async_trait::async_trait;
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// Marks a get whose answer must come from the store itself, a "not found" too.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Fresh;

/// Makes clients that carry [`Fresh`] out.
#[derive(Debug, Default)]
pub(super) struct Connector(ReqwestConnector);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Client(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct Client(HttpClient);

#[async_trait]
impl HttpService for Client {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.extensions().get::<Fresh>().is_some() {
            // Not among the headers that clouds have signed: it may be added at the end.
            request.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        self.0.execute(request).await
    }
}
