//! Icons of lines: a guest's SVG is read, judged, and written anew from what is known to be harmless.
//!
//! What acts (scripts, events, animations), brings in foreign content, or refers to anything outside the
//! file refuses it; what only an editor needs is left out. Whoever shows the icon reads our text, in one
//! encoding, without declarations and comments, so that no two readers see two things in it.

use super::{limits, picture};
use crate::untrusted::Untrusted;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use roxmltree::{Attribute, Document, Node, ParsingOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Elements within each other, and nodes in all.
const DEPTH: usize = 64;
const NODES: u32 = 20_000;
/// What is drawn, with each use of a part counted as often as it is drawn.
const DRAWN: usize = 50_000;
/// References within references.
const CHAIN: usize = 16;
/// Pictures within it, which take the longest to judge.
const PICTURES: usize = 4;

const SVG: &str = "http://www.w3.org/2000/svg";
const XLINK: &str = "http://www.w3.org/1999/xlink";
/// Stands in each as an attribute, so that our files are known.
pub(super) const MARK: &str = "data-from=\"macrohard-hypervisor\"";

/// Elements that draw, or say how.
const ELEMENTS: &str = " svg g defs symbol use switch path rect circle ellipse line polyline polygon text tspan \
textPath image style marker linearGradient radialGradient stop pattern clipPath mask filter feBlend \
feColorMatrix feComponentTransfer feComposite feConvolveMatrix feDiffuseLighting feDisplacementMap feDistantLight \
feDropShadow feFlood feFuncA feFuncB feFuncG feFuncR feGaussianBlur feImage feMerge feMergeNode feMorphology \
feOffset fePointLight feSpecularLighting feSpotLight feTile feTurbulence ";
/// Elements that only tell something.
const TOLD: &str = " title desc metadata ";

/// Parts of CSS that bring something in, in small letters; `url(` is judged by what it names.
const BRINGS_IN: [&str; 8] = [
    "image(",
    "image-set(",
    "src(",
    "element(",
    "expression(",
    "cross-fade(",
    "-moz-binding",
    "behavior",
];

/// An SVG that is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrawingProblem {
    /// Too many bytes.
    #[error("the SVG has {0} bytes; allowed: {most}", most = limits::DRAWING)]
    Long(usize),
    /// Not an SVG, or with declarations that it may not have.
    #[error("the SVG cannot be read")]
    Broken,
    /// Too deep.
    #[error("the SVG has elements more than {DEPTH} deep")]
    Deep,
    /// It would take too long to draw.
    #[error("the SVG draws more than {DRAWN} elements, or itself")]
    Bomb,
    /// An element that acts or that is not known.
    #[error("the SVG has an element that is not for drawing")]
    Element,
    /// An attribute that acts.
    #[error("the SVG has an attribute that acts")]
    Event,
    /// Something from outside the file.
    #[error("the SVG refers to something outside itself")]
    Outside,
    /// A style that does more than setting properties.
    #[error("the SVG has a style that does more than setting properties")]
    Style,
    /// A picture within it breaks a limit, or there are too many.
    #[error("the SVG contains a picture that cannot be used, or more than {PICTURES}")]
    Picture,
}

/// The icon in a guest's SVG, as text of our own.
///
/// # Errors
/// It breaks a limit, cannot be read, or is more than a drawing.
pub fn check(bytes: Untrusted<Vec<u8>>) -> Result<String, DrawingProblem> {
    bytes.check(|bytes| {
        if bytes.len() > limits::DRAWING {
            return Err(DrawingProblem::Long(bytes.len()));
        }
        let text = str::from_utf8(&bytes).map_err(|_| DrawingProblem::Broken)?;
        let options =
            ParsingOptions { allow_dtd: false, nodes_limit: NODES, ..ParsingOptions::default() };
        let document =
            Document::parse_with_options(text, options).map_err(|_| DrawingProblem::Broken)?;
        let root = document.root_element();
        if !root.has_tag_name((SVG, "svg")) {
            return Err(DrawingProblem::Broken);
        }
        check_depth(root)?;
        Weights::of(&document).weigh(root, 0)?;
        let mut writer = Writer { text: String::new(), pictures: 0 };
        writer.element(root, true)?;
        Ok(writer.text)
    })
}

