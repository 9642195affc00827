//! Building HTML and SVG without a way to forget escaping.
//!
//! Markup is what the program's text says (`&'static str`); everything else goes through [`Markup::text`] or
//! [`Markup::attribute`], which escape it. Names come from model files, which nobody vouches for.

use crate::error::Escaped;

/// A piece of markup.
#[derive(Clone, Debug, Default)]
pub(super) struct Markup(String);

impl Markup {
    pub fn new() -> Self {
        Markup::default()
    }

    /// Markup of our own.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text between tags, or within the quotes of an attribute.
    pub fn text(&mut self, text: &str) -> &mut Self {
        for c in Escaped(text).to_string().chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Not allowed in XML, not even as references.
                '\u{fffe}' | '\u{ffff}' => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        self
    }

    /// A length, place or other number, to a tenth.
    pub fn number(&mut self, value: f64) -> &mut Self {
        let text = format!("{value:.1}");
        self.0.push_str(text.strip_suffix(".0").unwrap_or(&text));
        self
    }

    /// ` name="value"`.
    pub fn attribute(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.raw(" ").raw(name).raw("=\"").text(value).raw("\"")
    }

    /// ` name="12.5"`.
    pub fn place(&mut self, name: &'static str, value: f64) -> &mut Self {
        self.raw(" ").raw(name).raw("=\"").number(value).raw("\"")
    }

    /// `<tag>text</tag>`, of a tag without attributes.
    pub fn element(&mut self, tag: &'static str, text: &str) -> &mut Self {
        self.raw("<").raw(tag).raw(">").text(text).raw("</").raw(tag).raw(">")
    }

    pub fn append(&mut self, other: Markup) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let mut markup = Markup::new();
        markup
            .raw("<p")
            .attribute("title", "a\"><script>")
            .raw(">")
            .text("</p>&amp;\u{202e}'\x1b\n\u{ffff}")
            .raw("</p>");
        let expected = "<p title=\"a&quot;&gt;&lt;script&gt;\">&lt;/p&gt;&amp;amp;\\u{202e}&#39;\\u{1b}\\n\u{fffd}</p>";
        assert_eq!(markup.finish(), expected);
    }
}
