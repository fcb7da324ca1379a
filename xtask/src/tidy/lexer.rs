//! Rust source without its comments and literals, so that a word in a string is not taken for code.

/// The code with every comment, string and character literal blanked; line ends stay where they are.
pub fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            out.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none starts there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + quoted(rest, b'"'),
        [b'r', b'"' | b'#', ..]
            if !word_before || bytes[at - 1] == b'b' || bytes[at - 1] == b'c' =>
        {
            at + raw_string(rest)
        }
        [b'\'', b'\\', ..] => at + quoted(rest, b'\''),
        // A lifetime has no closing quote within the four bytes that a character can have.
        [b'\'', ..] => match rest.iter().skip(2).take(4).position(|b| *b == b'\'') {
            Some(gap)
                if std::str::from_utf8(&rest[1..gap + 2]).is_ok_and(|s| s.chars().count() == 1) =>
            {
                at + gap + 3
            }
            _ => at,
        },
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut i) = (0_usize, 0);
    while i < rest.len() {
        match &rest[i..] {
            [b'/', b'*', ..] => (depth, i) = (depth + 1, i + 2),
            [b'*', b'/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            b'\\' => i += 2,
            b if b == quote => return i + 1,
            _ => i += 1,
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#`; 0 for a raw identifier such as `r#type`.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let closing: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let start = 2 + hashes;
    let found = rest[start..].windows(closing.len()).position(|w| w == closing);
    found.map_or(rest.len(), |i| start + i + closing.len())
}

/// Byte offsets at which a word stands in code, whole.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).and_then(|i| code.as_bytes().get(i));
        !part(before) && !part(code.as_bytes().get(at + word.len()))
    })
}

/// The number of the line, from 1, that a byte offset lies in.
pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
}

/// Every function of the code: its name, first line and number of lines, from `fn` to its closing brace.
pub fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let rest = code[at + 2..].trim_start();
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            continue;
        }
        if let Some(end) = body_end(code, at) {
            let first = line_of(code, at);
            found.push((name, first, line_of(code, end) - first + 1));
        }
    }
    found
}

/// Where the body of the function that starts at `at` closes; nothing for a declaration without a body.
fn body_end(code: &str, at: usize) -> Option<usize> {
    let (mut braces, mut nested) = (0_usize, 0_usize);
    for (i, b) in code.bytes().enumerate().skip(at) {
        match b {
            b'(' | b'[' if braces == 0 => nested += 1,
            b')' | b']' if braces == 0 => nested = nested.checked_sub(1)?,
            b';' if braces == 0 && nested == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 && nested == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_vanish_and_code_stays() {
        let source = "let a = \"x } unsafe\"; // unsafe\nlet b = 'u'; /* a /* b */ c */ let c: &'a str = r#\"q\"u\"#;\n";
        let code = code_only(source);
        assert!(!code.contains("unsafe") && !code.contains('}'), "{code}");
        assert!(code.contains("let c: &'a str ="), "{code}");
        assert_eq!(code.len(), source.len());
        assert_eq!(
            code_only("let s = '\\''; let t = b'\"'; f()").trim_end(),
            "let s =     ; let t = b   ; f()"
        );
        assert_eq!(code_only("let r#type = 1;"), "let r#type = 1;");
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let code =
            "fn a() {\n}\ntrait T {\n fn b(&self);\n fn c(x: [u8; 2]) -> [u8; 2] {\n x\n }\n}\n";
        let found = functions(code);
        assert_eq!(found, [("a".to_owned(), 1, 2), ("c".to_owned(), 5, 3)]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(words("unsafe_code unsafe {}", "unsafe").collect::<Vec<_>>(), [12]);
    }
}