/// Without recursion: that is what it makes safe.
fn check_depth(root: Node<'_, '_>) -> Result<(), DrawingProblem> {
    let mut waiting = vec![(root, 1)];
    while let Some((node, depth)) = waiting.pop() {
        if depth > DEPTH {
            return Err(DrawingProblem::Deep);
        }
        waiting.extend(node.children().filter(Node::is_element).map(|child| (child, depth + 1)));
    }
    Ok(())
}

/// The text under the way.
struct Writer {
    text: String,
    pictures: usize,
}

impl Writer {
    fn element(&mut self, node: Node<'_, '_>, root: bool) -> Result<(), DrawingProblem> {
        let name = node.tag_name().name();
        self.text.push_str(&format!("<{name}"));
        if root {
            self.text.push_str(&format!(" xmlns=\"{SVG}\" xmlns:xlink=\"{XLINK}\" {MARK}"));
        }
        for attribute in node.attributes() {
            self.attribute(&attribute)?;
        }
        self.text.push('>');
        if name == "style" {
            if node.children().any(|child| child.is_element()) {
                return Err(DrawingProblem::Style);
            }
            check_style(&text_of(node))?;
        }
        for child in node.children() {
            if let Some(text) = child.text().filter(|_| child.is_text()) {
                self.escaped(text, false);
            } else if child.is_element() && is_drawn(child)? {
                self.element(child, false)?;
            }
        }
        self.text.push_str(&format!("</{name}>"));
        Ok(())
    }

    fn attribute(&mut self, attribute: &Attribute<'_, '_>) -> Result<(), DrawingProblem> {
        let (name, value) = (attribute.name(), attribute.value());
        let written = match attribute.namespace() {
            None => name.to_owned(),
            Some(XLINK) if name == "href" => "xlink:href".to_owned(),
            Some("http://www.w3.org/XML/1998/namespace") if name == "space" => {
                "xml:space".to_owned()
            }
            // An editor's.
            Some(_) => return Ok(()),
        };
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("on") {
            return Err(DrawingProblem::Event);
        }
        if !name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
            || matches!(lower.as_str(), "src" | "base" | "data-from" | "xmlns")
        {
            return Ok(());
        }
        if lower == "href" {
            let value = self.reference(value)?;
            self.text.push_str(&format!(" {written}=\""));
            self.escaped(&value, true);
        } else {
            check_css(value)?;
            self.text.push_str(&format!(" {written}=\""));
            self.escaped(value, true);
        }
        self.text.push('"');
        Ok(())
    }

    /// What `href` may name: a part of the file, or a picture within it, which is encoded anew.
    fn reference(&mut self, value: &str) -> Result<String, DrawingProblem> {
        let value = value.trim();
        if value.starts_with('#') {
            return Ok(value.to_owned());
        }
        let data = value.strip_prefix("data:image/png;base64,").ok_or(DrawingProblem::Outside)?;
        self.pictures += 1;
        if self.pictures > PICTURES {
            return Err(DrawingProblem::Picture);
        }
        let data: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let png = BASE64.decode(data).map_err(|_| DrawingProblem::Picture)?;
        let picture = picture::check(Untrusted::new(png)).map_err(|_| DrawingProblem::Picture)?;
        Ok(format!("data:image/png;base64,{}", BASE64.encode(picture.png)))
    }

    fn escaped(&mut self, text: &str, attribute: bool) {
        for c in text.chars() {
            match c {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '"' => self.text.push_str("&quot;"),
                // As themselves they would be read as others (XML 1.0 2.11 and 3.3.3).
                '\r' => self.text.push_str("&#13;"),
                '\n' if attribute => self.text.push_str("&#10;"),
                '\t' if attribute => self.text.push_str("&#9;"),
                c => self.text.push(c),
            }
        }
    }
}

/// Whether an element is kept or left out.
fn is_drawn(node: Node<'_, '_>) -> Result<bool, DrawingProblem> {
    let name = node.tag_name();
    if name.namespace() != Some(SVG) {
        // An editor's; a namespace of no name at all would be read as SVG by some.
        let named = name.namespace().is_some_and(|namespace| !namespace.is_empty());
        return if named { Ok(false) } else { Err(DrawingProblem::Element) };
    }
    let among = |list: &str| list.contains(&format!(" {} ", name.name()));
    match (among(ELEMENTS), among(TOLD)) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(DrawingProblem::Element),
    }
}

fn text_of(node: Node<'_, '_>) -> String {
    node.children().filter(Node::is_text).filter_map(|child| child.text()).collect()
}

