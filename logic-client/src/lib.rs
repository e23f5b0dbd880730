//! What a logic service links.
