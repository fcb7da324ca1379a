//! Links between documents: relative ones must lead to a file, and to a heading in it.

use std::fs;
use std::path::Path;

/// The links of a document that lead nowhere.
pub fn dead(root: &Path, document: &str, text: &str) -> Vec<String> {
    let folder = Path::new(document).parent().unwrap_or(Path::new(""));
    let mut dead = Vec::new();
    for (number, link) in links(text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
        let target =
            if file.is_empty() { root.join(document) } else { root.join(folder).join(file) };
        if !target.exists() {
            dead.push(format!("{document}:{number}: {link} is not there"));
        } else if !heading.is_empty() && target.extension().is_some_and(|e| e == "md") {
            let target_text = fs::read_to_string(&target).unwrap_or_default();
            if !target_text.lines().any(|line| line.starts_with('#') && anchor(line) == heading) {
                dead.push(format!("{document}:{number}: {link}: no such heading"));
            }
        }
    }
    dead
}

/// The targets of `[words](target)` outside code, with their line numbers.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // What stands between single backticks is code as well: every second part.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        let mut rest = prose.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find(')') else { break };
            found.push((number, rest[..end].to_owned()));
        }
    }
    found
}

/// The anchor of a heading, as forges make it.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_')
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_outside_code_are_read() {
        let text = "see [a](b.md) and `[x](y)`\n```\n[c](d)\n```\n[e](#f-g)";
        assert_eq!(links(text), [(1, "b.md".to_owned()), (5, "#f-g".to_owned())]);
    }

    #[test]
    fn headings_become_anchors() {
        assert_eq!(anchor("## One read, from wire to disk"), "one-read-from-wire-to-disk");
    }
}
