//! Text into HTML, and nothing else.

use std::path::Path;

/// Text as content or as a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\r' => {}
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// An element with escaped text.
pub(super) fn element(tag: &str, attributes: &str, text: &str) -> String {
    let space = if attributes.is_empty() { "" } else { " " };
    format!("<{tag}{space}{attributes}>{}</{tag}>", escape(text))
}

/// An address of `file` that works from a page in `base`: relative where it lies below, else absolute.
pub(super) fn link(file: &Path, base: &Path) -> String {
    let absolute = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (file, base) = (
        absolute(file),
        absolute(if base.as_os_str().is_empty() {
            Path::new(".")
        } else {
            base
        }),
    );
    match file.strip_prefix(&base) {
        Ok(below) => percent(&below.display().to_string()),
        Err(_) => format!("file://{}", percent(&file.display().to_string())),
    }
}

fn percent(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~/@".contains(&byte);
        if plain {
            out.push(char::from(byte))
        } else {
            out.push_str(&format!("%{byte:02X}"))
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        assert_eq!(
            escape("</pre><script>'\"&\u{1b}"),
            "&lt;/pre&gt;&lt;script&gt;&#39;&quot;&amp;\u{fffd}"
        );
        assert_eq!(percent("a b#c"), "a%20b%23c");
    }
}
