//! No multiplexer: what there is to lose.

use anyhow::Result;

use super::{Role, Running, Stage, Subject};
use crate::bench::work::Work;

/// Direct access to the server.
pub(super) struct Direct;

impl Subject for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn role(&self) -> Role {
        Role::Direct
    }

    fn about(&self) -> String {
        "no multiplexer: the client connects to the server".to_owned()
    }

    fn hindrance(&self, _: &dyn Work) -> Option<String> {
        None
    }

    fn start(&self, stage: &Stage<'_>) -> Result<Running> {
        Ok(Running { target: stage.backends.direct(stage.service)?, program: None })
    }
}
