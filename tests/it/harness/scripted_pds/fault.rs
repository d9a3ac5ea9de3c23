//! What a scripted server does instead of, or after, its work, and bodies that misbehave.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Interval, interval};

const CHUNK: &[u8] = &[b' '; 64 * 1_024];

/// One call's misfortune.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This answer, and nothing is spent.
    Answer { status: u16, body: String, headers: Vec<(&'static str, String)> },
    /// The connection closes before anything is spent.
    DropBefore,
    /// The token is spent, and the connection closes without an answer.
    DropAfter,
    /// No answer ever, and nothing is spent.
    Hang,
    /// The token is spent, and no answer ever comes.
    HangAfter,
    /// A 200 whose body comes a byte at a time; nothing is spent.
    SlowLoris,
    /// A 200 of 10 MB, announced as such; nothing is spent.
    Huge,
    /// A 200 with so many blanks whose length is not announced; nothing is spent.
    Chunked(usize),
    /// The token is spent, and the answer names somebody else.
    WrongDid,
}

impl Fault {
    /// An XRPC error, or whatever `body` is.
    pub(crate) fn answer(status: u16, body: &str) -> Self {
        Self::Answer { status, body: body.to_owned(), headers: Vec::new() }
    }

    /// A captive portal's or a proxy's page.
    pub(crate) fn html(status: u16) -> Self {
        Self::answer(status, "<html><body>Bad gateway</body></html>")
            .with_header("content-type", "text/html")
    }

    /// 429, for so many seconds.
    pub(crate) fn rate_limited(seconds: u64) -> Self {
        Self::answer(429, r#"{"error":"RateLimitExceeded","message":"Rate Limit Exceeded"}"#)
            .with_header("retry-after", &seconds.to_string())
    }

    /// Only of [`Fault::Answer`].
    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

pub(crate) enum Answer {
    Text(Option<Bytes>),
    Drip(Interval),
    Chunked(usize),
}

impl Answer {
    pub(crate) fn text(text: String) -> Self {
        Self::Text(Some(text.into()))
    }

    pub(crate) fn drip() -> Self {
        Self::Drip(interval(Duration::from_millis(50)))
    }

    pub(crate) fn chunked(length: usize) -> Self {
        Self::Chunked(length)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Text(text) => text.take(),
            Self::Chunked(left) => {
                let length = (*left).min(CHUNK.len());
                *left -= length;
                (length > 0).then(|| Bytes::from_static(CHUNK).slice(..length))
            }
            Self::Drip(pace) => {
                std::task::ready!(pace.poll_tick(context));
                Some(Bytes::from_static(b" "))
            }
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Text(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => {
                let length = text.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap())
            }
            Self::Drip(_) | Self::Chunked(_) => SizeHint::default(),
        }
    }
}
