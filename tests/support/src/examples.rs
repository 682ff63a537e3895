//! The worked examples of docs/protocol.md, parsed from the document.

/// One or more bytes of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// This byte.
    Byte(u8),
    /// `??`: a byte with any value.
    Any,
    /// `...`: any bytes up to the end of the frame.
    Rest,
}

/// One or more requests, and the replies to them.
#[derive(Debug, Clone)]
pub struct Example {
    pub name: String,
    pub request: Vec<Token>,
    pub reply: Vec<Token>,
}

/// Every example, in the order of the document.
///
/// # Panics
/// When a block does not have the form that the document describes under "Notation".
pub fn examples() -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    for (kind, text) in blocks("hex") {
        let tokens = text.lines().flat_map(tokens).collect();
        match kind.split_once(' ') {
            Some(("request", name)) => found.push(Example {
                name: name.into(),
                request: tokens,
                reply: Vec::new(),
            }),
            Some(("reply", name)) => {
                let example = found.last_mut().filter(|example| example.name == name);
                example
                    .unwrap_or_else(|| panic!("the reply {name} follows no request {name}"))
                    .reply = tokens;
            }
            _ => panic!("a block of hex is neither a request nor a reply with a name: {kind:?}"),
        }
    }
    assert!(
        found.iter().all(|example| !example.reply.is_empty()),
        "a request has no reply"
    );
    found
}

/// The fenced blocks whose info string begins with `language`: the rest of that string, and the
/// text.
pub fn blocks(language: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let text = document();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if let Some(rest) = info.strip_prefix(language) {
                found.push((rest.trim().to_owned(), body.join("\n")));
            }
        }
    }
    found
}

/// The cells of every table row whose first cell is a number, under the heading `heading`.
pub fn rows(heading: &str) -> Vec<Vec<String>> {
    let numbered = |cells: &Vec<String>| {
        cells
            .first()
            .is_some_and(|cell| cell.parse::<u16>().is_ok())
    };
    all_rows(heading).into_iter().filter(numbered).collect()
}

/// The second cell of the row whose first cell is `name`, in a table of the section `heading`.
pub fn cell(heading: &str, name: &str) -> String {
    let row = all_rows(heading).into_iter().find(|row| row[0] == name);
    row.unwrap_or_else(|| panic!("{heading} has no row {name:?}"))
        .remove(1)
}

fn all_rows(heading: &str) -> Vec<Vec<String>> {
    let text = document();
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .expect("the section");
    let cells = |line: &str| {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    section
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(cells)
        .collect()
}

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    std::fs::read_to_string(path).expect("docs/protocol.md")
}

fn tokens(line: &str) -> Vec<Token> {
    let line = line.trim();
    if let Some(quoted) = line.strip_prefix('"') {
        let (quoted, rest) = quoted.rsplit_once('"').expect("a closing quote");
        assert!(
            rest.is_empty() && quoted.is_ascii() && !quoted.contains('"'),
            "a quoted text stands alone: {line}"
        );
        let text = quoted.replace("\\n", "\n").replace("\\r", "\r");
        return text.bytes().map(Token::Byte).collect();
    }
    let bytes = line
        .split('#')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    bytes
        .map(|token| match token {
            "??" => Token::Any,
            "..." => Token::Rest,
            hex => {
                assert_eq!(hex.len(), 2, "{hex:?} in an example");
                Token::Byte(u8::from_str_radix(hex, 16).expect("two hexadecimal digits"))
            }
        })
        .collect()
}

/// The bytes of `tokens`. The bytes of `filler` replace each [`Token::Any`] in turn.
pub fn fill(tokens: &[Token], filler: [u8; 8]) -> Vec<u8> {
    let mut filler = filler.into_iter().cycle();
    let mut bytes = Vec::new();
    for token in tokens {
        match token {
            Token::Byte(byte) => bytes.push(*byte),
            Token::Any => bytes.extend(filler.next()),
            Token::Rest => {}
        }
    }
    bytes
}
