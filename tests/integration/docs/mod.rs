//! What the documentation says is so: links lead somewhere, commands print what the pages say, rules
//! files pass the check, and the references name what there is.
//!
//! A fenced block says by its first line how it is tested (`page` has the forms); one that does not
//! say is a failure.

mod links;
mod marks;
mod others;
mod page;
mod references;
mod rules;
mod same;
mod sessions;
