//! A small HTTP client for the tests: JSON in, JSON out.

use serde_json::Value;

/// See [`client`].
pub(crate) struct Http(reqwest::Client);

/// A client without proxies, with a generous time-out.
pub(crate) fn client() -> Http {
    Http(plain())
}

/// The same, bare.
pub(crate) fn plain() -> reqwest::Client {
    let _second_time = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().timeout(super::PATIENCE);
    builder.build().expect("an HTTP client")
}

impl Http {
    /// POSTs a body as JSON; answers status and body (null when it is not JSON).
    pub(crate) async fn post(&self, url: &str, token: Option<&str>, body: &str) -> (u16, Value) {
        self.send(
            self.0.post(url).header("content-type", "application/json").body(body.to_owned()),
            token,
        )
        .await
    }

    /// POSTs without a body.
    pub(crate) async fn post_empty(&self, url: &str, token: &str) -> (u16, Value) {
        self.send(self.0.post(url), Some(token)).await
    }

    /// GETs; answers status and body.
    pub(crate) async fn get(&self, url: &str, token: Option<&str>) -> (u16, Value) {
        self.send(self.0.get(url), token).await
    }

    /// GETs a text, without a token.
    pub(crate) async fn text(&self, url: &str) -> String {
        self.0.get(url).send().await.expect("an answer").text().await.expect("a body")
    }

    async fn send(
        &self,
        mut request: reqwest::RequestBuilder,
        token: Option<&str>,
    ) -> (u16, Value) {
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}
