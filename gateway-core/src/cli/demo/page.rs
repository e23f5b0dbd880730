//! The demo's page: one document, its style and script inlined, nothing fetched from elsewhere.

use crate::ws::upgrade::Page;

const DOCUMENT: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/app.js");

const STYLE_LINK: &str = r#"<link rel="stylesheet" href="style.css">"#;
const SCRIPT_LINK: &str = r#"<script src="app.js"></script>"#;

/// The page at `/`.
pub(super) fn page() -> Page {
    let document = DOCUMENT
        .replace(STYLE_LINK, &format!("<style>\n{STYLE}</style>"))
        .replace(SCRIPT_LINK, &format!("<script>\n{SCRIPT}</script>"));
    Page {
        path: "/".to_owned(),
        content_type: "text/html; charset=utf-8".to_owned(),
        body: document.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_needs_nothing_from_elsewhere() {
        // A link left in the document would be a second request, which the gateway answers with 404.
        let page = String::from_utf8(page().body.to_vec()).unwrap();
        for element in ["<link rel=\"stylesheet\"", "src=", "@import", "https://"] {
            assert!(!page.contains(element), "{element}");
        }
        assert!(page.contains(STYLE) && page.contains(SCRIPT));
        for id in [
            "name", "join", "room", "message", "send", "messages", "shard", "status",
        ] {
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
    }
}
