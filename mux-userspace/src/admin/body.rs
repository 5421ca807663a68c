//! Answers. Until its reader has taken it an answer takes memory, so that all together may have
//! only so much; the reader can be as slow as a connection may last.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Given to the connection at once; it asks for more when that is nearly written.
const CHUNK: usize = 16 * 1024;
/// Answers that wait for their readers, all together, KiB.
const BUDGET_KIB: usize = 32 * 1024;

/// An answer's text.
#[derive(Debug, Default)]
pub(super) struct Body {
    rest: Bytes,
    paid: Option<OwnedSemaphorePermit>,
}

/// How much memory answers may take.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_KIB)))
    }
}

impl Budget {
    /// Charges an answer, for as long as some of it is not taken; beyond the budget there is
    /// another answer in its place.
    pub(super) fn charge(&self, mut answer: Response<Body>) -> Response<Body> {
        let kib = answer.body().rest.len().div_ceil(1024);
        let paid = u32::try_from(kib)
            .ok()
            .and_then(|kib| Arc::clone(&self.0).try_acquire_many_owned(kib).ok());
        if paid.is_none() {
            let why = "too many answers wait for their readers\n";
            return text(StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
        }
        answer.body_mut().paid = paid;
        answer
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(CHUNK);
        let chunk = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// An answer in words.
pub(super) fn text(status: StatusCode, text: String) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", text.into())
}

/// An answer for programs.
pub(super) fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            answer(StatusCode::OK, "application/json", bytes.into())
        }
        // Structures of numbers, strings and string-keyed maps: it cannot fail.
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// An answer of this type.
pub(super) fn answer(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body { rest: bytes, paid: None });
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    // What it says is of this moment.
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_whole_and_its_memory_is_given_back() {
        let budget = Budget::default();
        let long = "x".repeat(100 * 1024 + 1);
        let answer = budget.charge(text(StatusCode::OK, long.clone()));
        assert_eq!(budget.0.available_permits(), BUDGET_KIB - 101);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), long);
        assert_eq!(budget.0.available_permits(), BUDGET_KIB);
    }

    #[test]
    fn beyond_the_budget_there_is_another_answer() {
        let budget = Budget::default();
        let held = budget.charge(text(StatusCode::OK, "x".repeat((BUDGET_KIB - 1) * 1024)));
        let refused = budget.charge(text(StatusCode::OK, "x".repeat(1025)));
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(held);
        assert_eq!(budget.charge(text(StatusCode::OK, "x".repeat(1025))).status(), StatusCode::OK);
    }
}
