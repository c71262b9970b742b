//! What keeps a domain from starting, in words for the log.

use alloc::borrow::Cow;
use alloc::string::String;
use core::fmt;

/// Why a domain doesn't start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path of the node.
    pub node: String,
    /// The property, if it is one's fault.
    pub property: Option<String>,
    /// What is wrong with it.
    pub what: Cow<'static, str>,
}

impl Problem {
    /// A property's fault.
    pub fn property(
        node: impl Into<String>,
        property: impl Into<String>,
        what: impl Into<Cow<'static, str>>,
    ) -> Problem {
        Problem { node: node.into(), property: Some(property.into()), what: what.into() }
    }

    /// The node's fault.
    pub fn node(node: impl Into<String>, what: impl Into<Cow<'static, str>>) -> Problem {
        Problem { node: node.into(), property: None, what: what.into() }
    }
}

/// `/chosen/domU1: memory: is missing`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.property {
            Some(property) => write!(f, "{}: {property}: {}", self.node, self.what),
            None => write!(f, "{}: {}", self.node, self.what),
        }
    }
}