/// A property, in an attribute or a style.
fn check_css(value: &str) -> Result<(), DrawingProblem> {
    // A backslash writes letters in another way, a comment parts them.
    if value.contains('\\') || value.contains("/*") {
        return Err(DrawingProblem::Style);
    }
    let lower = value.to_ascii_lowercase();
    if BRINGS_IN.iter().any(|part| lower.contains(part)) {
        return Err(DrawingProblem::Style);
    }
    let named =
        |part: &str| part.trim_start_matches([' ', '\t', '\n', '\r', '"', '\'']).starts_with('#');
    if lower.split("url(").skip(1).all(named) { Ok(()) } else { Err(DrawingProblem::Outside) }
}

fn check_style(style: &str) -> Result<(), DrawingProblem> {
    if style.contains('@') {
        return Err(DrawingProblem::Style);
    }
    check_css(style)
}

/// How much each element has drawn.
struct Weights<'a, 'input> {
    /// An id that stands twice is what either has.
    named: BTreeMap<&'a str, Vec<Node<'a, 'input>>>,
    /// Ids named in style sheets: any element may have them drawn.
    styled: Rc<[String]>,
    known: BTreeMap<u32, Option<usize>>,
}

/// The sum, unless it is too much to draw.
fn within(weight: usize, more: usize) -> Result<usize, DrawingProblem> {
    Some(weight.saturating_add(more)).filter(|sum| *sum <= DRAWN).ok_or(DrawingProblem::Bomb)
}

impl<'a, 'input> Weights<'a, 'input> {
    fn of(document: &'a Document<'input>) -> Self {
        let mut named: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut styled = BTreeSet::new();
        for node in document.descendants().filter(Node::is_element) {
            if let Some(id) = node.attribute("id") {
                named.entry(id).or_default().push(node);
            }
            if node.tag_name().name() == "style" {
                styled.extend(ids_in(&text_of(node)));
            }
        }
        // Colours begin so, too.
        styled.retain(|id| {
            let targets = named.get(id.as_str()).map(|nodes| &nodes[..]).unwrap_or_default();
            targets.iter().any(|node| !is_paint(*node))
        });
        Self { named, styled: styled.into_iter().collect(), known: BTreeMap::new() }
    }

    fn weigh(&mut self, node: Node<'a, 'input>, chain: usize) -> Result<usize, DrawingProblem> {
        // What it refers to is no drawing, either.
        if is_paint(node) {
            return Ok(1);
        }
        match self.known.get(&node.id().get()) {
            Some(Some(weight)) => return Ok(*weight),
            // It is within itself.
            Some(None) => return Err(DrawingProblem::Bomb),
            None => {}
        }
        if chain > CHAIN {
            return Err(DrawingProblem::Bomb);
        }
        self.known.insert(node.id().get(), None);
        let mut weight = 1_usize;
        for child in node.children().filter(Node::is_element) {
            weight = within(weight, self.weigh(child, chain)?)?;
        }
        let draws = !matches!(node.tag_name().name(), "svg" | "defs" | "style" | "symbol");
        let styled = if draws { Rc::clone(&self.styled) } else { Rc::default() };
        let references = references(node);
        for target in references.iter().chain(styled.iter()) {
            for target in self.named.get(target.as_str()).cloned().unwrap_or_default() {
                weight = within(weight, self.weigh(target, chain + 1)?)?;
            }
        }
        self.known.insert(node.id().get(), Some(weight));
        Ok(weight)
    }
}

/// A colour that changes from place to place, or a part of it.
fn is_paint(node: Node<'_, '_>) -> bool {
    matches!(node.tag_name().name(), "linearGradient" | "radialGradient" | "stop")
}

/// Ids that an element names.
fn references(node: Node<'_, '_>) -> Vec<String> {
    node.attributes().flat_map(|attribute| ids_in(attribute.value())).collect()
}

