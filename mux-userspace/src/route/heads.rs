//! The heads of some first bytes: parsed when the first rule asks for them, once for all rules.
//!
//! A verdict must not depend on it: what is here is a function of the bytes alone.

use std::{borrow::Cow, cell::OnceCell};

use crate::probe::{
    Verdict, http1, http2,
    tls::{self, ClientHello},
};

/// What some first bytes are to rules about TLS and HTTP.
#[derive(Default)]
pub(super) struct Heads<'a> {
    bytes: &'a [u8],
    hello: OnceCell<Verdict<Hello<'a>>>,
    http1: OnceCell<Verdict<http1::Request<'a>>>,
    http2: OnceCell<Verdict<http2::Request>>,
}

/// A ClientHello that has arrived.
enum Hello<'a> {
    /// In one record. `None`: it is malformed.
    Whole(Option<ClientHello<'a>>),
    /// In several, put together: read anew by whoever asks, since few clients send such.
    InPieces(Vec<u8>),
}

impl<'a> Heads<'a> {
    /// Those of these bytes, unread.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// The bytes.
    pub(super) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows from the ClientHello, once it is there; `None`: it is malformed.
    pub(super) fn hello<T>(
        &self,
        read: impl FnOnce(Option<&ClientHello<'_>>) -> Verdict<T>,
    ) -> Verdict<T> {
        let hello = self.hello.get_or_init(|| {
            tls::message(self.bytes).map(|body| match body {
                Cow::Borrowed(body) => Hello::Whole(ClientHello::parse(body)),
                Cow::Owned(body) => Hello::InPieces(body),
            })
        });
        hello.as_ref().and_then(|hello| match hello {
            Hello::Whole(hello) => read(hello.as_ref()),
            Hello::InPieces(body) => read(ClientHello::parse(body).as_ref()),
        })
    }

    /// The HTTP/1 request, once its first line is there.
    pub(super) fn http1(&self) -> Verdict<&http1::Request<'a>> {
        self.http1.get_or_init(|| http1::request(self.bytes)).as_ref()
    }

    /// The first request over HTTP/2, once its head is there.
    pub(super) fn http2(&self) -> Verdict<&http2::Request> {
        self.http2.get_or_init(|| http2::request(self.bytes)).as_ref()
    }
}
