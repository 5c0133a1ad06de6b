//! The project's files, and Rust text without its comments and strings.

use std::path::{Path, PathBuf};

/// A text file, its path relative to the project, with `/`.
#[derive(Debug)]
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    #[cfg(test)]
    pub fn new(path: &str, text: &str) -> Self {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    pub fn is(&self, extensions: &[&str]) -> bool {
        let extension = Path::new(&self.path).extension().and_then(|found| found.to_str());
        extensions.iter().any(|wanted| extension == Some(*wanted))
    }

    /// The top-level module: `lane` of `src/lane.rs` and of `src/lane/prepared.rs`; `None` outside `src`.
    pub fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs"))
    }
}

pub fn root() -> PathBuf {
    // As cargo says now, not as it was when this was compiled: checkouts may share a target directory.
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()).into()
}

/// Every text file of the project, sorted by path; what was built or fetched, and data, are left out.
pub fn files() -> Vec<File> {
    let root = root();
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                // A clone's own cargo home may lie in the project (CI caches).
                if !["target", ".git", "data", ".cargo", ".venv", "__pycache__"]
                    .contains(&name.as_str())
                {
                    directories.push(path);
                }
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// `text` with comments and the contents of strings and characters blanked; lines stay where they are.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest, at.checked_sub(1).map(|last| bytes[last])) {
            length
        } else if rest.starts_with('"') {
            quoted(rest, b'"')
        } else if let Some(length) = character(rest) {
            length
        } else {
            let length = rest.chars().next().map_or(1, char::len_utf8);
            out.push_str(&rest[..length]);
            at += length;
            continue;
        };
        // Something must stay between what was before and after, and every line break.
        out.push(' ');
        out.extend(rest[..end].chars().filter(|found| *found == '\n'));
        at += end;
    }
    out
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` at the start of `rest`.
fn raw_string(rest: &str, before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let inside = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - inside.len();
    Some(inside.find(&close).map_or(rest.len(), |found| start + found + close.len()))
}

/// The length of a literal that begins with `quote`, escapes skipped.
fn quoted(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal at the start of `rest`; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    if inside.starts_with('\\') {
        return Some(quoted(rest, b'\''));
    }
    let first = inside.chars().next()?;
    inside[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

/// The byte positions at which `word` stands alone in `text`.
pub fn word_positions<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let alone = |byte: Option<u8>| !byte.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).map(|last| text.as_bytes()[last]);
        alone(before) && alone(text.as_bytes().get(at + word.len()).copied())
    })
}

/// The line of byte position `at`, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[test]
fn comments_strings_and_characters_are_blanked() {
    let rows = [
        ("a // b\nc", "a  \nc"),
        ("a /* b /* c */ d\n */ e", "a  \n e"),
        (r#"f("x \" y", 'z')"#, "f( ,  )"),
        ("f(r#\"x \" y\"#)", "f( )"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        (r"('\'', b'\\', 'ä')", "( , b ,  )"),
        ("for r in x", "for r in x"),
    ];
    for (text, expected) in rows {
        assert_eq!(code_only(text), expected, "{text}");
    }
}