/// What stands behind each `#`.
fn ids_in(value: &str) -> impl Iterator<Item = String> {
    value.split('#').skip(1).map(|part| {
        let end = |c: char| c.is_whitespace() || matches!(c, ')' | '"' | '\'' | ';' | '}');
        part.split(end).next().unwrap_or_default().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<String, DrawingProblem> {
        check(Untrusted::new(text.as_bytes().to_vec()))
    }

    /// A drawing with `inside`.
    fn svg(inside: &str) -> String {
        format!(
            "<svg xmlns=\"{SVG}\" xmlns:xlink=\"{XLINK}\" width=\"16\" height=\"16\">{inside}</svg>"
        )
    }

    #[test]
    fn a_drawing_is_written_anew_without_what_only_an_editor_needs() {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-7\"?><!-- by hand --><s:svg xmlns:s=\"{SVG}\" \
             xmlns:i=\"http://www.inkscape.org/\" i:version=\"1\" viewBox=\"0 0 1 1\"><i:view a=\"b\"/>\
             <s:title>T</s:title><s:defs><s:linearGradient id=\"g\"/></s:defs>\
             <s:path d=\"M0 0\" style=\"fill:url(#g)\"/><s:text>a &amp; &lt;b&gt;</s:text></s:svg>"
        );
        assert_eq!(
            checked(&text).unwrap(),
            format!(
                "<svg xmlns=\"{SVG}\" xmlns:xlink=\"{XLINK}\" {MARK} viewBox=\"0 0 1 1\"><defs>\
                 <linearGradient id=\"g\"></linearGradient></defs><path d=\"M0 0\" style=\"fill:url(#g)\">\
                 </path><text>a &amp; &lt;b&gt;</text></svg>"
            )
        );
    }

    #[test]
    fn what_was_written_is_taken_again_as_it_is() {
        let once = checked(&svg(
            "<style>.a{fill:red}</style><g id=\"a\"><rect class=\"a&#10;b&#13;&#9;\"/></g>\
             <text>&#13;\n</text><use xlink:href=\"#a\"/>",
        ));
        let once = once.unwrap();
        assert_eq!(checked(&once), Ok(once));
    }

    #[test]
    fn colours_of_a_style_sheet_are_no_bomb() {
        let stops = "<stop/>".repeat(50);
        let gradient = format!("<linearGradient id=\"a\">{stops}</linearGradient>");
        let more = "<radialGradient id=\"b\" xlink:href=\"#a\"/><rect class=\"x\"/>".repeat(500);
        let style = "<style>.x{fill:url(#b);stroke:#fff}</style>";
        assert!(checked(&svg(&format!("{style}{gradient}{more}"))).is_ok());
    }

    #[test]
    fn what_acts_or_comes_from_outside_refuses_the_drawing() {
        use DrawingProblem::{Element, Event, Outside, Picture, Style};
        for (inside, problem) in [
            ("<script>alert(1)</script>", Element),
            ("<foreignObject/>", Element),
            ("<animate attributeName=\"href\"/>", Element),
            ("<set attributeName=\"href\" to=\"http://x\"/>", Element),
            ("<a xlink:href=\"http://x\"/>", Element),
            ("<script xmlns=\"\"/>", Element),
            ("<g><g><Script/></g></g>", Element),
            ("<rect onload=\"x()\"/>", Event),
            ("<rect ONCLICK=\"x()\"/>", Event),
            ("<image xlink:href=\"http://x/y.png\"/>", Outside),
            ("<image href=\"file:///etc/passwd\"/>", Outside),
            ("<image href=\"y.png\"/>", Outside),
            ("<use href=\" other.svg#a\"/>", Outside),
            ("<image href=\"data:image/svg+xml;base64,PHN2Zy8+\"/>", Outside),
            ("<image href=\"DATA:text/html,x\"/>", Outside),
            ("<image href=\"data:image/png;base64,bm90IGEgcG5n\"/>", Picture),
            ("<image href=\"data:image/png;base64,%%%\"/>", Picture),
            ("<rect fill=\"url(http://x)\"/>", Outside),
            ("<rect style=\"fill:URL( 'http://x')\"/>", Outside),
            ("<rect style=\"fill:url(#a) url(x)\"/>", Outside),
            ("<rect style=\"fill:u\\72l(http://x)\"/>", Style),
            ("<rect style=\"fill:ur/**/l(http://x)\"/>", Style),
            ("<style>@import 'http://x';</style>", Style),
            ("<style>@font-face{src:url(#a)}</style>", Style),
            ("<style><text>@import url(http://x)</text></style>", Style),
            ("<style>a{fill:url(x)}</style>", Outside),
            ("<style>a{fill:image-set('x' 1x)}</style>", Style),
        ] {
            assert_eq!(checked(&svg(inside)), Err(problem), "{inside}");
        }
    }

    #[test]
    fn a_picture_within_is_encoded_anew() {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 16, 16);
        encoder.set_color(png::ColorType::Rgba);
        encoder.add_text_chunk("Comment".into(), "hidden".into()).unwrap();
        encoder.write_header().unwrap().write_image_data(&[1; 16 * 16 * 4]).unwrap();
        let inside = format!("<image href=\"data:image/png;base64,{}\"/>", BASE64.encode(&png));
        let text = checked(&svg(&inside)).unwrap();
        let data = text.split("base64,").nth(1).unwrap().split('"').next().unwrap();
        let again = BASE64.decode(data).unwrap();
        assert!(!again.windows(6).any(|part| part == b"hidden"));
        assert_eq!(picture::check(Untrusted::new(again)).unwrap().size, 16);
    }

    #[test]
    fn bombs_are_refused() {
        let laughs = "<!DOCTYPE svg [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;\">]>".to_owned();
        assert_eq!(checked(&(laughs + &svg("&b;"))), Err(DrawingProblem::Broken));
        let external = "<!DOCTYPE svg [<!ENTITY a SYSTEM \"file:///etc/passwd\">]>".to_owned();
        assert_eq!(checked(&(external + &svg("&a;"))), Err(DrawingProblem::Broken));
        let deep = svg(&("<g>".repeat(65) + &"</g>".repeat(65)));
        assert_eq!(checked(&deep), Err(DrawingProblem::Deep));
        let deepest = svg(&("<g>".repeat(19_000) + &"</g>".repeat(19_000)));
        assert_eq!(checked(&deepest), Err(DrawingProblem::Deep));
        assert_eq!(checked(&svg(&"<g/>".repeat(20_000))), Err(DrawingProblem::Broken));
        // Each group draws the one before it ten times.
        let uses: String = (1..10)
            .map(|n| {
                let used = format!("<use href=\"#g{}\"/>", n - 1).repeat(10);
                format!("<g id=\"g{n}\">{used}</g>")
            })
            .collect();
        assert_eq!(checked(&svg(&format!("<g id=\"g0\"/>{uses}"))), Err(DrawingProblem::Bomb));
        for within in [
            "<g id=\"a\"><use href=\"#a\"/></g>",
            "<pattern id=\"p\"><rect fill=\"url(#p)\"/></pattern>",
        ] {
            assert_eq!(checked(&svg(within)), Err(DrawingProblem::Bomb));
        }
        // Of two parts with one name it is not the harmless one that is drawn.
        let uses = uses.replace("<g id=\"g1\">", "<g id=\"g1\"/><g id=\"g1\">") + "<g id=\"g9\"/>";
        assert_eq!(checked(&svg(&format!("<g id=\"g0\"/>{uses}"))), Err(DrawingProblem::Bomb));
        let style = "<style>rect{fill:url(#p)}</style><pattern id=\"p\"><rect/></pattern>";
        assert_eq!(checked(&svg(style)), Err(DrawingProblem::Bomb));
        // Each group is drawn with what the style names, which is the same again and again.
        let named = "#a".repeat(20_000);
        let style = format!("<style>{named}</style><symbol id=\"a\"/>{}", "<g/>".repeat(10_000));
        assert!(checked(&svg(&style)).is_ok());
        let names: String = (0..200).map(|n| format!("#s{n}")).collect();
        let symbols: String = (0..200).map(|n| format!("<symbol id=\"s{n}\"/>")).collect();
        let style = format!("<style>{names}</style>{symbols}{}", "<g/>".repeat(10_000));
        assert_eq!(checked(&svg(&style)), Err(DrawingProblem::Bomb));
        let pictures = "<image href=\"data:image/png;base64,\"/>".repeat(5);
        assert_eq!(checked(&svg(&pictures)), Err(DrawingProblem::Picture));
        let long: String =
            (0..1000).map(|n| format!("<g id=\"g{n}\"><use href=\"#g{}\"/></g>", n + 1)).collect();
        assert_eq!(checked(&svg(&long)), Err(DrawingProblem::Bomb));
    }

    #[test]
    fn what_is_no_svg_is_refused() {
        for text in ["", "<svg/>", "<html/>", "<svg xmlns=\"x\"/>", "\u{feff}"] {
            assert_eq!(checked(text), Err(DrawingProblem::Broken), "{text}");
        }
        assert_eq!(check(Untrusted::new(vec![0xff; 9])), Err(DrawingProblem::Broken));
        let long = vec![b' '; (256 << 10) + 1];
        assert!(matches!(check(Untrusted::new(long)), Err(DrawingProblem::Long(_))));
    }
}
